#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 200
# quick: yes
"""What programs can do with a request, and what not.

test/bpf/quiet.bpf.c answers READLINK: loudly for root, where its `done` is told of it, and quietly for others, where it
is not; alone, and with `metadata` after it. test/bpf/listing.bpf.c answers READDIR and READDIRPLUS."""
import os
import struct
import sys

from fastpath_mounts import EVERY_CALL, FastMount, NONE, Tmpfs, bpf_object, require_fastpaths, skip
from fastpath_tutorial import as_user

LOUD, QUIET = 5, 7


def read_link(path, times):
    for _ in range(times):
        assert os.readlink(path) == "program", "the program has not answered"


def check_quiet(source, programs):
    mount = FastMount("-o", f"source={source},allow_other,{EVERY_CALL}", fs="passthrough", programs=programs)
    try:
        link, told = mount.directory + "/link", lambda: struct.unpack("=Q", os.getxattr(mount.directory, "user.told"))[0]
        assert told() == 0, told()
        read_link(link, LOUD)
        assert told() == LOUD, f"told of {told()} of {LOUD} loud answers"
        as_user(1000, lambda: read_link(link, QUIET))
        assert told() == LOUD, f"told of {told() - LOUD} of {QUIET} quiet answers"
        read_link(link, 1)
        assert told() == LOUD + 1, "a quiet answer has silenced a loud one"
        assert mount.hits()["READLINK"] == LOUD + QUIET + 1, mount.hits()
        print(f"{programs.split('/')[-1]}: told of {told()} answers of {LOUD + QUIET + 1}")
    finally:
        mount.close()


def check_listing(source):
    mount = FastMount("-o", f"source={source},{EVERY_CALL}", fs="passthrough", programs=bpf_object("listing"))
    try:
        for _ in range(3):
            with os.scandir(mount.directory) as entries:
                found = [(e.name, e.inode(), e.is_file(follow_symlinks=False)) for e in entries]
            assert found == [("made up", 7, True)], found
        hits = mount.hits()
        assert hits["READDIR"] + hits["READDIRPLUS"] == 6, hits
        print(f"listing: {hits}")
    finally:
        mount.close()


def main():
    require_fastpaths()
    if NONE:
        skip("without fast paths there is nothing to see")
    program, source = bpf_object("quiet"), Tmpfs()
    try:
        os.chmod(source.path, 0o755)
        os.symlink("elsewhere", source.path + "/link")
        check_quiet(source.path, program)
        check_quiet(source.path, program + ",metadata")
        check_listing(source.path)
    finally:
        source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
