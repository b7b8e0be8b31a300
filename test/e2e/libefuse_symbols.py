#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 240
# quick: yes
"""Every function that libfuse's headers declare for the low-level API is in libefuse: a program that takes the address
of each links with it and nothing else, as C and as C++, with the headers of this machine's libfuse and with those of
3.17, for each version of the API. And what is installed is enough to build and run a filesystem."""

import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
from programs import check, foreign, mounted, until  # noqa: E402

BUILD = os.path.abspath(os.environ.get("EFUSE_BUILD") or os.path.join(programs.TOP, "build"))
HEADERS = ("fuse_lowlevel.h", "fuse_common.h", "fuse_opt.h", "fuse_log.h")
API_VERSIONS = {"here": (30, 32, 35, 312, 314), "3.17": (30, 32, 35, 312, 317)}
LEAST = 70  # functions: fewer, and the headers were not understood


def run(command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **kwargs)
    check(" ".join(command[:3]), done.returncode == 0, done.stdout[-3000:])
    return done.stdout


def declared(folder, api):
    """Functions that the headers declare and do not define."""
    source = "".join(f"#include <{h}>\n" for h in HEADERS)
    text = run(["cc", "-E", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", f"-DFUSE_USE_VERSION={api}", "-I", folder,
                "-x", "c", "-"], input=source)
    lines, current = [], ""
    for line in text.splitlines():
        marker = re.match(r'# \d+ "([^"]+)"', line)
        if marker:
            current = os.path.basename(marker.group(1))
        elif current in HEADERS:
            lines.append(line)
    text = " ".join(lines)
    while "{" in text:
        text = re.sub(r"\{[^{}]*\}", " @ ", text)
    found = set()
    for part in text.split(";"):
        part = part.split("@")[-1]
        # The last name before a parenthesis that is no member's or parameter's: those are in braces or after it.
        match = re.search(r"\b(fuse_\w+)\s*\(", part)
        if match and "static" not in part and "typedef" not in part:
            found.add(match.group(1))
    return sorted(found)


def link(folder, api, work, language):
    names = declared(folder, api)
    check(f"declarations of API {api}", len(names) >= LEAST, str(len(names)))
    code = os.path.join(work, f"all.{'c' if language == 'c' else 'cc'}")
    with open(code, "w", encoding="ascii") as f:
        f.write("#define _GNU_SOURCE\n" if language == "c" else "")
        f.write("".join(f"#include <{h}>\n" for h in HEADERS))
        f.write("typedef void (*any_t)(void);\nany_t all[] = {\n")
        f.write("".join(f"  (any_t){name},\n" for name in names))
        f.write("};\nint main(void) { return 0; }\n")
    run(["cc" if language == "c" else "c++", "-w", "-D_FILE_OFFSET_BITS=64", f"-DFUSE_USE_VERSION={api}", "-I", folder,
         code, "-o", os.path.join(work, "all"), f"-L{BUILD}/runtime", "-lefuse", f"-Wl,-rpath,{BUILD}/runtime",
         "-Wl,--no-undefined"])
    needed = run(["readelf", "-d", os.path.join(work, "all")])
    check("no libfuse", "libfuse3" not in needed and "libefuse" in needed, needed)
    versions = run(["readelf", "-W", "--dyn-syms", os.path.join(work, "all")])
    check("versioned", "fuse_reply_err@EFUSE_0.1" in versions)
    return len(names)


def headers_alone(prefix, flags, work):
    """Every installed header by itself."""
    for name in sorted(os.listdir(os.path.join(prefix, "include/efuse"))):
        if name.endswith(".bpf.h"):
            continue    # for BPF programs, which need the kernel's types first
        for language in ["c++"] + (["c"] if name.endswith(".h") else []):
            standard = ["-std=c++20"] if language == "c++" else []
            run(["cc", "-x", language, *standard, "-fsyntax-only", *flags, "-include", f"efuse/{name}", os.devnull],
                cwd=work)


def installed(work):
    """Install into a folder, build hello_ll against that alone, and use it."""
    root = os.path.join(work, "root")
    run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root])
    found = run(["find", root, "-name", "efuse.pc"]).split()
    check("one efuse.pc", len(found) == 1, str(found))
    prefix = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(found[0]))))
    # The file names where it is going to be; this copy of it names where it is. fuse3.pc stays as it is.
    with open(found[0], encoding="utf-8") as f, open(os.path.join(work, "efuse.pc"), "w", encoding="utf-8") as moved:
        moved.write(re.sub(r"^prefix=.*", f"prefix={prefix}", f.read(), flags=re.M))
    env = {**os.environ, "PKG_CONFIG_PATH": work}
    flags = run(["pkg-config", "--cflags", "efuse"], env=env).split()
    libraries = run(["pkg-config", "--libs", "efuse"], env=env).split()
    check("libraries of efuse.pc", "-lefuse" in libraries and "-lfuse3" not in libraries, str(libraries))
    headers_alone(prefix, flags, work)

    source = foreign.libfuse_source()
    if source is None:
        print("not built against what is installed: libfuse's source is not in the cache")
        return
    libdir = os.path.dirname(run(["find", root, "-name", "libefuse.so"]).split()[0])
    program = os.path.join(work, "hello_ll")
    run(["cc", *flags, os.path.join(source, "example/hello_ll.c"), "-o", program, *libraries, f"-Wl,-rpath,{libdir}"])
    mountpoint = os.path.join(work, "mnt")
    os.mkdir(mountpoint)
    run([program, mountpoint])      # goes into the background
    until("hello_ll is mounted", lambda: mounted(mountpoint))
    with open(os.path.join(mountpoint, "hello"), encoding="ascii") as f:
        check("hello", f.read() == "Hello World!\n")
    run(["fusermount3", "-u", mountpoint])
    efuse = run(["find", root, "-name", "efuse", "-path", "*/bin/*"]).split()[0]
    said = run([efuse, "exec", "--", "/bin/true"])
    check("the installed efuse finds what it preloads", "cannot" not in said and "not installed" not in said, said)


def main():
    here = re.search(r"-I(\S+fuse3)", run(["pkg-config", "--cflags", "fuse3"])).group(1)
    folders = {"here": here, "3.17": foreign.newer_headers() and os.path.join(foreign.newer_headers(), "fuse3")}
    with tempfile.TemporaryDirectory(prefix="efuse-symbols-") as work:
        for name, folder in folders.items():
            if not folder:
                print(f"headers of {name}: not in the cache (scripts/lib/foreign.py --fetch), left out")
                continue
            for api in API_VERSIONS[name]:
                for language in ("c", "c++") if api == API_VERSIONS[name][-1] else ("c",):
                    print(f"headers of {name}, API {api}, {language}: {link(folder, api, work, language)} functions")
        installed(work)


try:
    main()
except programs.Failed as error:
    sys.exit(f"FAILED: {error}")
