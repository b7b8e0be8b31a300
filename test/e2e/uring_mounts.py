#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 180
# quick: yes
"""Mounts over the kernel's io_uring: what `auto` takes and says, what is refused and why, requests that the filesystem
keeps, more of them than a queue has entries, and what an idle mount costs."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

SWITCH = "/sys/module/fuse/parameters/enable_uring"
LIMIT_S = 30
WORK = tempfile.mkdtemp()


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def switch(value):
    with open(SWITCH, "w", encoding="ascii") as f:
        f.write(value)


def efuse(*arguments):
    return subprocess.run(["efuse", *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False)


def wait_until(condition, what):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {LIMIT_S} s"
        time.sleep(0.005)


class Mount:
    def __init__(self, *arguments, fs="memfs", transport="uring"):
        self.directory = tempfile.mkdtemp(dir=WORK)
        done = efuse("mount", fs, self.directory, "--transport", transport, *arguments)
        assert done.returncode == 0, done.stderr
        self.said = done.stdout.strip()
        self.pid = self.stat()["pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.directory], check=True, timeout=LIMIT_S)
        wait_until(lambda: not os.path.exists(f"/proc/{self.pid}"), "the daemon ends")

    def stat(self):
        return json.loads(efuse("stat", self.directory, "--json").stdout)[0]

    def cpu_ticks(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])


def auto_takes_it():
    if os.path.exists("/dev/efuse"):
        print("auto: takes rings here, /dev/efuse is there")
        return
    with Mount(transport="auto") as m:
        assert "transport uring" in m.said and "ring:" in m.said, m.said
        assert m.stat()["transport"] == "uring"
        with open(m.directory + "/f", "wb") as f:
            f.write(os.urandom(3 << 20))
        os.listdir(m.directory)
        requests = m.stat()["requests"]
        assert requests["uring"] > 5 and requests["stock"] == requests["ring"] == 0, requests
        print(f"auto: {m.said}; {requests}")


def switches_are_refused():
    with Mount() as m:
        for other in ("dev", "ring"):
            done = efuse("config", "set", m.directory, f"session.transport={other}")
            assert done.returncode != 0 and "does not give up" in done.stderr, done.stderr
        assert m.stat()["transport"] == "uring"
    with Mount(transport="dev") as m:
        done = efuse("config", "set", m.directory, "session.transport=uring")
        assert done.returncode != 0 and "at mount time only" in done.stderr, done.stderr
        assert m.stat()["transport"] == "dev"


def without_it():
    """With the parameter off: refused where asked for, done without otherwise."""
    switch("N")
    try:
        directory = tempfile.mkdtemp(dir=WORK)
        done = efuse("mount", "memfs", directory, "--transport", "uring")
        assert done.returncode != 0 and "transport uring: the kernel has it, switched off" in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        if not os.path.exists("/dev/efuse"):
            with Mount(transport="auto") as m:
                assert "transport dev" in m.said and "uring: the kernel has it, switched off" in m.said, m.said
        checks = {c["name"]: c for c in json.loads(efuse("doctor", "--json").stdout)["checks"]}
        assert checks["FUSE over io_uring"]["enable"] == f"echo Y > {SWITCH}", checks["FUSE over io_uring"]
    finally:
        switch("Y")
    doctor = json.loads(efuse("doctor", "--json").stdout)
    assert "uring" in doctor["usable"], doctor["usable"]
    memory = doctor["memory_per_mount"]["uring"]
    assert memory["queue_bytes"] <= 1 << 20 and memory["queues"] >= os.cpu_count(), memory


def on_first_cpu(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return pid


def ended(pid):
    done, status = os.waitpid(pid, os.WNOHANG)
    assert status == 0, f"a process ended with status {status}"
    return done != 0


def lock(path):
    with open(path, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        fcntl.lockf(f, fcntl.LOCK_UN)


def kept_requests():
    """More locks are waited for than the queue has entries, by processes of one CPU, and the unlock comes there too."""
    source = tempfile.mkdtemp(dir=WORK)
    with open(source + "/f", "wb"):
        pass
    with Mount("-o", f"source={source}", "--set", "uring.depth=1", fs="passthrough") as m:
        path = m.directory + "/f"
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [min(before)])
        with open(path, "r+b") as f:
            fcntl.lockf(f, fcntl.LOCK_EX)
            waiters = [on_first_cpu(lambda: lock(path)) for _ in range(12)]
            time.sleep(0.5)
            assert not any(ended(pid) for pid in waiters), "a lock was had twice"
            fcntl.lockf(f, fcntl.LOCK_UN)
        while waiters:
            wait_until(lambda: ended(waiters[-1]), "a waiter has the lock")
            waiters.pop()
        os.sched_setaffinity(0, before)


def queued_behind_a_kept_request():
    """A request that came while no entry was free, behind one that the filesystem keeps until this one is served."""
    source = tempfile.mkdtemp(dir=WORK)
    with open(source + "/f", "wb"):
        pass
    with Mount("-o", f"source={source}", "--set", "uring.depth=1", fs="passthrough") as m:
        path = m.directory + "/f"
        ready, go = os.pipe(), os.pipe()

        def waiter():
            with open(path, "r+b") as f:
                os.write(ready[1], b"+")
                os.read(go[0], 1)
                fcntl.lockf(f, fcntl.LOCK_EX)

        def holder():
            with open(path, "r+b") as f:
                fcntl.lockf(f, fcntl.LOCK_EX)
                os.write(ready[1], b"+")
                os.read(go[0], 1)
                time.sleep(0.3)     # the other's request is in the queue by now
                fcntl.lockf(f, fcntl.LOCK_UN)
                time.sleep(LIMIT_S)     # close() would be another request

        for round_number in range(3):
            holds = on_first_cpu(holder)
            assert os.read(ready[0], 1)
            waits = on_first_cpu(waiter)
            assert os.read(ready[0], 1)
            os.kill(m.pid, signal.SIGSTOP)
            os.write(go[1], b"++")
            time.sleep(0.8)
            os.kill(m.pid, signal.SIGCONT)
            wait_until(lambda: ended(waits), f"round {round_number}: the waiter has the lock")
            os.kill(holds, signal.SIGKILL)
            os.waitpid(holds, 0)


def sleeps_of_readers(pid):
    """How often those of /dev/fuse have slept, and how many there are."""
    counts = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        if status["Name"].startswith("efuse-dev"):
            counts.append(int(status["voluntary_ctxt_switches"]))
    return sum(counts), len(counts)


def forgets_wake_hardly_anybody():
    """Every file removed sends a FORGET: those that come while all readers rest are taken along by workers."""
    files = 5000
    with Mount() as m:
        free = os.statvfs(m.directory).f_ffree
        before, begin = sleeps_of_readers(m.pid)[0], time.monotonic()
        for i in range(files):
            os.close(os.open(f"{m.directory}/f{i}", os.O_CREAT | os.O_WRONLY))
            os.unlink(f"{m.directory}/f{i}")
        seconds = time.monotonic() - begin
        after, readers = sleeps_of_readers(m.pid)
        # Together they rest fifty times a second, and sleep once more where nothing has come meanwhile.
        most = readers * 2 + 100 * seconds
        assert readers > 0 and after - before <= most, f"{after - before} sleeps of {readers} readers in {seconds:.2f} s"
        # By then those that a reader was just taking are known, too.
        time.sleep(0.1)
        left = os.statvfs(m.directory).f_ffree
        assert left == free, f"{free - left} of {files} removed files are not free"
        print(f"{files} files removed in {seconds:.2f} s: {after - before} sleeps of the readers")


def what_is_removed_is_free():
    """A FORGET says so, for which nobody waits: it is there in time nevertheless."""
    def fill_and_replace():
        kinds = (lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
                 os.mkdir, lambda path: os.symlink("target", path), os.mkfifo)
        paths = []
        try:
            while True:
                path = f"{m.directory}/{len(paths)}"
                kinds[len(paths) % len(kinds)](path)
                paths.append(path)
        except OSError as e:
            assert e.errno == errno.ENOSPC and len(paths) > 10, (e, len(paths))
        for i in range(400):
            path = paths[i % len(paths)]
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)
            kinds[i // len(paths) % len(kinds)](path)
        print(f"{i + 1} of {len(paths)} files replaced where there is room for so many")
        for path in paths:
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)

    def write_and_remove():
        path, data = m.directory + "/large", os.urandom(3 << 20)
        for _ in range(40):
            with open(path, "wb") as f:  # which goes on where write(2) has written less
                f.write(data)
            os.unlink(path)

    with Mount("-o", "nr_inodes=20,size=4M") as m:
        for work in (fill_and_replace, write_and_remove):
            pid = on_first_cpu(work)  # one queue: a file's RELEASE is served before what comes after it
            wait_until(lambda pid=pid: ended(pid), work.__name__)


def costs_nothing_when_idle():
    with Mount() as m:
        for i in range(2000):
            os.stat(f"{m.directory}/.")
            if i % 10 == 0:
                with open(f"{m.directory}/f", "wb") as f:
                    f.write(b"x")
        time.sleep(0.2)
        before = m.cpu_ticks()
        time.sleep(2)
        used = m.cpu_ticks() - before
        assert used <= 1, f"an idle mount has used {used} ticks in 2 s"


def main():
    if not os.path.exists(SWITCH):
        skip(f"Linux {os.uname().release} has no FUSE over io_uring (6.14 or later, CONFIG_FUSE_IO_URING)")
    if os.geteuid() != 0:
        skip("only root can switch FUSE over io_uring on")
    with open(SWITCH, encoding="ascii") as f:
        was = f.read().strip()
    try:
        switch("Y")
        for test in (auto_takes_it, switches_are_refused, without_it, kept_requests, queued_behind_a_kept_request,
                     forgets_wake_hardly_anybody, what_is_removed_is_free, costs_nothing_when_idle):
            begin = time.monotonic()
            test()
            print(f"ok {test.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
    finally:
        switch(was)
        with open("/proc/mounts", encoding="utf-8") as f:
            left = [line.split()[1] for line in f if line.split()[1].startswith(WORK)]
        for mountpoint in left:
            subprocess.run(["umount", "-l", mountpoint], check=False)
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
