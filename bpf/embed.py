# SPDX-License-Identifier: LGPL-2.1-or-later
"""embed.py OUT.c NAME.bpf.o...: the files as arrays efuse_bpf_NAME and their sizes efuse_bpf_NAME_size."""

import os
import sys

with open(sys.argv[1], "w", encoding="utf-8") as out:
    out.write("#include <stddef.h>\n")
    for path in sys.argv[2:]:
        name = "efuse_bpf_" + os.path.basename(path).split(".")[0]
        with open(path, "rb") as f:
            data = f.read()
        # ELF structures are read in place.
        out.write(f"extern const unsigned char {name}[];\nextern const size_t {name}_size;\n"
                  f"const unsigned char {name}[] __attribute__((aligned(16))) = {{\n")
        for at in range(0, len(data), 24):
            out.write(",".join(map(str, data[at:at + 24])) + ",\n")
        out.write(f"}};\nconst size_t {name}_size = sizeof({name});\n")
