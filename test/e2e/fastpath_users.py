#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 200
# quick: yes
"""Two users on one mount with fast paths: whoever asks first, each gets what he would get from the filesystem. Names of
extended attributes that root alone may know of, what permissions forbid, and what changes when they do."""
import errno
import os
import sys
import traceback

from fastpath_mounts import EVERY_CALL, FastMount, Tmpfs, require_fastpaths

USER = 1000


def as_user(call, *args):
    """call() in a process of that user; its exception is shown and fails the test."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            call(*args)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see the trace above"


def refused(number, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == number, f"{e}, expected {errno.errorcode[number]}"
    else:
        raise AssertionError(f"no error, expected {errno.errorcode[number]}")


def put(path, mode):
    with open(path, "w", encoding="ascii") as f:
        f.write("text")
    os.chmod(path, mode)


def lists(path, expected):
    """Twice: the second time it may be known."""
    for _ in range(2):
        names = sorted(os.listxattr(path))
        assert names == expected, f"{path}: {names} for {os.getuid()}, expected {expected}"


def trusted_names(top):
    for first in (0, USER):
        path = f"{top}/trusted{first}"
        put(path, 0o644)
        os.setxattr(path, "trusted.secret", b"1")
        os.setxattr(path, "user.name", b"2")
        users = (lambda p=path: as_user(lists, p, ["user.name"]))
        roots = (lambda p=path: lists(p, ["trusted.secret", "user.name"]))
        for look in (roots, users, roots) if first == 0 else (users, roots, users):
            look()
        os.getxattr(path, "trusted.secret")
        as_user(refused, errno.ENODATA, os.getxattr, path, "trusted.secret")


def permissions(top):
    directory, path = top + "/private", top + "/private/file"
    os.mkdir(directory)
    put(path, 0o600)

    def shut_out():
        for call in (os.stat, os.readlink, os.listxattr, lambda p: os.open(p, os.O_RDONLY)):
            refused(errno.EACCES, call, path)
        refused(errno.EACCES, os.listdir, directory)

    def let_in():
        assert os.stat(path).st_size == 4
        assert os.listdir(directory) == ["file"]
        refused(errno.EACCES, os.open, path, os.O_RDONLY)

    for _ in range(3):
        for mode, seen in ((0o700, shut_out), (0o755, let_in)):
            os.chmod(directory, mode)
            os.stat(path)
            os.listdir(directory)
            as_user(seen)
    os.chmod(path, 0o644)
    as_user(lambda: open(path, encoding="ascii").close())
    os.chmod(path, 0o600)
    as_user(refused, errno.EACCES, os.open, path, os.O_RDONLY)


def check(fs, *options):
    mount = FastMount("-o", f"allow_other,{EVERY_CALL}", *options, fs=fs)
    try:
        os.chmod(mount.directory, 0o755)
        for work in (trusted_names, permissions):
            work(mount.directory)
            print(f"{fs}: {work.__name__}", flush=True)
    finally:
        mount.close()


def main():
    require_fastpaths()
    check("memfs")
    source = Tmpfs()
    try:
        check("passthrough", "-o", f"source={source.path},fastpath_timeout=inf")
    finally:
        source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
