#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 120
# quick: yes
"""What the module answers to a wrong attach, mmap, enter, and that nothing is left behind.

Speaks to /dev/efuse and /dev/fuse directly, without the runtime."""
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import tempfile
import time

libc = ctypes.CDLL(None, use_errno=True)
ATTACH_FORMAT = "IIIiIIIIIIIIQQIIIIQQQ"
ATTACH_SIZE = struct.calcsize(ATTACH_FORMAT)
ENTER_SIZE = 32
TUNE_SIZE = 32


def _ioc(direction, number, size):
    return direction << 30 | size << 16 | 0xEF << 8 | number


IOC_ATTACH = _ioc(3, 0, ATTACH_SIZE)
IOC_ENTER = _ioc(1, 1, ENTER_SIZE)
IOC_DRAIN = _ioc(0, 2, 0)
IOC_DETACH = _ioc(0, 3, 0)
IOC_WAKE = _ioc(0, 4, 0)
IOC_TUNE = _ioc(1, 5, TUNE_SIZE)
CHANGE_FORMAT, BACKING_FORMAT, CREDITS_FORMAT = "4I4Q", "Ii3Q", "2I3Q"
STATS_SIZE = 40 + 64 * 32
IOC_CHANGE = _ioc(1, 6, struct.calcsize(CHANGE_FORMAT))
IOC_BACKING = _ioc(1, 7, struct.calcsize(BACKING_FORMAT))
IOC_CREDITS = _ioc(1, 8, struct.calcsize(CREDITS_FORMAT))
IOC_FASTPATH_STATS = _ioc(3, 9, STATS_SIZE)

GOOD = dict(size=ATTACH_SIZE, abi=1, flags=0, fd=-1, rings=1, depth=64, forget=64, slot_in=512, slot_out=512,
            payload=1 << 20, spin=50000, nr_cpus=0, cpus=0, features=0, kern=0, user=0, balance=3, congestion=8, r0=0, r1=0, r2=0)

INIT_EXT, OVER_IO_URING = 1 << 30, 1 << 41

failures = 0
checks = 0


def check(what, got, want):
    global failures, checks
    checks += 1
    ok = got == want
    failures += not ok
    if not ok:
        print(f"not ok: {what}: expected {want}, got {got}")


def name(code):
    return errno.errorcode.get(code, str(code)) if code else "ok"


def attempt(call):
    try:
        call()
        return "ok"
    except OSError as e:
        return name(e.errno)


def attach_bytes(**changes):
    return bytearray(struct.pack(ATTACH_FORMAT, *{**GOOD, **changes}.values()))


def attach(dev, **changes):
    buf = attach_bytes(**changes)
    fcntl.ioctl(dev, IOC_ATTACH, buf)
    return dict(zip(GOOD, struct.unpack(ATTACH_FORMAT, buf)))


def open_efuse():
    return os.open("/dev/efuse", os.O_RDWR | os.O_CLOEXEC)


def expect_attach(what, want, **changes):
    dev = open_efuse()
    check(what, attempt(lambda: attach(dev, **changes)), want)
    os.close(dev)


class RawMount:
    """A FUSE mount whose INIT is answered only when asked to."""

    def __init__(self, directory):
        self.directory = directory
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"raw", directory.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    def answer_init(self, flags=0):
        """False, and nothing is answered: the kernel does not offer all of `flags`."""
        message = os.read(self.fd, 1 << 17)
        unique, = struct.unpack_from("Q", message, 8)
        low, high = struct.unpack_from("12xII", message, 40)
        if flags & ~(low | high << 32):
            return False
        if flags:
            flags |= INIT_EXT
        out = struct.pack("IIIIHHIIHHII", 7, 31, 65536, flags & 0xffffffff, 12, 9, 65536, 1, 16, 0, flags >> 32, 0) + bytes(24)
        os.write(self.fd, struct.pack("IiQ", 16 + len(out), 0, unique) + out)
        return True

    def close(self):
        libc.umount2(self.directory.encode(), 2)
        os.close(self.fd)


def enter(dev, ring=0, flags=0, poll=0, reserved=0, timeout=0, reserved2=0):
    # A bytearray, so that ioctl() returns the call's own result.
    return fcntl.ioctl(dev, IOC_ENTER, bytearray(struct.pack("IIIIQQ", ring, flags, poll, reserved, timeout, reserved2)))


def offset(ring, region):
    return ring << 34 | region << 32


def raw_mmap(dev, size, prot, flags, off):
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    p = libc.mmap(None, size, prot, flags, dev, off)
    if p == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return p


