#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 120
# quick: yes
"""efuse top --batch: what the tables say adds up to what was asked of the mount; mounts come and go, one whose daemon
is stopped or killed is told of or left out, and the others are shown on."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LIMIT_S = 60
CALLS = 400
ROW = re.compile(r"(\S+)((?: +\S+){4})((?: +\S+){4})$")


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def mount(name):
    directory = f"{os.environ['EFUSE_RUNDIR']}/{name}"
    os.mkdir(directory)
    daemon = subprocess.Popen(["efuse", "mount", "memfs", directory, "-f", "--transport", "dev",
                               "-o", "entry_timeout=0,attr_timeout=0"], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout.readline(), f"efuse mount ended with {daemon.wait()}"
    return directory, daemon


class Top:
    def __init__(self, *arguments):
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(["efuse", "top", "--batch", "--interval", "0.5", *arguments],
                                        stdout=subprocess.PIPE, stderr=self.said, text=True)

    def table(self):
        """{mountpoint: (the title's rest, {opcode: [figures]})}; frames end with an empty line, or the output does"""
        found, rows = {}, None
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if not line:
                return found
            if line.startswith("/"):
                name, _, rest = line.partition("  ")
                rows = {}
                found[name] = (rest, rows)
            elif rows is not None:
                matched = ROW.match(line)
                assert matched, f"no row: {line!r}"
                rows[matched[1]] = (matched[2] + matched[3]).split()
        return found

    def until(self, condition, what):
        end = time.monotonic() + LIMIT_S
        while True:
            table = self.table()
            if condition(table):
                return table
            assert time.monotonic() < end and self.process.poll() is None, f"{what}: not seen; last: {table}"

    def errors(self):
        self.said.seek(0)
        return self.said.read()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def seconds_of(title):
    matched = re.search(r"last ([\d.]+) s$", title)
    return float(matched[1]) if matched else None


def check_adds_up(directory):
    """Rates of all intervals, times their lengths, are the calls that were made."""
    top = Top(directory)
    path = directory + "/file"
    with open(path, "w", encoding="ascii"):
        pass
    top.until(lambda t: directory in t, "the mount")
    top.until(lambda t: t[directory][1].get("GETATTR") is None, "an interval without GETATTR")
    stat_fd = os.open(path, os.O_RDONLY)
    for _ in range(CALLS):
        os.fstat(stat_fd)
    seen = 0.0
    end = time.monotonic() + LIMIT_S
    after = 2       # tables, in which nothing more may be
    while after and time.monotonic() < end:
        title, rows = top.table()[directory]
        after -= seen >= 0.95 * CALLS
        if "GETATTR" in rows:
            ring, uring, stock, fast = map(float, rows["GETATTR"][:4])
            assert ring == uring == fast == 0, rows
            seen += stock * seconds_of(title)
            p50, p99, service50, service99 = map(float, rows["GETATTR"][4:]) if rows["GETATTR"][4] != "-" else \
                (0.0, 0.0, *map(float, rows["GETATTR"][6:]))
            assert p50 <= p99 and 0 < service50 <= service99, rows
            assert float(rows["all"][2]) >= stock, rows
    os.close(stat_fd)
    top.close()
    print(f"{CALLS} calls, {seen:.0f} seen", flush=True)
    assert abs(seen - CALLS) <= 0.05 * CALLS, f"{seen} of {CALLS} calls seen"


def check_come_and_go(first):
    top = Top()
    top.until(lambda t: list(t) == [first], "the first mount alone")
    second, daemon = mount("second")
    top.until(lambda t: second in t and seconds_of(t[second][0]), "the second mount")
    daemon.send_signal(signal.SIGSTOP)
    top.until(lambda t: list(t) == [first], "the first mount, while the second one's daemon is stopped")
    assert re.search(rf"{daemon.pid}-\d+\.sock: no answer", top.errors()), top.errors()
    daemon.send_signal(signal.SIGCONT)
    table = top.until(lambda t: second in t, "the second mount again")
    # From the last answer before.
    assert seconds_of(table[second][0]) > 0.9, table[second][0]
    daemon.kill()
    daemon.wait()
    top.until(lambda t: list(t) == [first], "the second mount gone")
    subprocess.run(["umount", "-l", second], check=True)
    top.close()


def check_ends(first, daemon):
    done = subprocess.run(["efuse", "top", "--batch", "-n", "2", "--interval", "0.1", "--all"], capture_output=True,
                          text=True, timeout=LIMIT_S, check=True)
    assert len(done.stdout.split("\n\n")) == 2 and "GETATTR" in done.stdout, done.stdout
    for arguments, status, expected in ((["-b", "/none"], 1, "no efuse mount"), ([], 1, "not a terminal"),
                                        (["-b", "--interval", "0"], 2, "interval"), (["-n", "0"], 2, "iterations")):
        done = subprocess.run(["efuse", "top", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)
        assert done.returncode == status and expected in done.stderr, f"{arguments}: {done}"
    subprocess.run(["umount", first], check=True)
    daemon.wait(LIMIT_S)
    done = subprocess.run(["efuse", "top", "-b", "-n", "1", "-i", "0.1"], capture_output=True, text=True,
                          timeout=LIMIT_S, check=True)
    assert "no efuse mounts" in done.stdout, done.stdout


def main():
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip("/dev/fuse cannot be opened here")
    work = tempfile.mkdtemp()
    os.environ["EFUSE_RUNDIR"] = work
    first, daemon = mount("first")
    try:
        check_adds_up(first)
        check_come_and_go(first)
        check_ends(first, daemon)
    finally:
        daemon.kill()
        for name in ("first", "second"):
            subprocess.run(["umount", "-l", f"{work}/{name}"], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
