#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
"""kill -9 of the daemon under load: every waiting request ends with an error within a second, the mount can be
unmounted, and the module can be attached to again."""
import errno
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

ROUNDS = 8
THREADS = 12
LIMIT_S = 1.0
ALLOWED = {errno.ECONNABORTED, errno.ENOTCONN, errno.EIO}


class Client(threading.Thread):
    """Works until the filesystem fails; notes when each call began and how the last one ended."""

    def __init__(self, directory, number):
        super().__init__(daemon=True)
        self.path = f"{directory}/c{number}"
        self.number = number
        self.calls = 0
        self.ended = None
        self.error = None

    def work(self):
        data = os.urandom(1 << (12 + self.number % 6))
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                os.pwrite(fd, data, (self.calls % 64) * 4096)
                os.fsync(fd)
                os.pread(fd, len(data), 0)
                os.stat(self.path)
                os.rename(self.path, self.path + "x")
                os.rename(self.path + "x", self.path)
                os.listdir(os.path.dirname(self.path))
                self.calls += 1
        finally:
            os.close(fd)

    def run(self):
        try:
            self.work()
        except OSError as e:
            self.error = e.errno
        self.ended = time.monotonic()


def daemon_pid(mountpoint):
    out = subprocess.run(["efuse", "stat", mountpoint, "--json"], check=True, capture_output=True).stdout
    return json.loads(out)[0]["pid"]


def one_round(number):
    mountpoint = tempfile.mkdtemp()
    subprocess.run(["efuse", "mount", "memfs", mountpoint, "--transport", "ring"], check=True,
                   stdout=subprocess.DEVNULL)
    pid = daemon_pid(mountpoint)
    clients = [Client(mountpoint, i) for i in range(THREADS)]
    for c in clients:
        c.start()
    time.sleep(0.3 + 0.17 * number)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for c in clients:
        c.join(timeout=30)
    stuck = [c.path for c in clients if c.ended is None]
    assert not stuck, f"round {number}: still waiting 30 s after the kill: {stuck}"
    late = max(c.ended - killed for c in clients)
    errors = {errno.errorcode.get(c.error, c.error) for c in clients}
    calls = sum(c.calls for c in clients)
    print(f"round {number}: {calls} rounds of calls, last one ended {late * 1000:.0f} ms after the kill, {errors}")
    assert all(c.error in ALLOWED for c in clients), errors
    assert late < LIMIT_S, f"round {number}: a request waited {late:.2f} s"
    assert calls > 0, "no load"
    subprocess.run(["umount", mountpoint], check=True)
    os.rmdir(mountpoint)


def main():
    for number in range(ROUNDS):
        one_round(number)


if __name__ == "__main__":
    main()