def test_descriptors(mountpoint):
    expect_attach("descriptor that is not open", "EBADF", fd=9999)
    null = os.open("/dev/null", os.O_RDWR)
    expect_attach("descriptor of /dev/null", "ENOTTY", fd=null)
    os.close(null)
    plain = os.open("/etc/passwd", os.O_RDONLY)
    expect_attach("descriptor of a file", "ENOTTY", fd=plain)
    os.close(plain)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    expect_attach("/dev/fuse that is not mounted", "ENOTCONN", fd=fuse)
    os.close(fuse)
    other = open_efuse()
    expect_attach("descriptor of /dev/efuse", "ENOTTY", fd=other)
    os.close(other)
    raw = RawMount(mountpoint)
    expect_attach("before FUSE_INIT was answered", "EAGAIN", fd=raw.fd)
    if raw.answer_init(OVER_IO_URING):
        expect_attach("a connection that has agreed on FUSE-over-io_uring", name(errno.EOPNOTSUPP), fd=raw.fd)
    raw.close()


def test_parameters(fd):
    bad = [
        ("size too small", "EPROTONOSUPPORT", dict(size=ATTACH_SIZE - 8)),
        ("another ABI version", "EPROTONOSUPPORT", dict(abi=2)),
        ("unknown flags", "EINVAL", dict(flags=1)),
        ("unknown features", "EINVAL", dict(features=1 << 40)),
        ("output field set", "EINVAL", dict(kern=1)),
        ("reserved[0]", "EINVAL", dict(r0=1)),
        ("reserved[2]", "EINVAL", dict(r2=1 << 63)),
        ("unknown balancing policy", "EINVAL", dict(balance=4)),
        ("congestion 0", "EINVAL", dict(congestion=0)),
        ("congestion above any depth", "EINVAL", dict(congestion=32769)),
        ("no rings", "EINVAL", dict(rings=0)),
        ("more rings than CPUs", "EINVAL", dict(rings=100000)),
        ("2^32-1 rings", "EINVAL", dict(rings=0xffffffff)),
        ("depth 0", "EINVAL", dict(depth=0)),
        ("depth 2", "EINVAL", dict(depth=2)),
        ("depth not a power of two", "EINVAL", dict(depth=100)),
        ("depth 2^31", "EINVAL", dict(depth=1 << 31)),
        ("ring larger than its limit", "E2BIG", dict(depth=4096)),
        ("forget depth 3", "EINVAL", dict(forget=3)),
        ("slot_in 128", "EINVAL", dict(slot_in=128)),
        ("slot_in 2^20", "EINVAL", dict(slot_in=1 << 20)),
        ("slot_out 300", "EINVAL", dict(slot_out=300)),
        ("payload 0", "EINVAL", dict(payload=0)),
        ("payload not whole pages", "EINVAL", dict(payload=(1 << 20) + 512)),
        ("payload 2^31", "EINVAL", dict(payload=1 << 31)),
        ("CPU map of 2^31 entries", "EINVAL", dict(nr_cpus=1 << 31, cpus=4096)),
        ("CPU map at address 0", "EINVAL", dict(nr_cpus=1, cpus=0)),
        ("CPU map at a bad address", "EFAULT", dict(nr_cpus=1, cpus=0xffff000000000000)),
    ]
    for what, want, changes in bad:
        expect_attach(what, want, fd=fd, **changes)
    cpu_map = ctypes.create_string_buffer(struct.pack("II", 0, 1))
    expect_attach("CPU map names a ring that is not there", "EINVAL", fd=fd, nr_cpus=1,
                  cpus=ctypes.addressof(cpu_map))


def test_unattached():
    dev = open_efuse()
    check("ENTER before attach", attempt(lambda: enter(dev)), "ENOTCONN")
    check("DRAIN before attach", attempt(lambda: fcntl.ioctl(dev, IOC_DRAIN)), "ENOTCONN")
    check("CHANGE before attach", attempt(lambda: change(dev)), "ENOTCONN")
    check("unknown ioctl", attempt(lambda: fcntl.ioctl(dev, _ioc(0, 77, 0))), "ENOTTY")
    check("mmap before attach", attempt(lambda: raw_mmap(dev, 4096, 1, 1, 0)), "ENOTCONN")
    os.close(dev)


def change(dev, size=48, phase=0, what=0, name_len=0, nodeid=0, name=0, r0=0, r1=0):
    fcntl.ioctl(dev, IOC_CHANGE, struct.pack(CHANGE_FORMAT, size, phase, what, name_len, nodeid, name, r0, r1))


