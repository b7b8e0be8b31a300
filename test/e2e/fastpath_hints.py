#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 200
# quick: yes
"""What the daemon says besides a reply saves requests, and is as fresh as the reply: that a directory ends, and that a file
has no attribute of other names that are commonly asked for either."""
import errno
import os
import struct
import sys

from fastpath_mounts import EVERY_CALL, FastMount, NONE, Tmpfs, require_fastpaths

SELINUX, ACL, DEFAULT_ACL, CAPABILITY = ("security.selinux", "system.posix_acl_access", "system.posix_acl_default",
                                         "security.capability")
# The owner reads and writes, the group (and one user within it) reads: of the kernel's format, version 2.
ACL_VALUE = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (0x01, 6, 0xffffffff), (0x02, 4, 1234), (0x04, 4, 0xffffffff), (0x10, 4, 0xffffffff), (0x20, 0, 0xffffffff)))
# No capability at all, version 2.
CAPABILITY_VALUE = struct.pack("<IIIII", 0x02000000, 0, 0, 0, 0)


def absent(path, name):
    try:
        value = os.getxattr(path, name)
    except OSError as e:
        assert e.errno == errno.ENODATA, f"{path}: {name}: {e}"
    else:
        raise AssertionError(f"{path}: {name} is {value}, expected none")


class Asked:
    """How many requests of some opcodes the daemon gets within."""

    def __init__(self, mount, opcodes):
        self.mount, self.opcodes, self.count = mount, opcodes, 0

    def now(self):
        return sum(n for op, n in self.mount.by_opcode().items() if op in self.opcodes)

    def __enter__(self):
        self.begin = self.now()
        return self

    def __exit__(self, *_):
        self.count = self.now() - self.begin


def expect(asked, count, what):
    print(f"  {what}: {asked.count} requests", flush=True)
    if not NONE:
        assert asked.count == count, f"{what}: {asked.count} requests, expected {count}"


def attributes(mount, names):
    """names: of which the first is asked for first, as ls does."""
    first, *others = names
    files = [f"{mount.directory}/attributes{i}" for i in range(4)]
    for path in files:
        with open(path, "w", encoding="ascii"):
            pass

    def look(path):
        with Asked(mount, ("GETXATTR",)) as asked:
            for name in names:
                absent(path, name)
        return asked

    expect(look(files[0]), len(names), f"{len(names)} names that nobody has asked for yet")
    for path in files[1:]:
        expect(look(path), 1, f"{len(names)} names that others were asked for")
        expect(look(path), 0, "again")

    # One of them appears, by way of this mount, and goes again.
    path = files[1]
    changed, value = (ACL, ACL_VALUE) if ACL in others else (CAPABILITY, CAPABILITY_VALUE)
    os.setxattr(path, changed, value)
    absent(path, first)
    assert os.getxattr(path, changed), f"{path}: {changed} has been set"
    os.removexattr(path, changed)
    for name in names:
        absent(path, name)

    # It was there before the first was asked for.
    path = files[0]
    os.setxattr(path, changed, value)
    absent(path, first)
    assert os.getxattr(path, changed), f"{path}: {changed} has been set"


def listings(mount):
    top = mount.directory + "/listings"
    os.mkdir(top)
    # 160 bytes per entry. A request is for a page up to 6.12; later kernels ask for as much as getdents(2) does,
    # and libc does for 32 KiB.
    for count, most in ((0, 1), (3, 1), (400, 20)):
        path = f"{top}/{count}"
        os.mkdir(path)
        names = {f"name{i}" for i in range(count)}
        for name in names:
            os.mkdir(f"{path}/{name}")
        with Asked(mount, ("READDIR", "READDIRPLUS")) as asked:
            assert set(os.listdir(path)) == names
        if most == 1:
            expect(asked, 1, f"{count} entries")
        else:
            print(f"  {count} entries: {asked.count} requests", flush=True)
            assert NONE or 1 < asked.count <= most, f"{asked.count} requests, expected 2 to {most}"
        with Asked(mount, ("READDIR", "READDIRPLUS")) as asked:
            assert set(os.listdir(path)) == names
        expect(asked, 0, "again")
        os.mkdir(f"{path}/more")
        assert set(os.listdir(path)) == names | {"more"}, "an entry that was made is missing"
        os.rmdir(f"{path}/more")
        assert set(os.listdir(path)) == names, "an entry that was removed is still there"


def open_ends(mount):
    """Who has read a directory to its end and goes on there sees nothing more, also after entries are gone."""
    path = mount.directory + "/open"
    os.mkdir(path)
    for i in range(5):
        os.mkdir(f"{path}/{i}")
    with os.scandir(path) as entries:
        assert len(list(entries)) == 5
    with os.scandir(path) as entries:
        first = next(entries)
        os.rmdir(f"{path}/{first.name}")
        assert 3 <= len(list(entries)) <= 4
    assert len(os.listdir(path)) == 4


def check(fs, names, *options):
    mount = FastMount("-o", f"allow_other,{EVERY_CALL}", *options, fs=fs)
    try:
        print(fs, flush=True)
        attributes(mount, names)
        listings(mount)
        open_ends(mount)
    finally:
        mount.close()


def main():
    require_fastpaths()
    check("memfs", (SELINUX, CAPABILITY))
    source = Tmpfs()
    try:
        # Whether tmpfs has ACLs is the kernel's configuration.
        probe = source.path + "/probe"
        with open(probe, "w", encoding="ascii"):
            pass
        try:
            os.setxattr(probe, ACL, ACL_VALUE)
            names = (SELINUX, ACL, DEFAULT_ACL, CAPABILITY)
        except OSError:
            print("this tmpfs has no ACLs")
            names = (SELINUX, CAPABILITY)
        os.unlink(probe)
        check("passthrough", names, "-o", f"source={source.path},fastpath_timeout=inf")
    finally:
        source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
