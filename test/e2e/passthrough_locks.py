#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
"""Locks on a passthrough mount: between its processes, against processes that lock the source, waited for, interrupted,
and gone with their owner; and a daemon that ends while somebody waits."""

import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time

TRANSPORT = os.environ.get("TRANSPORT", "ring")
WORK = tempfile.mkdtemp()
SOURCE, M = WORK + "/source", WORK + "/m"
LIVENESS_S = 60
FLOCK = "hhqqi4x"   # struct flock


class Interrupted(Exception):
    pass


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Child:
    """`work` in a process of its own; it says when it starts."""

    def __init__(self, work):
        ends = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(ends[0])
                signal.signal(signal.SIGALRM, self.interrupt)
                os.write(ends[1], b"s")
                work()
                status = 0
            except Interrupted:
                status = 42
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(ends[1])
        assert os.read(ends[0], 1) == b"s"
        os.close(ends[0])

    @staticmethod
    def interrupt(*_):
        raise Interrupted

    def running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def status(self):
        deadline = time.monotonic() + LIVENESS_S
        while self.running():
            assert time.monotonic() < deadline, "a child does not end"
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def expect_waiting(self):
        """It has gone to sleep in the kernel, and stays there."""
        time.sleep(0.5)
        assert self.running(), "a child does not wait"


def refused(call):
    try:
        call()
    except OSError as e:
        assert e.errno in (errno.EAGAIN, errno.EACCES), e
        return
    raise AssertionError("a lock that is held was given away")


def posix(path, kind=fcntl.LOCK_EX, start=0, length=0):
    f = open(path, "r+b", buffering=0)
    fcntl.lockf(f, kind, length, start)
    return f


def test_exclusion():
    """One owner does not conflict with itself, whatever files it has open; two do, also over one open file."""
    f, g = posix(M + "/f"), posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert Child(lambda: refused(lambda: posix(M + "/f", fcntl.LOCK_SH | fcntl.LOCK_NB))).status() == 0
    assert Child(lambda: refused(lambda: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB))).status() == 0

    def who():
        with open(M + "/f", "r+b") as h:
            kind, _, start, length, pid = struct.unpack(
                FLOCK, fcntl.fcntl(h, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_RDLCK, 0, 5, 1, 0)))
            assert (kind, start, length, pid) == (fcntl.F_WRLCK, 0, 0, os.getppid()), (kind, start, length, pid)
    assert Child(who).status() == 0
    g.close()   # closing any file of it lets go of all
    assert Child(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB)).status() == 0
    f.close()


def test_ranges():
    f = posix(M + "/f", fcntl.LOCK_EX, 0, 10)
    fcntl.lockf(f, fcntl.LOCK_SH, 10, 20)
    assert Child(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)).status() == 0
    assert Child(lambda: posix(M + "/f", fcntl.LOCK_SH | fcntl.LOCK_NB, 20, 10)).status() == 0
    assert Child(lambda: refused(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB, 29, 1))).status() == 0
    fcntl.lockf(f, fcntl.LOCK_UN, 5, 0)
    assert Child(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 5)).status() == 0
    assert Child(lambda: refused(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 1))).status() == 0
    f.close()


def test_waiting():
    f = posix(M + "/f")
    waiter = Child(lambda: posix(M + "/f"))
    waiter.expect_waiting()
    f.close()
    assert waiter.status() == 0


def test_interrupted():
    f = posix(M + "/f")
    waiters = [Child(lambda: posix(M + "/f")) for _ in range(5)]
    waiters[0].expect_waiting()
    assert os.stat(M + "/f").st_size == 1 and os.listdir(M) == ["f"]   # nobody else is kept waiting
    os.kill(waiters[0].pid, signal.SIGALRM)
    assert waiters[0].status() == 42
    os.kill(waiters[1].pid, signal.SIGKILL)
    assert waiters[1].status() == -signal.SIGKILL
    f.close()
    assert [w.status() for w in waiters[2:]] == [0, 0, 0]


