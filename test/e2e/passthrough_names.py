#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 600
# quick: yes
"""Names and nodes of passthrough: files that are renamed, removed, replaced and changed, here and in the source, while
they are open or known; links; mounts below the source, and the mount itself there."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time

TRANSPORT = os.environ.get("TRANSPORT", "ring")
WORK = tempfile.mkdtemp()
SOURCE, M = WORK + "/source", WORK + "/m"
libc = ctypes.CDLL(None, use_errno=True)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def get(path):
    with open(path) as f:
        return f.read()


def expect_error(number, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == number, f"{call.__name__}{args}: {e}, expected {errno.errorcode[number]}"
    else:
        raise AssertionError(f"{call.__name__}{args}: no error, expected {errno.errorcode[number]}")


def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), old)


def test_rename_while_open():
    put(M + "/a", "one")
    with open(M + "/a", "r+") as f:
        os.rename(M + "/a", M + "/b")
        f.seek(0, 2)
        f.write("two")
        f.flush()
        assert os.fstat(f.fileno()).st_ino == os.stat(M + "/b").st_ino
    assert get(SOURCE + "/b") == "onetwo"
    put(M + "/c", "see")
    expect_error(errno.EEXIST, renameat2, M + "/b", M + "/c", 1)    # RENAME_NOREPLACE
    renameat2(M + "/b", M + "/c", 2)                                # RENAME_EXCHANGE
    assert (get(M + "/b"), get(M + "/c")) == ("see", "onetwo")
    os.rename(M + "/b", M + "/c")
    assert get(SOURCE + "/c") == "see" and not os.path.exists(M + "/b")


def test_unlink_while_open():
    put(M + "/u", "kept")
    with open(M + "/u", "r+") as f:
        os.unlink(M + "/u")
        assert f.read() == "kept"
        f.write(" and more")
        f.flush()
        os.fchmod(f.fileno(), 0o600)
        f.truncate(6)
        st = os.fstat(f.fileno())
        assert (st.st_nlink, st.st_size, st.st_mode & 0o777) == (0, 6, 0o600), st
        put(M + "/u", "new")
        f.seek(0)
        assert f.read() == "kept a" and get(M + "/u") == "new"


def test_directory_removed_while_open():
    os.mkdir(M + "/gone")
    fd = os.open(M + "/gone", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(M + "/gone")
    assert os.listdir(fd) == [] and os.fstat(fd).st_nlink == 0
    expect_error(errno.ENOENT, lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_links():
    put(M + "/h1", "hard")
    os.link(M + "/h1", M + "/h2")
    a, b = os.stat(M + "/h1"), os.stat(M + "/h2")
    assert a.st_ino == b.st_ino == os.stat(SOURCE + "/h1").st_ino and a.st_nlink == 2
    put(M + "/h1", "changed")
    assert get(M + "/h2") == "changed"
    os.unlink(M + "/h1")
    assert os.stat(M + "/h2").st_nlink == 1 or time.sleep(1.1) or os.stat(M + "/h2").st_nlink == 1
    os.symlink("x" * 4095, M + "/long")
    assert os.readlink(M + "/long") == "x" * 4095
    os.link(M + "/long", M + "/long2", follow_symlinks=False)
    assert os.readlink(SOURCE + "/long2") == "x" * 4095
    os.lchown(M + "/long", 5, 6)
    os.utime(M + "/long", (1, 2), follow_symlinks=False)
    st = os.lstat(SOURCE + "/long")
    assert (st.st_uid, st.st_gid, st.st_atime, st.st_mtime) == (5, 6, 1, 2)


def test_tmpfile():
    fd = os.open(M, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"unnamed")
    root = os.open("/", os.O_RDONLY)
    os.link(f"/proc/self/fd/{fd}", M + "/named", src_dir_fd=root, follow_symlinks=True)
    os.close(root)
    os.close(fd)
    assert get(SOURCE + "/named") == "unnamed" and os.stat(M + "/named").st_mode & 0o777 == 0o640


def test_replaced_in_source():
    """Others replace what the kernel knows: the old is stale, the new is found."""
    os.makedirs(M + "/dir/sub")
    put(M + "/dir/sub/f", "old")
    fd = os.open(M + "/dir/sub", os.O_RDONLY)
    keep = open(M + "/dir/sub/f")
    shutil.rmtree(SOURCE + "/dir")
    os.makedirs(SOURCE + "/dir/sub")
    put(SOURCE + "/dir/sub/f", "new")
    put(SOURCE + "/dir/sub/g", "another")
    time.sleep(1.1)
    assert get(M + "/dir/sub/f") == "new" and sorted(os.listdir(M + "/dir/sub")) == ["f", "g"]
    assert keep.read() == "old"
    keep.close()
    for call in (lambda: os.stat("f", dir_fd=fd), lambda: os.open("n", os.O_CREAT, dir_fd=fd)):
        try:
            call()
        except OSError as e:
            assert e.errno in (errno.ESTALE, errno.ENOENT), e
        else:
            raise AssertionError("a directory that was removed still has entries")
    os.close(fd)


def test_stale():
    """A node whose file is gone, without a descriptor that keeps it."""
    put(M + "/s", "gone")
    path = os.open(M + "/s", os.O_PATH)
    os.unlink(SOURCE + "/s")
    subprocess.run(["sync"], check=True)
    put(SOURCE + "/other", "x")
    time.sleep(1.1)
    expect_error(errno.ESTALE, os.stat, f"/proc/self/fd/{path}")
    expect_error(errno.ESTALE, lambda: os.open(f"/proc/self/fd/{path}", os.O_RDONLY))
    os.close(path)
    expect_error(errno.ENOENT, os.stat, M + "/s")


def test_changed_in_source():
    put(M + "/x", "first")
    assert get(M + "/x") == "first"
    put(SOURCE + "/x", "second, longer")
    time.sleep(1.1)
    assert get(M + "/x") == "second, longer" and os.stat(M + "/x").st_size == 14
    os.rename(SOURCE + "/x", SOURCE + "/y")
    time.sleep(1.1)
    assert get(M + "/y") == "second, longer" and not os.path.exists(M + "/x")


def test_append():
    """O_APPEND means the end that the file has now, and goes when it is switched off."""
    import fcntl
    put(M + "/ap", "0123456789")
    fd = os.open(M + "/ap", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"ab")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"XY", 0)
    os.close(fd)
    assert get(SOURCE + "/ap") == "XY23456789ab", get(SOURCE + "/ap")


def test_holes_and_ranges():
    fd = os.open(M + "/holes", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"d" * 4096, 1 << 20)
    os.fsync(fd)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20 and os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
    other = os.open(M + "/copied", os.O_RDWR | os.O_CREAT)
    assert os.copy_file_range(fd, other, 4096, 1 << 20, 0) == 4096
    assert os.pread(other, 4096, 0) == b"d" * 4096
    os.posix_fallocate(other, 0, 1 << 16)
    assert os.stat(SOURCE + "/copied").st_size == 1 << 16
    os.close(fd)
    os.close(other)


def test_outside():
    """Links lead where the caller's system leads them; names never leave the source."""
    os.symlink("/etc/passwd", SOURCE + "/out")
    assert get(M + "/out") == get("/etc/passwd")
    os.symlink("../..", SOURCE + "/up")
    assert os.path.realpath(M + "/up") == os.path.realpath(M + "/../..")
    assert os.stat(M + "/..").st_ino == os.stat(WORK).st_ino
    assert dict((e.name, e.inode()) for e in os.scandir(M))["out"] == os.lstat(SOURCE + "/out").st_ino


