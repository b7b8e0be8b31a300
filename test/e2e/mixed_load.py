# SPDX-License-Identifier: LGPL-2.1-or-later
"""For the fault tests: an efuse mount and a mixed load on it, of processes that check all that they read.

A client keeps a model of its own files. With every call it notes when it began, so that a test can tell who waits; the
first error that the test did not announce ends the client, and the test fails when it stops the load."""
import ctypes
import errno
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time

DEBUG_KERNEL = os.path.isdir("/sys/kernel/debug/failslab")      # it checks all that it does, and takes its time
LIMIT_S = 120 if DEBUG_KERNEL else 30   # for one call under emulation, when nothing is wrong
END_LIMIT_S = 10.0 if DEBUG_KERNEL else 1.0     # for a call whose connection has ended
BLOCK = 4096
BLOCKS = 64         # of a client's file
GONE = {errno.ECONNABORTED, errno.ENOTCONN, errno.EIO, errno.ENOENT}   # the last: unmounted by then

libc = ctypes.CDLL(None, use_errno=True)
SYS_DELETE_MODULE = 176
SYS_IO_SETUP, SYS_IO_DESTROY, SYS_IO_GETEVENTS, SYS_IO_SUBMIT = 206, 207, 208, 209
IOCB = struct.Struct("QIIHhIQQqQII")    # data, key, flags, opcode, priority, fd, buffer, bytes, offset, ...
IOCB_PREAD, IOCB_PWRITE = 0, 1


def wait_until(condition, what, seconds=LIMIT_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what() if callable(what) else what}: not within {seconds} s"
        time.sleep(0.01)


def where_is(pid):
    """The kernel functions that a process waits in."""
    try:
        with open(f"/proc/{pid}/stack", encoding="ascii") as f:
            return " < ".join(line.split("] ")[-1].split("+")[0] for line in f) or "running"
    except OSError as e:
        return e.strerror


def mounted(directory):
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return [line.split()[2].split(":")[1] for line in f if line.split()[4] == directory]


class Mount:
    """`efuse mount FS DIR -f`, usable when the constructor returns."""

    def __init__(self, *arguments, fs="memfs", transport="ring", prepare=None):
        self.directory = tempfile.mkdtemp()
        self.daemon = subprocess.Popen(
            ["efuse", "mount", fs, self.directory, "-f", "--transport", transport, *arguments],
            stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=prepare)
        line = self.daemon.stdout.readline()
        assert line, f"efuse mount ended with {self.daemon.wait()}"
        self.said = line.strip()
        self.connection, = mounted(self.directory)
        self.abort_fd = os.open(f"/sys/fs/fuse/connections/{self.connection}/abort", os.O_WRONLY)

    def stat(self):
        out = subprocess.run(["efuse", "stat", self.directory, "--json"], check=True, capture_output=True).stdout
        return json.loads(out)[0]

    def signal(self, number):
        os.kill(self.daemon.pid, number)

    def abort(self):
        os.write(self.abort_fd, b"1")

    def wait(self, seconds=LIMIT_S):
        """The daemon ends by itself."""
        status = self.daemon.wait(seconds)
        self.daemon.stdout.close()
        os.close(self.abort_fd)
        return status

    def bury(self):
        """After the connection's end: the daemon ends, and what is left of the mount goes."""
        status = self.wait()
        if mounted(self.directory):
            subprocess.run(["umount", self.directory], check=True, timeout=LIMIT_S)
        os.rmdir(self.directory)
        return status

    def close(self, *options):
        """umount, and nothing is left."""
        subprocess.run(["umount", *options, self.directory], check=True, timeout=LIMIT_S)
        status = self.wait()
        assert not mounted(self.directory), f"{self.directory} is still mounted"
        os.rmdir(self.directory)
        return status