def test_owner_killed():
    owner = Child(lambda: (posix(M + "/f"), signal.pause())[0])
    owner.expect_waiting()
    waiter = Child(lambda: posix(M + "/f"))
    waiter.expect_waiting()
    os.kill(owner.pid, signal.SIGKILL)
    owner.status()
    assert waiter.status() == 0


def test_source():
    """Locks of the host count here, and ours there."""
    f = posix(M + "/f")
    assert Child(lambda: refused(lambda: posix(SOURCE + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB))).status() == 0
    waiter = Child(lambda: posix(SOURCE + "/f"))
    waiter.expect_waiting()
    f.close()
    assert waiter.status() == 0
    host = posix(SOURCE + "/f")
    waiter = Child(lambda: posix(M + "/f"))
    waiter.expect_waiting()
    host.close()
    assert waiter.status() == 0


def flocked(path, kind=fcntl.LOCK_EX):
    f = open(path, "r+b", buffering=0)
    fcntl.flock(f, kind)
    return f


def test_flock():
    f = flocked(M + "/f")
    refused(lambda: flocked(M + "/f", fcntl.LOCK_SH | fcntl.LOCK_NB))     # another open file, though the same process
    assert Child(lambda: refused(lambda: flocked(SOURCE + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB))).status() == 0
    waiter = Child(lambda: flocked(M + "/f"))
    waiter.expect_waiting()
    interrupted = Child(lambda: flocked(M + "/f"))
    interrupted.expect_waiting()
    os.kill(interrupted.pid, signal.SIGALRM)
    assert interrupted.status() == 42
    fcntl.flock(f, fcntl.LOCK_UN)   # the children have this open file too
    assert waiter.status() == 0
    f.close()


def test_local_flock():
    """Without the option flock(2) is the kernel's own: kept here, not seen in the source."""
    f = flocked(M + "/f")
    refused(lambda: flocked(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB))
    flocked(SOURCE + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB).close()
    f.close()


def test_local_posix():
    f = posix(M + "/f")
    assert Child(lambda: refused(lambda: posix(M + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB))).status() == 0
    assert Child(lambda: posix(SOURCE + "/f", fcntl.LOCK_EX | fcntl.LOCK_NB)).status() == 0
    f.close()


def daemon():
    import json
    text = subprocess.run(["efuse", "stat", M, "--json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(text)[0]["pid"]


def test_end_while_waiting():
    """A daemon that is told to end does, although a process waits for a lock that the host holds."""
    def given_up():
        try:
            posix(M + "/f")
        except OSError as e:
            assert e.errno in (errno.ECONNABORTED, errno.ENOTCONN, errno.EINTR), e
            return
        raise AssertionError("a lock that the host holds was given away")
    host = posix(SOURCE + "/f")
    waiter = Child(given_up)
    waiter.expect_waiting()
    pid = daemon()
    os.kill(pid, signal.SIGTERM)
    assert waiter.status() == 0
    deadline = time.monotonic() + LIVENESS_S
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline, "the daemon does not end"
        time.sleep(0.05)
    host.close()


PASSED_ON = [test_exclusion, test_ranges, test_waiting, test_interrupted, test_owner_killed, test_source]
RUNS = [("", PASSED_ON + [test_local_flock]),
        (",flock,inode_handles=never", PASSED_ON + [test_flock]),
        (",nolock", [test_local_posix, test_local_flock]),
        (",cache=none", [test_end_while_waiting])]


def main():
    os.mkdir(SOURCE)
    os.mkdir(M)
    with open(SOURCE + "/f", "w") as f:
        f.write("x")
    for options, tests in RUNS:
        run("efuse", "mount", "passthrough", M, "--transport", TRANSPORT, "-o", f"source={SOURCE}{options}")
        for test in tests:
            test()
            print(f"options '{options}': {test.__name__} ok", flush=True)
        if test_end_while_waiting not in tests:
            run("umount", M)


try:
    main()
finally:
    subprocess.call(["umount", "-l", M], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
