#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""libbpf.py [--fetch]: print where a libbpf is that can load a module's struct_ops, for a Debian whose own cannot.

Such a libbpf (1.4) is in Debian 12's backports. --fetch puts its static library and headers, if the cache has none,
into libbpf-VERSION/{include,lib} of the cache (vmkernel.py says where that is). The machine's apt is only asked:
package lists of the other suite are kept apart, and nothing is installed. Exit status 1: there is none.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

import vmkernel
from vmkernel import KernelError, run

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
    found = [p for p in glob.glob(os.path.join(vmkernel.cache_dir(), "libbpf-*"))
             if os.path.exists(os.path.join(p, ".complete"))]
    return max(found, key=vmkernel.version_key, default=None)


def signed_by(uri):
    """The keyring that the machine's sources name for this address, or None."""
    for path in [*glob.glob("/etc/apt/sources.list.d/*"), "/etc/apt/sources.list"]:
        if not path.endswith((".list", ".sources")) or not os.path.exists(path):
            continue
        with open(path, encoding="utf-8", errors="replace") as f:
            text = re.sub(r"^\s*#.*\n?", "", f.read(), flags=re.M)
        for part in re.split(r"\n\s*\n", text) if path.endswith(".sources") else text.splitlines():
            key = re.search(r"signed-by\s*[:=]\s*(/[^\s\]]+)", part, re.I)
            if key and uri.rstrip("/") in part:
                return key.group(1)
    return None


def archive():
    """Address of the Debian archive that this machine uses, and its release's name."""
    with open("/etc/os-release", encoding="utf-8") as f:
        release = re.search(r"^VERSION_CODENAME=\"?(\w+)", f.read(), re.M)
    codename = release.group(1) if release else "bookworm"
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)",
                  "Created-By: Packages"], "reading apt's sources")
    for line in listed.splitlines():
        uri, *rest = line.split()
        if rest == [codename, "main"]:
            return uri, codename
    raise KernelError(f"apt's sources do not name {codename} main")


def private_apt(root, uri, suite):
    """A configuration of apt, beside the machine's, that knows only this suite."""
    for name in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(root, name))
    key = signed_by(uri)
    with open(os.path.join(root, "sources.list"), "w", encoding="utf-8") as f:
        f.write(f"deb {f'[signed-by={key}] ' if key else ''}{uri} {suite} main\n")
    config = os.path.join(root, "apt.conf")
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"""\
#clear APT::Update;
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{root}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{root}/cache";
Acquire::Languages "none";
""")
        if os.geteuid() == 0:
            f.write('APT::Sandbox::User "root";\n')
    return ["-qq", "-c", config]


def download(root):
    """Fetch the package into `root`: its file and version. The first suite that has one is taken."""
    uri, codename = archive()
    why = ""
    for number, suite in enumerate(s.format(codename) for s in SUITES):
        own = os.path.join(root, str(number))
        os.makedirs(own)
        options = private_apt(own, uri, suite)
        try:
            run(["apt-get", *options, "update"], f"reading {suite}")
            shown = run(["apt-cache", *options, "show", PACKAGE], f"looking for {PACKAGE} in {suite}")
            version = re.search(r"^Version: (?:\d+:)?([\d.]+)", shown, re.M)
            if not version or vmkernel.version_key(version.group(1)) < vmkernel.version_key(WANTED):
                raise KernelError(f"{suite} has no {PACKAGE} of {WANTED} or newer")
            run(["apt-get", *options, "download", PACKAGE], f"fetching {PACKAGE} of {suite}", cwd=own)
            return glob.glob(os.path.join(own, "*.deb"))[0], version.group(1)
        except KernelError as error:
            why += f"\n{error}"
    raise KernelError(why.lstrip())


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
    cache = vmkernel.cache_dir()
    with vmkernel.locked(os.path.join(cache, ".libbpf.lock")):
        if cached():
            return
        with tempfile.TemporaryDirectory(dir=cache, prefix=".libbpf-") as work:
            package, version = download(work)
            unpacked = os.path.join(work, "unpacked")
            run(["dpkg-deb", "-x", package, unpacked], f"unpacking {PACKAGE}")
            prefix = os.path.join(cache, f"libbpf-{version}")
            shutil.rmtree(prefix, ignore_errors=True)
            os.makedirs(os.path.join(prefix, "lib"))
            library = os.path.join(prefix, "lib/libbpf.a")
            shutil.copy(glob.glob(os.path.join(unpacked, "usr/lib/*/libbpf.a"))[0], library)
            shutil.copytree(os.path.join(unpacked, "usr/include"), os.path.join(prefix, "include"))
            make_linkable(library, work)
            with open(os.path.join(prefix, ".complete"), "w", encoding="utf-8"):
                pass
        vmkernel.say(f"libbpf {version} is in {prefix}")


def main():
    if sys.argv[1:] not in ([], ["--fetch"]):
        sys.exit(__doc__.split(":")[0])
    if sys.argv[1:]:
        try:
            fetch()
        except (KernelError, OSError, IndexError, subprocess.SubprocessError) as error:
            sys.exit(f"libbpf.py: {error}")
    prefix = cached()
    if prefix is None:
        sys.exit(1)
    print(prefix)


if __name__ == "__main__":
    main()
