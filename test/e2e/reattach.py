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
import threading
import time

CYCLES = int(os.environ.get("CYCLES", "20"))
WORKERS = 6


class Client(threading.Thread):
    """Work on a directory of its own until told to stop; any error ends it."""

    def __init__(self, directory, number):
        super().__init__(daemon=True)
        self.directory = f"{directory}/c{number}"
        self.number = number
        self.calls = 0
        self.error = None
        self.stop = False
        self.began = time.monotonic()
        os.mkdir(self.directory)

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
        assert sorted(os.listdir(d)) == sorted(["d", os.path.basename(path) + "r"] + (["log"] if self.calls else []))
        os.rmdir(f"{d}/d")
        os.unlink(path + "r")
        log = os.open(f"{d}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(log, f"{i}\n".encode())
        os.close(log)

    def run(self):
        try:
            while not self.stop:
                self.began = time.monotonic()
                self.step(self.calls)
                self.calls += 1
        except (OSError, AssertionError) as e:
            self.error = e

    def check_log(self):
        with open(f"{self.directory}/log", encoding="ascii") as f:
            lines = f.read().split()
        assert lines == [str(i) for i in range(self.calls)], f"{self.directory}: the log has {len(lines)} lines, " \
            f"expected {self.calls}: a request was lost or repeated"


def efuse(*args):
    done = subprocess.run(["efuse", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"efuse {' '.join(args)}: {done.stderr}"
    return done.stdout


def stat(mountpoint):
    return json.loads(efuse("stat", mountpoint, "--json"))[0]


class Waiter:
    """A process that holds a lock and one that waits for it, over every detach."""

    def __init__(self, path):
        self.holder = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.holder, fcntl.LOCK_EX)
        self.pid = os.fork()
        if self.pid == 0:
            fd = os.open(path, os.O_RDWR)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os._exit(0)

    def finish(self):
        assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "the lock was granted while it was held"
        fcntl.flock(self.holder, fcntl.LOCK_UN)
        assert os.waitpid(self.pid, 0)[1] == 0
        os.close(self.holder)


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
        late = [c.directory for c in clients if c.is_alive() and time.monotonic() - c.began > 30]
        assert not late, f"cycle {n}: no progress for 30 s: {late}"
        broken = [f"{c.directory}: {c.error!r}" for c in clients if c.error]
        assert not broken, f"cycle {n}: {broken}"
        memory.append(memory_kb())
        if n % 20 == 19:
            print(f"cycle {n + 1}: {sum(c.calls for c in clients)} rounds of calls", flush=True)
    return memory


def run(fs, *options):
    mountpoint = tempfile.mkdtemp()
    efuse("mount", fs, mountpoint, "--transport", "ring", *options)
    waiter = Waiter(f"{mountpoint}/lock") if fs == "passthrough" else None
    clients = [Client(mountpoint, i) for i in range(WORKERS)]
    for c in clients:
        c.start()
    memory = cycles(mountpoint, clients)
    for c in clients:
        c.stop = True
    for c in clients:
        c.join(timeout=60)
        assert not c.is_alive(), f"{c.directory}: still in a call after 60 s"
        assert c.error is None, f"{c.directory}: {c.error!r}"
        c.check_log()
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
