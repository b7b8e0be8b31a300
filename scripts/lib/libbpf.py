#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""libbpf.py [--fetch]: print where a libbpf is that can load a module's struct_ops, for a Debian whose own cannot.

Such a libbpf (1.4) is in Debian 12's backports. --fetch puts its static library and headers, if the cache has none,
into libbpf-VERSION/{include,lib} of the cache (cache.py says where that is). The machine's apt is only asked:
package lists of the other suite are kept apart, and nothing is installed. Exit status 1: there is none.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

import debian
from cache import CacheError, cache_dir, locked, run, say, version_key

PACKAGE = "libbpf-dev"
WANTED = "1.4"
# Suites that have it, the one made for this Debian first.
SUITES = ["{}-backports", "trixie"]

# What stops Debian's libbpf.a (compiled for programs, trixie's against a newer C library) from being part of a shared
# library here: it addresses stderr directly, which only works within one program, and names of newer functions.
STDERR = """
#include <stdio.h>
__attribute__((visibility("hidden"))) FILE *efuse_libbpf_stderr;
__attribute__((constructor)) static void init(void) { efuse_libbpf_stderr = stderr; }
"""
RENAME = {"stderr": "efuse_libbpf_stderr", "__isoc23_fscanf": "__isoc99_fscanf", "__isoc23_sscanf": "__isoc99_sscanf",
          "__isoc23_strtol": "strtol", "__isoc23_strtoul": "strtoul", "__isoc23_strtoll": "strtoll",
          "__isoc23_strtoull": "strtoull"}


def cached():
    """The newest complete one of the cache, or None."""
    found = [p for p in glob.glob(os.path.join(cache_dir(), "libbpf-*"))
             if os.path.exists(os.path.join(p, ".complete"))]
    return max(found, key=version_key, default=None)


def download(scratch, into):
    """Unpack the package into `into`; its version. The first suite that has one is taken."""
    why = ""
    for suite in (s.format(debian.codename()) for s in SUITES):
        try:
            with debian.Suites([suite], scratch) as apt:
                version = apt.version(PACKAGE)
                if not version or version_key(version) < version_key(WANTED):
                    raise CacheError(f"{suite} has no {PACKAGE} of {WANTED} or newer")
                debian.unpack(apt.fetch([PACKAGE]), into)
                return version
        except CacheError as error:
            why += f"\n{error}"
    raise CacheError(why.lstrip())


def make_linkable(library, work):
    """Change the library as RENAME says."""
    rename = [f"--redefine-sym={old}={new}" for old, new in RENAME.items()]
    run(["objcopy", *rename, library], "preparing libbpf.a")
    source = os.path.join(work, "libbpf_stderr.c")
    with open(source, "w", encoding="utf-8") as f:
        f.write(STDERR)
    run(["cc", "-O2", "-fPIC", "-c", source, "-o", source[:-1] + "o"], "preparing libbpf.a")
    run(["ar", "r", library, source[:-1] + "o"], "preparing libbpf.a")


def fetch():
    cache = cache_dir()
    with locked(os.path.join(cache, ".libbpf.lock")):
        if cached():
            return
        with tempfile.TemporaryDirectory(dir=cache, prefix=".libbpf-") as work:
            unpacked = os.path.join(work, "unpacked")
            version = download(work, unpacked)
            prefix = os.path.join(cache, f"libbpf-{version}")
            shutil.rmtree(prefix, ignore_errors=True)
            os.makedirs(os.path.join(prefix, "lib"))
            library = os.path.join(prefix, "lib/libbpf.a")
            shutil.copy(glob.glob(os.path.join(unpacked, "usr/lib/*/libbpf.a"))[0], library)
            shutil.copytree(os.path.join(unpacked, "usr/include"), os.path.join(prefix, "include"))
            make_linkable(library, work)
            with open(os.path.join(prefix, ".complete"), "w", encoding="utf-8"):
                pass
        say(f"libbpf {version} is in {prefix}")


def main():
    if sys.argv[1:] not in ([], ["--fetch"]):
        sys.exit(__doc__.split(":")[0])
    if sys.argv[1:]:
        try:
            fetch()
        except (CacheError, OSError, IndexError, subprocess.SubprocessError) as error:
            sys.exit(f"libbpf.py: {error}")
    prefix = cached()
    if prefix is None:
        sys.exit(1)
    print(prefix)


if __name__ == "__main__":
    main()
