#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 120
# quick: yes
"""Replies that passthrough sends through a pipe, over /dev/fuse: the same bytes as the source's, wherever a file ends and
wherever a read begins, also where the source cannot be spliced or changes meanwhile; none with no_splice_write."""

import json
import mmap
import os
import random
import subprocess
import sys
import tempfile
import threading
import time

SIZES = [0, 1, 4095, 16384, 16385, 100_001, 131_072, 131_073, 1_000_000, 3_333_333]
FILE = "/f"


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


class Mount:
    def __init__(self, source, *options):
        self.directory = tempfile.mkdtemp()
        subprocess.run(["efuse", "mount", "passthrough", self.directory, "--transport", "dev", "-o",
                        ",".join([f"source={source}", *options])], check=True, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.directory], check=True)
        os.rmdir(self.directory)

    def stat(self):
        done = subprocess.run(["efuse", "stat", self.directory, "--json"], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)[0]

    def spliced(self):
        return self.stat()["spliced"]


def read_at(fd, at, size):
    """One read(2) into memory that suits O_DIRECT."""
    with mmap.mmap(-1, size) as memory:
        n = os.preadv(fd, [memory], at)
        return memory[:n]


def put(path, size):
    with open(path, "wb") as f:
        f.write(random.randbytes(size))


def get(path):
    with open(path, "rb") as f:
        return f.read()


def same_everywhere(m, source, name):
    want = get(f"{source}/{name}")
    assert get(f"{m.directory}/{name}") == want, f"{name} differs"
    for flags in (0, os.O_DIRECT):
        fd = os.open(f"{m.directory}/{name}", os.O_RDONLY | flags)
        for at in (0, 1, 4096, 5000, max(len(want) - 20_000, 0), max(len(want) - 1, 0), len(want), len(want) + 70_000):
            for size in (1, 16_384, 65_537, 1 << 19, 1 << 20):
                got = read_at(fd, at, size)
                assert got == want[at:at + size], f"{size} bytes of {name} at {at}: {len(got)} others (flags {flags:#x})"
        os.close(fd)


def test_contents(source):
    for size in SIZES:
        put(f"{source}/{size}", size)
    with Mount(source) as m:
        for size in SIZES:
            same_everywhere(m, source, str(size))
        spliced, reads = m.spliced(), m.stat()["by_op"]["READ"]["stock"]
        assert reads > spliced > reads / 4, f"{spliced} of {reads} replies went through a pipe"
    with Mount(source, "no_splice_write") as m:
        for size in SIZES:
            same_everywhere(m, source, str(size))
        assert m.spliced() == 0


def test_each_is_counted(source):
    """One read, one request, one reply: from 16 KiB up."""
    put(source + FILE, 1 << 20)
    with Mount(source) as m:
        fd = os.open(m.directory + FILE, os.O_RDONLY | os.O_DIRECT)
        for size, more in ((4096, 0), (12_288, 0), (16_384, 1), (65_536, 1), (1 << 19, 1)):
            before = m.spliced()
            for _ in range(3):
                read_at(fd, 0, size)
            assert m.spliced() - before == 3 * more, f"reads of {size}"
        os.close(fd)


def test_sources_without_pages():
    """/proc makes texts as they are read, and no more than a page of them at once."""
    with Mount("/proc", "direct_io") as m:
        fd = os.open("/proc/kallsyms", os.O_RDONLY)
        want = read_at(fd, 0, 1 << 17)
        while len(want) < 1 << 17:
            more = read_at(fd, len(want), (1 << 17) - len(want))
            if not more:
                break
            want += more
        os.close(fd)
        fd = os.open(m.directory + "/kallsyms", os.O_RDONLY)
        for _ in range(3):
            assert read_at(fd, 0, 1 << 17) == want, "kallsyms differs"
        os.close(fd)


def test_changing_source(source):
    """Reads of a file that shrinks and grows meanwhile have what it had at some moment, and never an error."""
    path, done = source + FILE, threading.Event()
    size = 400_000
    pages = b"".join(bytes([65 + i % 26]) * 4096 for i in range(size // 4096 + 1))[:size]

    def change():
        while not done.is_set():
            with open(path, "r+b") as f:
                f.truncate(random.randrange(size))
                f.seek(0)
                f.write(pages)
    with open(path, "wb") as f:
        f.write(pages)
    with Mount(source) as m:
        changer = threading.Thread(target=change)
        changer.start()
        try:
            fd = os.open(m.directory + FILE, os.O_RDONLY | os.O_DIRECT)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                at = 4096 * random.randrange(size // 4096)
                got = read_at(fd, at, 131_072)
                wrong = [i for i in range(0, len(got), 512) if got[i] not in (0, pages[at + i])]
                assert not wrong, f"at {at + wrong[0]}: {got[wrong[0]]}"
            os.close(fd)
        finally:
            done.set()
            changer.join()
        assert m.spliced() > 0


def main():
    if os.geteuid() != 0:
        skip("only root mounts other users' directories here")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        skip("/dev/fuse cannot be opened here")
    random.seed(7)
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        for source in (disk, tmpfs):
            test_contents(source)
            test_each_is_counted(source)
            test_changing_source(source)
        test_sources_without_pages()


main()
