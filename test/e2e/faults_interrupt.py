#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 200
# quick: yes
"""Signals to who waits for a request on a ring, with a daemon in this file that decides when to look at it: the
interrupt names the request, the answer EINTR arrives; a killed application goes at once while the request is not
taken, and only with the answer once it is; what was taken back is not there when the daemon looks."""
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import tempfile
import time

from mixed_load import END_LIMIT_S, libc, main, wait_until

ATTACH = struct.Struct("IIIiIIIIIIIIQQIIIIQQQ")
INFO = struct.Struct("IIQ18I")
IN_HEADER = struct.Struct("IIQQIIIHH")
IOC_ATTACH = 3 << 30 | ATTACH.size << 16 | 0xEF << 8
IOC_ENTER = 1 << 30 | 32 << 16 | 0xEF << 8 | 1
GETATTR = 3
DEPTH, PAYLOAD, SLOT = 8, 1 << 20, 512
OFFSET_FIELDS = dict(kern_head=14, pending=15, interrupt=16, forget=17, slot_in=18, user_head=19, complete=20, slot_out=21)


class RingDaemon:
    """One ring, served by hand."""

    def __init__(self):
        self.directory = tempfile.mkdtemp()
        self.fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.fuse},rootmode=40000,user_id=0,group_id=0".encode()
        assert libc.mount(b"raw", self.directory.encode(), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
        message = os.read(self.fuse, 1 << 17)
        unique, = struct.unpack_from("Q", message, 8)
        out = struct.pack("IIIIHHIIHHII", 7, 31, 65536, 0, 12, 9, 65536, 1, 16, 0, 0, 0) + bytes(24)
        os.write(self.fuse, struct.pack("IiQ", 16 + len(out), 0, unique) + out)
        self.attach()

    def attach(self):
        self.dev = os.open("/dev/efuse", os.O_RDWR | os.O_CLOEXEC)
        buf = bytearray(ATTACH.pack(ATTACH.size, 1, 0, self.fuse, 1, DEPTH, 16, SLOT, SLOT, PAYLOAD, 0, 0, 0, 0, 0, 0,
                                    0, 64, 0, 0, 0))
        fcntl.ioctl(self.dev, IOC_ATTACH, buf)
        kern_size, user_size = ATTACH.unpack(buf)[14:16]
        self.kern = mmap.mmap(self.dev, kern_size, prot=mmap.PROT_READ, offset=0)
        self.user = mmap.mmap(self.dev, user_size, offset=1 << 32)
        info = INFO.unpack_from(self.kern)
        self.at = {name: info[i - 1] for name, i in OFFSET_FIELDS.items()}
        self.pending_head = self.complete_tail = self.interrupt_head = 0

    def word(self, where, offset):
        return struct.unpack_from("I", self.kern, self.at[where] + offset)[0]

    def pending(self):
        return self.word("kern_head", 0) - self.pending_head & 0xffffffff

    def take(self):
        """The next request: (slot, gen, in_len, opcode, unique)."""
        wait_until(self.pending, "a request")
        slot, gen = struct.unpack_from("II", self.kern, self.at["pending"] + self.pending_head % DEPTH * 8)
        self.pending_head += 1
        struct.pack_into("I", self.user, self.at["user_head"], self.pending_head)
        at = self.at["slot_in"] + slot * SLOT
        in_len, = struct.unpack_from("I", self.kern, at + 8)
        _, opcode, unique = IN_HEADER.unpack_from(self.kern, at + 64)[:3]
        return slot, gen, in_len, opcode, unique

    def answer(self, slot, gen, error, body=b""):
        at = self.at["slot_out"] + slot * SLOT
        struct.pack_into("iI", self.user, at + 4, error, len(body))
        self.user[at + 16:at + 16 + len(body)] = body
        struct.pack_into("I", self.user, at, gen)
        struct.pack_into("II", self.user, self.at["complete"] + self.complete_tail % DEPTH * 8, slot, gen)
        self.complete_tail += 1
        struct.pack_into("I", self.user, self.at["user_head"] + 192, self.complete_tail)
        fcntl.ioctl(self.dev, IOC_ENTER, bytearray(32))

    def interrupts(self):
        """The requests to interrupt that were not asked for yet."""
        found = []
        while self.interrupt_head != self.word("kern_head", 64):
            found.append(struct.unpack_from("Q", self.kern, self.at["interrupt"] + self.interrupt_head % DEPTH * 16)[0])
            self.interrupt_head += 1
        struct.pack_into("I", self.user, self.at["user_head"] + 64, self.interrupt_head)
        return found

    def close(self):
        libc.umount2(self.directory.encode(), 2)
        os.close(self.fuse)
        os.close(self.dev)
        os.rmdir(self.directory)


def application(directory, handler=False):
    """Asks for the attributes of the root; ends with the errno."""
    pid = os.fork()
    if pid == 0:
        # Not os.stat(), which calls again after EINTR.
        if handler:
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.siginterrupt(signal.SIGUSR1, True)
        buffer = ctypes.create_string_buffer(256)
        force_sync = 0x2000
        result = libc.statx(-100, directory.encode(), force_sync, 0x7ff, buffer)
        os._exit(ctypes.get_errno() if result else 0)
    return pid


def ended(pid, seconds):
    status = []

    def reap():
        got, s = os.waitpid(pid, os.WNOHANG)
        if got:
            status.append(s)
        return got
    wait_until(reap, "the end of the application", seconds)
    return os.waitstatus_to_exitcode(status[0])


def attr_out():
    """The root's attributes: a directory, valid for no time."""
    return struct.pack("QIIQQQQQQIIIIIIIIII", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 1, 0, 0, 0, 4096, 0)


def interrupt_of_a_taken_request():
    d = RingDaemon()
    pid = application(d.directory, handler=True)
    slot, gen, _, opcode, unique = d.take()
    assert opcode == GETATTR, opcode
    assert not d.interrupts()
    os.kill(pid, signal.SIGUSR1)
    found = []
    wait_until(lambda: found.extend(d.interrupts()) or found, "the interrupt")
    assert found == [unique], (found, unique)
    d.answer(slot, gen, -errno.EINTR)
    assert ended(pid, 10) == errno.EINTR
    d.close()


def interrupt_that_is_ignored():
    d = RingDaemon()
    pid = application(d.directory, handler=True)
    slot, gen, *_ = d.take()
    os.kill(pid, signal.SIGUSR1)
    wait_until(d.interrupts, "the interrupt")
    d.answer(slot, gen, 0, attr_out())
    assert ended(pid, 10) == 0, "an answer after an interrupt counts"
    d.close()


def kill_before_taken():
    d = RingDaemon()
    pids = [application(d.directory) for _ in range(3)]
    wait_until(lambda: d.pending() == 3, "three requests")
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        assert ended(pid, END_LIMIT_S) == -signal.SIGKILL
    print(f"killed before taken: gone after {(time.monotonic() - began) * 1000:.0f} ms")
    # The slots are the daemon's until it has seen that there is nothing in them.
    for _ in range(3):
        slot, gen, in_len, *_ = d.take()
        assert in_len == 0, f"a request of {in_len} bytes that was taken back"
        d.answer(slot, gen, -errno.EIO)
    check_works(d)
    d.close()


def kill_after_taken():
    d = RingDaemon()
    pid = application(d.directory)
    slot, gen, in_len, *_ = d.take()
    assert in_len
    os.kill(pid, signal.SIGKILL)
    wait_until(d.interrupts, "the interrupt")
    time.sleep(0.3)
    assert os.waitpid(pid, os.WNOHANG)[0] == 0, "gone, though the daemon may have done what was asked"
    d.answer(slot, gen, 0, attr_out())
    assert ended(pid, 10) == -signal.SIGKILL
    check_works(d)
    d.close()


def check_works(d):
    """All slots are free again: more requests than there are."""
    for _ in range(2 * DEPTH):
        pid = application(d.directory)
        slot, gen, in_len, *_ = d.take()
        assert in_len
        d.answer(slot, gen, 0, attr_out())
        assert ended(pid, 10) == 0


if __name__ == "__main__":
    main(interrupt_of_a_taken_request, interrupt_that_is_ignored, kill_before_taken, kill_after_taken)