def backing(dev, size=32, fd=-1, nodeid=1, r0=0, r1=0):
    fcntl.ioctl(dev, IOC_BACKING, struct.pack(BACKING_FORMAT, size, fd, nodeid, r0, r1))


def credits_of(dev, size=32, nr=1, address=0, r0=0, r1=0):
    fcntl.ioctl(dev, IOC_CREDITS, struct.pack(CREDITS_FORMAT, size, nr, address, r0, r1))


def fastpath_stats(dev, size=STATS_SIZE, program=0, r0=0):
    fcntl.ioctl(dev, IOC_FASTPATH_STATS, bytearray(struct.pack("2I16s2Q", size, program, b"", r0, 0) + bytes(64 * 32)))


def test_fastpath(dev):
    """Of an attachment that never had a program; with programs, the fastpath_* tests and the fuzzer go on."""
    for what, want, call in [
        ("CHANGE of everything", "ok", lambda: change(dev)),
        ("CHANGE with a wrong size", "EINVAL", lambda: change(dev, size=40)),
        ("CHANGE with reserved", "EINVAL", lambda: change(dev, r1=1)),
        ("CHANGE of everything with a node", "EINVAL", lambda: change(dev, nodeid=1)),
        ("CHANGE of a node that begins", "EINVAL", lambda: change(dev, phase=1, what=1, nodeid=1)),
        ("CHANGE of a node with a name", "EINVAL", lambda: change(dev, what=1, name_len=1)),
        ("BACKING without a program", "ENOENT", lambda: backing(dev, fd=0)),
        ("BACKING with a wrong size", "EINVAL", lambda: backing(dev, size=24)),
        ("BACKING of node 0", "EINVAL", lambda: backing(dev, nodeid=0)),
        ("CREDITS", "ok", lambda: credits_of(dev)),
        ("CREDITS with no room", "EINVAL", lambda: credits_of(dev, nr=0)),
        ("CREDITS with a wrong size", "EINVAL", lambda: credits_of(dev, size=0)),
        ("FASTPATH_STATS without a program", "ENOENT", lambda: fastpath_stats(dev)),
        ("FASTPATH_STATS of program 4", "EINVAL", lambda: fastpath_stats(dev, program=4)),
        ("FASTPATH_STATS with a wrong size", "EINVAL", lambda: fastpath_stats(dev, size=40)),
        ("FASTPATH_STATS with reserved", "EINVAL", lambda: fastpath_stats(dev, r0=1)),
    ]:
        check(what, attempt(call), want)