def test_mounts_below():
    """What is mounted below the source is served, its inodes are not mixed up, and it can be unmounted again."""
    os.mkdir(SOURCE + "/t")
    run("mount", "-t", "tmpfs", "t", SOURCE + "/t")
    put(SOURCE + "/t/f", "in the other")
    time.sleep(1.1)
    assert get(M + "/t/f") == "in the other"
    put(M + "/t/g", "written")
    assert get(SOURCE + "/t/g") == "written"
    expect_error(errno.EXDEV, os.rename, M + "/t/g", M + "/g")
    expect_error(errno.EXDEV, os.link, M + "/t/g", M + "/g")
    inos = [os.stat(p).st_ino for p in (M, M + "/t")]
    assert inos[0] == os.stat(SOURCE).st_ino and inos[1] != os.stat(SOURCE + "/t").st_ino
    os.mkdir(SOURCE + "/bound")
    run("mount", "--bind", SOURCE + "/t", SOURCE + "/bound")
    time.sleep(1.1)
    assert get(M + "/bound/f") == "in the other" and sorted(os.listdir(M + "/bound")) == ["f", "g"]
    put("/proc/sys/vm/drop_caches", "2")
    for _ in range(100):
        mounted = [p for p in (SOURCE + "/bound", SOURCE + "/t") if os.path.ismount(p)]
        if not any([subprocess.call(["umount", p], stderr=subprocess.DEVNULL) for p in mounted]):
            return
        time.sleep(0.1)
        put("/proc/sys/vm/drop_caches", "2")
    raise AssertionError("a mount below the source stays busy")


def test_itself_below():
    os.mkdir(SOURCE + "/self")
    run("mount", "--bind", M, SOURCE + "/self")
    time.sleep(1.1)
    expect_error(errno.ELOOP, os.stat, M + "/self")
    assert "self" in os.listdir(M)
    run("umount", SOURCE + "/self")
    time.sleep(1.1)
    assert os.listdir(M + "/self") == []


def mount(options):
    run("efuse", "mount", "passthrough", M, "--transport", TRANSPORT, "-o", f"source={SOURCE}{options}")


TESTS = [test_rename_while_open, test_unlink_while_open, test_directory_removed_while_open, test_links, test_tmpfile,
         test_replaced_in_source, test_changed_in_source, test_append, test_holes_and_ranges, test_outside,
         test_mounts_below, test_itself_below]


def main():
    os.umask(0o022)
    os.mkdir(M)
    # With descriptors nothing is stale: they keep what they hold.
    for options, tests in [("", TESTS + [test_stale]), (",inode_handles=never", TESTS)]:
        os.mkdir(SOURCE)
        mount(options)
        try:
            for test in tests:
                test()
                print(f"options '{options}': {test.__name__} ok", flush=True)
        finally:
            run("umount", M)
            shutil.rmtree(SOURCE)


try:
    main()
finally:
    subprocess.call(["umount", "-l", SOURCE + "/self", SOURCE + "/bound", SOURCE + "/t", M], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