class Aio:
    """Linux's own asynchronous I/O: a request of its kind is one of the kernel's background requests."""

    def __init__(self, depth):
        self.context = ctypes.c_ulong(0)
        self.depth = depth
        self.check(libc.syscall(SYS_IO_SETUP, depth, ctypes.byref(self.context)))

    @staticmethod
    def check(result):
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def run(self, fd, opcode, buffers, offsets):
        """All of it; the errors or lengths in order."""
        blocks = [ctypes.create_string_buffer(IOCB.pack(i, 0, 0, opcode, 0, fd, address, length, offset, 0, 0, 0))
                  for i, ((address, length), offset) in enumerate(zip(buffers, offsets))]
        pointers = (ctypes.c_void_p * len(blocks))(*[ctypes.addressof(b) for b in blocks])
        sent, results = 0, {}
        while len(results) < len(blocks):
            if sent < len(blocks):
                sent += self.check(libc.syscall(SYS_IO_SUBMIT, self.context, ctypes.c_long(len(blocks) - sent),
                                                ctypes.byref(pointers, sent * ctypes.sizeof(ctypes.c_void_p))))
            events = ctypes.create_string_buffer(32 * self.depth)
            try:
                n = self.check(libc.syscall(SYS_IO_GETEVENTS, self.context, ctypes.c_long(1), ctypes.c_long(self.depth),
                                            events, None))
            except InterruptedError:
                continue
            for i in range(n):
                number, _, result, _ = struct.unpack_from("QQqq", events, 32 * i)
                results[number] = result
        return [results[i] for i in range(len(blocks))]

    def close(self):
        libc.syscall(SYS_IO_DESTROY, self.context)


