#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 900
# quick: yes
"""Detach the rings of a live mount and attach them again, CYCLES times (environment, default 20), under load: half of
them on memfs, half on passthrough, where one process waits for a lock through all of it. No
request is lost: every client goes on and sees what it wrote. None is repeated: a call whose second execution would
be seen (O_EXCL create, mkdir, rename, unlink, append) never is, and a log that was appended to has each line once."""
import fcntl
import json
import os
import subprocess
import tempfile
import time

from mixed_load import LIMIT_S, Clock, where_is

CYCLES = int(os.environ.get("CYCLES", "20"))
WORKERS = 6
LATE_S = 2 * LIMIT_S    # for one round of calls


def fork(body):
    """A process that ends with 0 if `body` returns. Nothing on the mount is open in this one: those that it starts
    would close it, and wait for the filesystem."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    finally:
        os._exit(code)


class Client:
    """A process that works on a directory of its own until told to stop; any error ends it."""

    def __init__(self, directory, number, clock):
        self.directory = f"{directory}/c{number}"
        self.number, self.clock = number, clock
        os.mkdir(self.directory)
        self.pid = fork(self.run)

    def step(self, i):
        d = self.directory
        path = f"{d}/f{i % 7}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        data = bytes([i & 255]) * (1 << (6 + i % 12))
        try:
            assert os.pwrite(fd, data, 0) == len(data)
            if i % 5 == 0:
                os.fsync(fd)
            assert os.pread(fd, len(data) + 1, 0) == data, "other bytes than written"
        finally:
            os.close(fd)
        os.rename(path, path + "r")
        os.mkdir(f"{d}/d")
        assert sorted(os.listdir(d)) == sorted(["d", os.path.basename(path) + "r"] + (["log"] if i else []))
        os.rmdir(f"{d}/d")
        os.unlink(path + "r")
        log = os.open(f"{d}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(log, f"{i}\n".encode())
        os.close(log)

    def run(self):
        try:
            calls = 0
            while not self.clock.stopped():
                self.clock.begin(self.number)
                self.step(calls)
                calls += 1
                self.clock.progress(self.number, calls)
        except (OSError, AssertionError) as e:
            self.clock.note(self.number, repr(e))
            raise

    @property
    def calls(self):
        return self.clock.read(self.number)[2]

    def check(self):
        """It goes on."""
        begun, _, _, error = self.clock.read(self.number)
        assert not error, f"{self.directory}: {error}"
        late = begun and time.monotonic() - begun > LATE_S
        assert not late, f"{self.directory}: no progress for {LATE_S} s: {where_is(self.pid)}"

    def finish(self):
        end = time.monotonic() + LATE_S
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, f"{self.directory}: still in a call after {LATE_S} s: {where_is(self.pid)}"
            time.sleep(0.01)
        error = self.clock.read(self.number)[3] or f"ended with {os.waitstatus_to_exitcode(ended[1])}"
        assert ended[1] == 0, f"{self.directory}: {error}"
        self.check_log()

    def check_log(self):
        with open(f"{self.directory}/log", encoding="ascii") as f:
            lines = f.read().split()
        assert lines == [str(i) for i in range(self.calls)], f"{self.directory}: the log has {len(lines)} lines, " \
            f"expected {self.calls}: a request was lost or repeated"


def efuse(*args):
    done = subprocess.run(["efuse", *args], capture_output=True, text=True, check=False, timeout=2 * LATE_S)
    assert done.returncode == 0, f"efuse {' '.join(args)}: {done.stderr}"
    return done.stdout


def stat(mountpoint):
    return json.loads(efuse("stat", mountpoint, "--json"))[0]


class Waiter:
    """A process that holds a lock and one that waits for it, over every detach."""

    def __init__(self, path):
        ready, holds = os.pipe()
        let_go, self.let_go = os.pipe()

        def hold():
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(holds, b"1")
            os.read(let_go, 1)
            fcntl.flock(fd, fcntl.LOCK_UN)

        self.holder = fork(hold)
        assert os.read(ready, 1) == b"1"
        self.waiter = fork(lambda: fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX))
        for fd in (ready, holds, let_go):
            os.close(fd)

    def finish(self):
        assert os.waitpid(self.waiter, os.WNOHANG) == (0, 0), "the lock was granted while it was held"
        os.write(self.let_go, b"1")
        for pid in (self.holder, self.waiter):
            assert os.waitpid(pid, 0)[1] == 0
        os.close(self.let_go)


def memory_kb():
    with open("/proc/meminfo", encoding="ascii") as f:
        rows = dict(line.split(":") for line in f)
    return sum(int(rows[k].split()[0]) for k in ("Slab", "VmallocUsed", "Percpu"))


def cycles(mountpoint, clients):
    memory = []
    for n in range(CYCLES // 2):
        out = efuse("config", "set", mountpoint, f"session.transport={'ring' if n % 2 else 'dev'}")
        assert out.strip().endswith("ring" if n % 2 else "dev"), out
        time.sleep(0.02 + (n % 7) * 0.03)
        for c in clients:
            c.check()
        memory.append(memory_kb())
        if n % 20 == 19:
            print(f"cycle {n + 1}: {sum(c.calls for c in clients)} rounds of calls", flush=True)
    return memory


def run(fs, *options):
    mountpoint = tempfile.mkdtemp()
    efuse("mount", fs, mountpoint, "--transport", "ring", *options)
    waiter = Waiter(f"{mountpoint}/lock") if fs == "passthrough" else None
    clock = Clock(WORKERS)
    clients = [Client(mountpoint, i, clock) for i in range(WORKERS)]
    memory = cycles(mountpoint, clients)
    clock.stop()
    for c in clients:
        c.finish()
    if waiter:
        waiter.finish()
    requests = stat(mountpoint)["requests"]
    print(f"{fs}: {CYCLES // 2} changes, {sum(c.calls for c in clients)} rounds of calls, requests {requests}")
    print(f"slab, vmalloc and per-CPU memory: {memory[1]} kB after 2, {memory[-1]} kB after the last", flush=True)
    assert requests["ring"] > 0 and requests["stock"] > 0, requests
    subprocess.run(["umount", mountpoint], check=True)
    os.rmdir(mountpoint)


def main():
    run("memfs")
    with tempfile.TemporaryDirectory() as source:
        run("passthrough", "-o", f"source={source},flock")


if __name__ == "__main__":
    main()
