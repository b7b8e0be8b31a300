# SPDX-License-Identifier: LGPL-2.1-or-later
"""A compiler and tools to build modules with for a kernel of a newer Debian than this machine's.

The headers packages bring programs (objtool, modpost, resolve_btfids) that need that Debian's C library, and name its
compiler. Where they do not run here, the packages of that Debian that a module's build needs are unpacked into
build-roots/SUITE-COMPILER of the cache, and lib/in-root runs make in there. Nothing of them is installed.
"""

import glob
import os
import re
import shutil
import subprocess

import debian
from cache import CacheError, cache_dir, locked, say

# What runs in a module's build, besides the compiler, and what the headers' own programs link with.
PACKAGES = ["make", "dash", "bash", "coreutils", "sed", "grep", "findutils", "mawk", "pahole", "libelf1t64",
            "libssl3t64", "zlib1g"]
BULK = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"]
MEGABYTES, UNPACKED_MEGABYTES = 70, 200     # about, for the user to know


def compiler(build):
    """As the headers name it: gcc-14."""
    with open(os.path.join(build, ".kernelvariables"), encoding="utf-8") as f:
        found = re.search(r"^CC\s*[:+]?=.*?\b(gcc-\d+)\s*$", f.read(), re.M)
    if not found:
        raise CacheError(f"{build}/.kernelvariables names no compiler")
    return found.group(1)


def runs_here(kernel_root, build):
    """Whether the headers' programs and compiler are of use on this machine."""
    tools = [p for name in ("scripts/basic/fixdep", "scripts/mod/modpost", "tools/objtool/objtool",
                            "tools/bpf/resolve_btfids/resolve_btfids")
             for p in glob.glob(os.path.join(kernel_root, "usr/lib/linux-kbuild-*", name))]
    linked = subprocess.run(["ldd", *tools], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace", check=False).stdout
    return "not found" not in linked and shutil.which(compiler(build)) is not None


def make(root, suite, cc):
    say(f"making a build root of Debian {suite} with {cc} in {root}: about {MEGABYTES} MB to fetch, "
        f"{UNPACKED_MEGABYTES} MB on disk, a minute; once")
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(os.path.join(root, "mnt"))
    for name in ("bin", "sbin", "lib", "lib64"):    # for packages that still have files there
        os.makedirs(os.path.join(root, "usr", name))
        os.symlink("usr/" + name, os.path.join(root, name))
    with debian.Suites([suite], os.path.dirname(root)) as apt:
        debian.unpack(apt.fetch_with_dependencies([*PACKAGES, cc]), root)
    for name in BULK:
        shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    awk = os.path.join(root, "usr/bin/awk")         # a package's script would have made it
    if not os.path.lexists(awk):
        os.symlink("mawk", awk)
    with open(os.path.join(root, ".complete"), "w", encoding="utf-8"):
        pass


def prepare(suite, kernel_root, build):
    """The build root for that kernel's headers, made if the cache has none; None where this machine's tools do."""
    if runs_here(kernel_root, build):
        return None
    cc = compiler(build)
    roots = os.path.join(cache_dir(), "build-roots")
    root = os.path.join(roots, f"{suite}-{cc}")
    with locked(os.path.join(roots, f".{suite}-{cc}.lock")):
        if not os.path.exists(os.path.join(root, ".complete")):
            make(root, suite, cc)
    return root