def block(owner, number, use):
    """What a block holds after its use-th write; the 0th is a hole."""
    if not use:
        return bytes(BLOCK)
    return struct.pack("<III", owner, number, use).ljust(16, b"e") * (BLOCK // 16)


class Client:
    """In a process of its own. `begun` is the clock's cell: when the call began, 0 between two of them."""

    def __init__(self, directory, number, kind, clock, stop):
        self.number, self.kind, self.clock, self.stop = number, kind, clock, stop
        self.path = f"{directory}/{kind}{number}"
        self.random = random.Random(number)
        self.uses = [0] * BLOCKS
        self.rounds = 0

    def timed(self, call, *args):
        self.clock.begin(self.number)
        try:
            return call(*args)
        finally:
            self.clock.end(self.number)

    def run(self):
        getattr(self, self.kind)()

    def more(self):
        self.rounds += 1
        self.clock.progress(self.number, self.rounds)
        return not self.stop()

    def changed(self, number):
        self.uses[number] += 1
        return block(self.number, number, self.uses[number])

    def expect(self, number, data):
        want = block(self.number, number, self.uses[number])
        if data != want:
            at = next((i for i, (a, b) in enumerate(zip(data, want)) if a != b), min(len(data), len(want)))
            raise AssertionError(f"{self.path}: block {number} differs at {at}: {data[at:at + 16]!r} for {want[at:at + 16]!r}")

    def check_all(self, fd):
        for i in range(BLOCKS):
            self.expect(i, self.timed(os.pread, fd, BLOCK, i * BLOCK))

    def open(self, flags=0):
        fd = self.timed(os.open, self.path, os.O_RDWR | os.O_CREAT | flags, 0o600)
        self.timed(os.ftruncate, fd, BLOCKS * BLOCK)
        return fd

    def meta(self):
        self.timed(os.mkdir, self.path)
        while True:
            names = [f"{self.path}/{i}" for i in range(8)]
            for n in names:
                os.close(self.timed(os.open, n, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            for n in names:
                self.timed(os.rename, n, n + "x")
            if sorted(self.timed(os.listdir, self.path)) != sorted(os.path.basename(n) + "x" for n in names):
                raise AssertionError(f"{self.path}: wrong names")
            for n in names:
                self.timed(os.stat, n + "x")
                self.timed(os.unlink, n + "x")
            if not self.more():
                break
        self.timed(os.rmdir, self.path)

    def data(self):
        fd = self.open()
        while True:
            for _ in range(8):
                i = self.random.randrange(BLOCKS)
                self.timed(os.pwrite, fd, self.changed(i), i * BLOCK)
            self.timed(os.fsync, fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for i in self.random.sample(range(BLOCKS), 8):
                self.expect(i, self.timed(os.pread, fd, BLOCK, i * BLOCK))
            if not self.more():
                break
        self.check_all(fd)
        os.close(fd)

    @staticmethod
    def must_not_exist(name, directory):
        try:
            os.stat(name, dir_fd=directory)
        except FileNotFoundError:
            return
        raise AssertionError(f"{name}: is there")

    def map(self):
        fd = self.open()
        view = mmap.mmap(fd, BLOCKS * BLOCK)
        # By descriptor: the mount's path may lead elsewhere when the mount is dead.
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        while True:
            for i in self.random.sample(range(BLOCKS), 4):
                view[i * BLOCK:(i + 1) * BLOCK] = self.changed(i)
            self.timed(view.flush)
            self.timed(view.madvise, mmap.MADV_DONTNEED)
            for i in self.random.sample(range(BLOCKS), 4):
                self.expect(i, self.timed(lambda at: view[at:at + BLOCK], i * BLOCK))
            # msync() of a dead connection gives no error, on any transport: fs/fuse drops the pages without a word.
            self.timed(self.must_not_exist, f"none{self.rounds}", directory)
            if not self.more():
                break
        view.close()
        self.check_all(fd)
        os.close(fd)

    def aio(self):
        fd = self.open(os.O_DIRECT)
        area = mmap.mmap(-1, 16 * BLOCK)
        base = ctypes.addressof(ctypes.c_char.from_buffer(area))
        buffers = [(base + i * BLOCK, BLOCK) for i in range(16)]
        ring = Aio(16)
        while True:
            numbers = self.random.sample(range(BLOCKS), 16)
            for opcode in (IOCB_PWRITE, IOCB_PREAD):
                for slot, i in enumerate(numbers):
                    area[slot * BLOCK:(slot + 1) * BLOCK] = self.changed(i) if opcode == IOCB_PWRITE else bytes(BLOCK)
                results = self.timed(ring.run, fd, opcode, buffers, [i * BLOCK for i in numbers])
                for result in results:
                    if result < 0:
                        raise OSError(-result, os.strerror(-result))
                    if result != BLOCK:
                        raise AssertionError(f"{self.path}: {result} bytes of a block")
            for slot, i in enumerate(numbers):
                self.expect(i, area[slot * BLOCK:(slot + 1) * BLOCK])
            if not self.more():
                break
        ring.close()
        os.close(fd)
        fd = os.open(self.path, os.O_RDONLY)
        self.check_all(fd)
        os.close(fd)


class Clock:
    """Shared by all processes of a load: for each client when its call began, when the last one ended, its rounds, how
    it ended."""
    CELL = struct.Struct("ddQ104s")

    def __init__(self, clients):
        self.memory = mmap.mmap(-1, 4096 + clients * self.CELL.size)

    def _at(self, number):
        return 4096 + number * self.CELL.size

    def begin(self, number):
        struct.pack_into("d", self.memory, self._at(number), time.monotonic())

    def end(self, number):
        struct.pack_into("dd", self.memory, self._at(number), 0.0, time.monotonic())

    def progress(self, number, rounds):
        struct.pack_into("Q", self.memory, self._at(number) + 16, rounds)

    def note(self, number, text):
        struct.pack_into("104s", self.memory, self._at(number) + 24, text.encode()[:104])

    def read(self, number):
        begun, ended, rounds, text = self.CELL.unpack_from(self.memory, self._at(number))
        return begun, ended, rounds, text.rstrip(b"\0").decode(errors="replace")

    def stop(self):
        self.memory[0] = 1

    def stopped(self):
        return self.memory[0] == 1


class Pulse:
    """How late this machine lets a process run that only sleeps: what of a delay is nobody's fault."""
    PERIOD_S = 0.005

    def __init__(self):
        self.memory = mmap.mmap(-1, 4096)
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                begin = time.monotonic()
                time.sleep(self.PERIOD_S)
                late = time.monotonic() - begin - self.PERIOD_S
                if late > struct.unpack_from("d", self.memory)[0]:
                    struct.pack_into("d", self.memory, 0, late)

    def reset(self):
        struct.pack_into("d", self.memory, 0, 0.0)

    def latest(self):
        return struct.unpack_from("d", self.memory)[0]

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Load:
    """`kinds` one process each. Ended by stop(), which demands that nothing went wrong, or by a dead mount, of which
    ended_with_mount() says how long the last call took."""
    KINDS = ("meta", "data", "map", "aio")

    def __init__(self, directory, kinds=KINDS, prepare=None):
        self.kinds = kinds
        self.clock = Clock(len(kinds))
        sys.stdout.flush()
        self.pulse = Pulse()
        self.pulse.reset()
        self.pids = {self._start(directory, i, kind, prepare): i for i, kind in enumerate(kinds)}
        self.status = {}

    def _start(self, directory, number, kind, prepare):
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if prepare:
                prepare()
            Client(directory, number, kind, self.clock, self.clock.stopped).run()
            code = 0
        except OSError as e:
            code = 2 if e.errno in GONE else 1
            self.clock.note(number, f"{errno.errorcode.get(e.errno, e.errno)} {e.filename or ''}")
        except BaseException as e:
            self.clock.note(number, f"{type(e).__name__}: {e}")
        finally:
            os._exit(code)

    def reap(self):
        for pid in list(self.pids):
            got, status = os.waitpid(pid, os.WNOHANG)
            if got:
                self.status[self.pids.pop(pid)] = (status, time.monotonic())

    def rounds(self):
        return [self.clock.read(i)[2] for i in range(len(self.kinds))]

    def said(self, number):
        return f"{self.kinds[number]}{number}: {self.clock.read(number)[3] or 'nothing'}"

    def who_is_left(self):
        return "; ".join(f"{self.said(i)} ({self.rounds()[i]} rounds, {where_is(pid)})" for pid, i in self.pids.items())

    def check_no_end(self):
        self.reap()
        assert not self.status, "ended: " + "; ".join(f"{self.said(i)} ({s})" for i, (s, _) in self.status.items())

    def make_progress(self, rounds=1, seconds=2 * LIMIT_S):
        """Each client does so many rounds more."""
        before = self.rounds()

        def done():
            self.check_no_end()
            return all(now >= was + rounds for now, was in zip(self.rounds(), before))
        wait_until(done, f"{rounds} rounds of each of {self.kinds}, from {before}", seconds)

    def stop(self, seconds=2 * LIMIT_S):
        """Every client ends its round, checks its file, and ends well. Returns the rounds."""
        self.clock.stop()
        wait_until(lambda: self.reap() or not self.pids, lambda: f"the end of {self.who_is_left()}", seconds)
        self.pulse.close()
        bad = [f"{self.said(i)} ({status})" for i, (status, _) in self.status.items() if status]
        assert not bad, "; ".join(bad)
        return self.rounds()

    def ended_with_mount(self, since, seconds=LIMIT_S):
        """The mount died at `since`: every client gets an error that says so. A mapping may end its with SIGBUS.
        Returns the longest that a call waited from then on, less what the machine let a mere sleeper wait."""
        wait_until(lambda: self.reap() or not self.pids, lambda: f"the end of {self.who_is_left()}", seconds)
        for number, (status, _) in self.status.items():
            code = os.waitstatus_to_exitcode(status)
            good = code == 2 or (code == -signal.SIGBUS and self.kinds[number] == "map")
            assert good, f"{self.said(number)}: ended with {code}"
        begun_or_ended = [self.clock.read(i)[:2] for i in range(len(self.kinds))]
        # A SIGBUS leaves its call begun: then the process's end counts.
        ends = [self.status[i][1] if begun else ended for i, (begun, ended) in enumerate(begun_or_ended)]
        late = self.pulse.latest()
        self.pulse.close()
        return max(0.0, max(ends) - since - late)

    def kill(self):
        self.pulse.close()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)


def main(*tests):
    for test in tests:
        begin = time.monotonic()
        test()
        print(f"{test.__name__}: {time.monotonic() - begin:.1f} s", flush=True)
