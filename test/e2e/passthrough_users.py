#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 600
# quick: yes
"""Several users on one passthrough mount: what they make, may do and lose is what it would be in the source. And what
an acknowledged fsync says is in the source."""

import errno
import os
import shutil
import stat
import struct
import subprocess
import tempfile

TRANSPORT = os.environ.get("TRANSPORT", "ring")
WORK = tempfile.mkdtemp()
SOURCE, M = WORK + "/source", WORK + "/m"
USER, GROUP, OTHER_GROUP = 1234, 2345, 3456


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def as_user(call, groups=(), uid=USER, gid=GROUP, umask=0o022):
    """call() in a process of that user; its exception is shown and fails the test."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.umask(umask)
            call()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see the trace above"


def put(path, text="", mode=0o666):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    os.write(fd, text.encode())
    os.close(fd)


def expect_error(number, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == number, f"{e}, expected {errno.errorcode[number]}"
    else:
        raise AssertionError(f"no error, expected {errno.errorcode[number]}")


def in_both(work):
    """What `work(directory)` leaves behind is the same through the mount and in the source without it."""
    seen = []
    for name, base in (("host", SOURCE), ("mount", M)):
        top = f"{base}/{work.__name__}_{name}"
        work(top)
        below = f"{SOURCE}/{work.__name__}_{name}"
        entries = {}
        for directory, names, files in os.walk(below):
            for entry in [directory] + [f"{directory}/{f}" for f in files + names]:
                st = os.lstat(entry)
                acl = {a: os.getxattr(entry, a, follow_symlinks=False)
                       for a in os.listxattr(entry, follow_symlinks=False) if not a.startswith("security.")}
                entries[os.path.relpath(entry, below)] = (stat.filemode(st.st_mode), st.st_uid, st.st_gid, acl)
        seen.append(entries)
    assert seen[0] == seen[1], f"on the host: {seen[0]}\nby the mount: {seen[1]}"
    return seen[1]


def owners(top):
    os.mkdir(top)
    os.chmod(top, 0o777)

    def make():
        put(top + "/file")
        os.mkdir(top + "/dir")
        os.symlink("x", top + "/link")
        os.mkfifo(top + "/fifo")
        fd = os.open(top, os.O_TMPFILE | os.O_RDWR, 0o666)
        root = os.open("/", os.O_RDONLY)
        os.link(f"/proc/self/fd/{fd}", top + "/tmp", src_dir_fd=root, follow_symlinks=True)

    as_user(make, umask=0o027)
    os.setegid(GROUP)   # root, in another group
    put(top + "/by_root")
    os.setegid(0)


def set_group_id_directory(top):
    """Files get the directory's group; the set-group-ID bit stays only for members of it."""
    os.mkdir(top)
    os.chown(top, 0, OTHER_GROUP)
    os.chmod(top, 0o2777)

    def make(suffix):
        fd = os.open(top + "/f" + suffix, os.O_CREAT | os.O_WRONLY, 0o2775)
        os.close(fd)
        os.mkdir(top + "/d" + suffix)

    as_user(lambda: make("1"), groups=[OTHER_GROUP])
    as_user(lambda: make("2"))


def by_supplementary_group(top):
    os.mkdir(top)
    os.chown(top, 0, OTHER_GROUP)
    os.chmod(top, 0o770)
    as_user(lambda: put(top + "/f"), groups=[5, OTHER_GROUP, 7])
    as_user(lambda: expect_error(errno.EACCES, put, top + "/g"), groups=[5, 7])


