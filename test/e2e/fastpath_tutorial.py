#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 200
# quick: yes
"""The tutorial's program, docs/tutorial/hide_names.bpf.c, attached to passthrough alone and before `metadata`: names
with its prefix are not there for its user, and are for everybody else; all others are for all."""
import errno
import os
import re
import sys
import traceback

from fastpath_mounts import EVERY_CALL, FastMount, NONE, TOP, Tmpfs, bpf_object, require_fastpaths, skip

PROGRAM = f"{TOP}/docs/tutorial/hide_names.bpf.c"
BYSTANDER = 1000


def as_user(uid, call):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see the trace above"


def constants():
    """(the user, the prefix)"""
    with open(PROGRAM, encoding="utf-8") as f:
        text = f.read()
    uid, prefix = re.search(r"\bhide_uid = (\d+);", text), re.search(r'\bhide_prefix\S* = "(.+)";', text)
    assert uid and prefix, f"{PROGRAM}: no hide_uid, or no hide_prefix"
    return int(uid.group(1)), prefix.group(1)


def absent(path):
    for call in (os.stat, os.lstat, lambda p: os.open(p, os.O_RDONLY), os.listdir, os.readlink):
        try:
            call(path)
        except OSError as e:
            assert e.errno == errno.ENOENT, f"{path}: {e}"
        else:
            raise AssertionError(f"{path} is there for user {os.getuid()}")


def present(path):
    os.stat(path)
    if os.path.isfile(path):
        with open(path, encoding="ascii") as f:
            assert f.read() == "text", path


def others(hidden):
    """Names that are nearly the prefix, and one that is as long as a name can be."""
    return [n for n in ("file", "x" + hidden, hidden[:-1], hidden[0], "z" * 255) if n and not n.startswith(hidden)]


def fill(top, hidden):
    os.chmod(top, 0o755)
    for directory in (top, top + "/directory", f"{top}/{hidden}directory"):
        os.makedirs(directory, exist_ok=True)
        for name in (hidden, hidden + "file", *others(hidden)):
            with open(f"{directory}/{name}", "w", encoding="ascii") as f:
                f.write("text")


def check(source, programs, uid, hidden):
    mount = FastMount("-o", f"source={source},allow_other,fastpath_timeout=inf,{EVERY_CALL}", fs="passthrough",
                      programs=programs)
    try:
        m = mount.directory
        concealed = [f"{d}/{name}" for d in (m, m + "/directory") for name in (hidden, hidden + "file")]
        concealed += [f"{m}/{hidden}directory", f"{m}/{hidden}directory/file"]
        open_to_all = [m, m + "/directory"]
        open_to_all += [f"{d}/{name}" for d in open_to_all for name in others(hidden)]
        for _ in range(2):      # what one of them has seen is not what the other gets
            for path in concealed + open_to_all:
                present(path)
            as_user(BYSTANDER, lambda: [present(p) for p in concealed + open_to_all])
            as_user(uid, lambda: [absent(p) for p in concealed + [m + "/none"]])
            as_user(uid, lambda: [present(p) for p in open_to_all])
        hits = mount.hits()
        print(f"'{hidden}' hidden from {uid}: {hits}")
        assert hits.get("LOOKUP", 0) >= len(concealed), f"answered by the program: {hits}"
    finally:
        mount.close()


def main():
    require_fastpaths()
    if NONE:
        skip("without fast paths there is nothing to see")
    uid, hidden = constants()
    program, source = bpf_object("hide_names"), Tmpfs()
    try:
        fill(source.path, hidden)
        check(source.path, program, uid, hidden)
        check(source.path, program + ",metadata", uid, hidden)
    finally:
        source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
