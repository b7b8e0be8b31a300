#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""foreign.py [--fetch]: print where the programs and sources are that tests borrow from Debian.

They are packages unpacked into the cache, never installed: openssh-server or moosefs-master would be services then, on
the user's own machine. --fetch puts there what is missing: programs and the libraries that this machine lacks for them
(foreign-CODENAME/root), libfuse's source package (foreign-CODENAME/libfuse) and the headers of libfuse 3.17
(libfuse-headers-3.17). They are linked or copied into foreign/ of the build directory (EFUSE_BUILD), which the test
machine sees, too. Exit status 1: they are not all there; a line for each says which and why.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

import debian
from cache import CacheError, cache_dir, locked, run, say

# Each is fetched with what it depends on and this machine has not installed.
PROGRAMS = ["sshfs", "fuse-overlayfs", "squashfuse", "squashfs-tools", "openssh-server", "openssh-sftp-server",
            "openssh-client", "moosefs-client", "moosefs-master", "moosefs-chunkserver", "attr"]
# Of a Debian that has them; its programs do not run here, its headers can be compiled against.
NEWER = ("trixie", "libfuse3-dev", "libfuse-headers-3.17")


class WithSources(debian.Suites):
    """As Suites, and it knows source packages too."""

    def _configure(self):
        options = super()._configure()
        path = os.path.join(self.root, "sources.list")
        with open(path, encoding="utf-8") as f:
            lines = f.read()
        with open(path, "a", encoding="utf-8") as f:
            f.write(lines.replace("deb ", "deb-src ", 1))
        return options

    def source(self, package, into):
        run(["apt-get", *self.options, "source", "--download-only", package], f"fetching the source of {package}",
            cwd=self.root)
        descriptions = glob.glob(os.path.join(self.root, "*.dsc"))
        if len(descriptions) != 1:
            raise CacheError(f"{self.where}: no source of {package}")
        run(["dpkg-source", "--no-check", "-x", descriptions[0], into], f"unpacking the source of {package}")


TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def here(name=None):
    return os.path.join(cache_dir(), name or "foreign-" + debian.codename())


def in_build(name):
    return os.path.join(os.path.abspath(os.environ.get("EFUSE_BUILD") or os.path.join(TOP, "build")), "foreign", name)


def complete(path):
    return os.path.exists(os.path.join(path, ".complete"))


def programs():
    """Root of the unpacked packages, or None."""
    return in_build("root") if complete(in_build("root")) else None


def libfuse_source():
    """libfuse's own source tree, as Debian has patched it, or None."""
    return in_build("libfuse") if complete(in_build("libfuse")) else None


def newer_headers():
    """Directory with the fuse3/ headers of libfuse 3.17, or None."""
    return os.path.join(in_build("headers"), "usr/include") if complete(in_build("headers")) else None


def link_or_copy(source, destination):
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def provide(path, name):
    """What is in the cache, in the build directory."""
    if complete(path) and not complete(in_build(name)):
        make(in_build(name), lambda new: shutil.copytree(path, new, symlinks=True, copy_function=link_or_copy))


def installed():
    listed = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"], "reading installed packages")
    return {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}


def wanted(apt):
    """PROGRAMS and what they need beside what is installed."""
    have, found, todo = installed(), [], list(PROGRAMS)
    while todo:
        package = todo.pop()
        if package in found or (package in have and package not in PROGRAMS):
            continue
        found.append(package)
        todo += apt.depends(package)
    return found


def fetch_programs(into):
    with debian.Own(os.path.dirname(into)) as apt:
        apt_names = [p for p in wanted(apt) if apt.version(p)]
        missing = [p for p in PROGRAMS if p not in apt_names]
        if missing:
            raise CacheError(f"this Debian has no {', '.join(missing)}")
        debian.unpack(apt.fetch(apt_names), into)


def fetch_source(into):
    with WithSources([debian.codename()], os.path.dirname(into)) as apt:
        apt.source("fuse3", into)


def fetch_headers(into):
    suite, package, _ = NEWER
    with debian.Suites([suite], os.path.dirname(into)) as apt:
        debian.unpack(apt.fetch([package]), into)


def make(path, fetch):
    """Complete, or not there."""
    if complete(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    work = tempfile.mkdtemp(dir=os.path.dirname(path), prefix=".foreign-")
    try:
        new = os.path.join(work, "new")
        fetch(new)
        with open(os.path.join(new, ".complete"), "w", encoding="utf-8"):
            pass
        shutil.rmtree(path, ignore_errors=True)
        os.rename(new, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch_all():
    """Lines about what could not be had."""
    parts = [(os.path.join(here(), "root"), "root", fetch_programs),
             (os.path.join(here(), "libfuse"), "libfuse", fetch_source), (here(NEWER[2]), "headers", fetch_headers)]
    failed = []
    with locked(os.path.join(cache_dir(), ".foreign.lock")):
        for path, name, fetch in parts:
            try:
                make(path, fetch)
                provide(path, name)
            except (CacheError, OSError, subprocess.SubprocessError, shutil.Error) as error:
                failed.append(f"{name}: {error}")
    return failed


def main():
    if sys.argv[1:] not in ([], ["--fetch"]):
        sys.exit(__doc__.split(":")[0])
    failed = fetch_all() if sys.argv[1:] else []
    for line in failed:
        say(line)
    found = [p for p in (programs(), libfuse_source(), newer_headers()) if p]
    print("\n".join(found))
    sys.exit(len(found) < 3)


if __name__ == "__main__":
    main()