def test_attached(fd):
    dev = open_efuse()
    a = attach(dev, fd=fd, spin=0xffffffff)
    check("spin is clamped", a["spin"], 1000000)
    check("same descriptor twice", attempt(lambda: attach(dev, fd=fd)), "EALREADY")
    expect_attach("same connection twice", "EBUSY", fd=fd)

    read, write, execute, shared, private = 1, 2, 4, 1, 2
    maps = [
        ("kernel region read-only", "ok", a["kern"], read, shared, offset(0, 0)),
        ("kernel region writable", "EACCES", a["kern"], read | write, shared, offset(0, 0)),
        ("user region", "ok", a["user"], read | write, shared, offset(0, 1)),
        ("payload region", "ok", a["payload"], read | write, shared, offset(0, 2)),
        ("executable", "EACCES", a["user"], read | execute, shared, offset(0, 1)),
        ("private", "EINVAL", a["user"], read | write, private, offset(0, 1)),
        ("region 3", "EINVAL", 4096, read, shared, offset(0, 3)),
        ("ring 1 of 1", "EINVAL", a["kern"], read, shared, offset(1, 0)),
        ("ring 2^28", "EINVAL", a["kern"], read, shared, offset(1 << 28, 0)),
        ("into the middle", "EINVAL", a["kern"] - 4096, read, shared, offset(0, 0) + 4096),
        ("too short", "EINVAL", 4096, read, shared, offset(0, 2)),
        ("too long", "EINVAL", a["payload"] + 4096, read | write, shared, offset(0, 2)),
    ]
    for what, want, size, prot, flags, off in maps:
        check("mmap " + what, attempt(lambda: raw_mmap(dev, size, prot, flags, off)), want)
    kern = raw_mmap(dev, a["kern"], read, shared, offset(0, 0))
    check("mprotect(PROT_WRITE) of the kernel region",
          name(ctypes.get_errno()) if libc.mprotect(ctypes.c_void_p(kern), ctypes.c_size_t(4096), 3) else "ok", "EACCES")
    check("ring header magic", ctypes.c_uint32.from_address(kern).value, 0x53554645)

    check("ENTER", attempt(lambda: enter(dev)), "ok")
    check("ENTER on ring 1 of 1", attempt(lambda: enter(dev, ring=1)), "EINVAL")
    check("ENTER with unknown flags", attempt(lambda: enter(dev, flags=8)), "EINVAL")
    check("ENTER with reserved", attempt(lambda: enter(dev, reserved=1)), "EINVAL")
    check("ENTER with reserved2", attempt(lambda: enter(dev, reserved2=1)), "EINVAL")
    check("ENTER that times out", attempt(lambda: enter(dev, flags=1, timeout=1000000)), "ok")
    check("WAKE of ring 5", attempt(lambda: fcntl.ioctl(dev, IOC_WAKE, 5)), "EINVAL")
    check("WAKE, then ENTER does not sleep", attempt(lambda: (fcntl.ioctl(dev, IOC_WAKE, 0), enter(dev, flags=1))), "ok")
    check("TUNE with a wrong size", attempt(lambda: fcntl.ioctl(dev, IOC_TUNE, bytes(32))), "EINVAL")
    check("TUNE", attempt(lambda: fcntl.ioctl(dev, IOC_TUNE, struct.pack("8I", 32, 0, 1000, 2, 4, 0, 0, 0))), "ok")
    check("TUNE with an unknown policy",
          attempt(lambda: fcntl.ioctl(dev, IOC_TUNE, struct.pack("8I", 32, 0, 1000, 4, 4, 0, 0, 0))), "EINVAL")
    check("TUNE with congestion 0",
          attempt(lambda: fcntl.ioctl(dev, IOC_TUNE, struct.pack("8I", 32, 0, 1000, 2, 0, 0, 0, 0))), "EINVAL")

    test_fastpath(dev)
    user = raw_mmap(dev, a["user"], read | write, shared, offset(0, 1))
    ctypes.c_uint32.from_address(user + 192).value = 0x7fffffff
    check("complete_tail far ahead", attempt(lambda: enter(dev)), "EINVAL")
    check("and then in step again", attempt(lambda: enter(dev)), "ok")
    ctypes.c_uint32.from_address(user + 192).value = 0x7fffffff + 3
    check("stale completions are consumed", enter(dev), 3)

    with open(f"/proc/self/fdinfo/{dev}", encoding="ascii") as f:
        check("fdinfo shows the ring", "efuse-ring-0-indices:" in f.read(), True)
    check("DETACH", attempt(lambda: fcntl.ioctl(dev, IOC_DETACH)), "ok")
    check("DETACH again", attempt(lambda: fcntl.ioctl(dev, IOC_DETACH)), "ok")
    check("ENTER after detach", attempt(lambda: enter(dev, flags=1)), "ENODEV")
    second = open_efuse()
    check("attach anew after detach", attempt(lambda: attach(second, fd=fd)), "ok")
    os.close(second)
    os.close(dev)
    expect_attach("attach anew after close", "ok", fd=fd)


def test_orphan(mountpoint):
    """Rings do not keep a connection alive that nobody can answer: its last descriptors are closed, who waits is told."""
    raw = RawMount(mountpoint)
    raw.answer_init()
    dev = open_efuse()
    attach(dev, fd=raw.fd)
    client = os.fork()
    if client == 0:
        os.close(raw.fd)
        os.close(dev)
        try:
            os.stat(mountpoint + "/file")
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    time.sleep(0.3)
    os.close(raw.fd)
    os.close(dev)
    end = time.monotonic() + 20
    pid, status = 0, 0
    while not pid and time.monotonic() < end:
        pid, status = os.waitpid(client, os.WNOHANG)
        time.sleep(0.05)
    check("a client of a connection without a daemon is told", pid == client and
          os.waitstatus_to_exitcode(status) in (errno.ENOTCONN, errno.ECONNABORTED), True)
    libc.umount2(mountpoint.encode(), 2)


def main():
    mountpoint = tempfile.mkdtemp()
    test_unattached()
    test_descriptors(mountpoint)
    raw = RawMount(mountpoint)
    raw.answer_init()
    test_parameters(raw.fd)
    test_attached(raw.fd)
    raw.close()
    test_orphan(mountpoint)
    with open("/proc/mounts", encoding="ascii") as f:
        check("no mount is left", mountpoint in f.read(), False)
    os.rmdir(mountpoint)
    print(f"{checks} checks, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