def acl_bytes(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def default_acl(top):
    """The umask does not count where there is a default ACL."""
    os.mkdir(top)
    os.chmod(top, 0o777)
    none = 0xffffffff
    os.setxattr(top, "system.posix_acl_default",
                acl_bytes((1, 7, none), (2, 6, 77), (4, 7, none), (0x10, 7, none), (0x20, 0, none)))
    as_user(lambda: (put(top + "/f"), os.mkdir(top + "/d")), umask=0o077)


def set_id_bits(top):
    """Cleared by a user's write, truncation and change of owner; root's leave them."""
    os.mkdir(top)
    os.chmod(top, 0o777)
    names = ("write", "truncate", "ftruncate", "otrunc", "rootwrite", "chown", "chmod")
    for name in names:
        put(f"{top}/{name}", "content")
        os.chown(f"{top}/{name}", USER, GROUP)
        os.chmod(f"{top}/{name}", 0o6777)

    def change():
        with open(top + "/write", "r+b", buffering=0) as f:
            f.write(b"x")
        os.truncate(top + "/truncate", 3)
        with open(top + "/ftruncate", "r+b", buffering=0) as f:
            f.truncate(3)
        os.close(os.open(top + "/otrunc", os.O_WRONLY | os.O_TRUNC))
        os.chmod(top + "/chmod", 0o2755)

    as_user(change)
    with open(top + "/rootwrite", "r+b", buffering=0) as f:
        f.write(b"x")
    os.chown(top + "/chown", USER, OTHER_GROUP)
    for name in names:   # the mount says the same as the source
        host = top.replace(M, SOURCE)
        assert os.stat(f"{top}/{name}").st_mode == os.stat(f"{host}/{name}").st_mode, name


def permissions():
    os.mkdir(M + "/private", 0o700)
    put(M + "/private/f", "secret")
    put(M + "/readable", "text", 0o644)
    put(M + "/closed", "text", 0o600)
    os.mkdir(M + "/sticky")
    os.chmod(M + "/sticky", 0o1777)
    put(M + "/sticky/roots")

    def user():
        expect_error(errno.EACCES, os.stat, M + "/private/f")
        expect_error(errno.EACCES, os.listdir, M + "/private")
        expect_error(errno.EACCES, open, M + "/closed")
        expect_error(errno.EACCES, open, M + "/readable", "w")
        expect_error(errno.EPERM, os.chmod, M + "/readable", 0o777)
        expect_error(errno.EPERM, os.chown, M + "/readable", USER, GROUP)
        expect_error(errno.EPERM, os.unlink, M + "/sticky/roots")
        expect_error(errno.EACCES, os.mkdir, M + "/new")
        assert open(M + "/readable").read() == "text"
        assert not any(n.startswith("trusted.") for n in os.listxattr(M + "/readable"))

    os.setxattr(M + "/readable", "trusted.t", b"1")
    os.setxattr(M + "/readable", "user.u", b"2")
    as_user(user)
    assert sorted(n for n in os.listxattr(M + "/readable") if n[0] in "tu") == ["trusted.t", "user.u"]
    assert os.getxattr(SOURCE + "/readable", "user.u") == b"2"
    expect_error(errno.EEXIST, os.setxattr, M + "/readable", "user.u", b"3", os.XATTR_CREATE)
    os.removexattr(M + "/readable", "user.u")
    expect_error(errno.ENODATA, os.getxattr, M + "/readable", "user.u")


def durable(writeback):
    """What is acknowledged can be read in the source at once."""
    def in_source():
        with open(SOURCE + "/durable", "rb") as f:
            return f.read()
    fd = os.open(M + "/durable", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"one")
    os.fsync(fd)
    assert in_source() == b"one"
    os.write(fd, b"two")
    os.fdatasync(fd)
    assert in_source() == b"onetwo"
    os.close(fd)
    fd = os.open(M + "/durable", os.O_WRONLY | os.O_APPEND | os.O_SYNC)
    os.write(fd, b"three")
    assert in_source() == b"onetwothree"
    os.close(fd)
    with open(M + "/durable", "ab") as f:
        f.write(b"four")
    assert in_source() == b"onetwothreefour", "close() writes back"
    directory = os.open(M, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    print(f"durable, writeback {writeback}: ok", flush=True)


def mount(options):
    os.mkdir(SOURCE)
    os.chmod(SOURCE, 0o755)
    run("efuse", "mount", "passthrough", M, "--transport", TRANSPORT, "-o", f"source={SOURCE},allow_other{options}")


def main():
    os.umask(0o022)
    os.chmod(WORK, 0o755)
    os.mkdir(M)
    for options in ("", ",acl,writeback", ",direct_io"):
        mount(options)
        try:
            for work in (owners, set_group_id_directory, by_supplementary_group, default_acl, set_id_bits):
                found = in_both(work)
                assert len(found) > 1, found
                print(f"options '{options}': {work.__name__} ok", flush=True)
            permissions()
            durable("writeback" in options)
        finally:
            run("umount", M)
            shutil.rmtree(SOURCE)


try:
    main()
finally:
    subprocess.call(["umount", "-l", M], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
