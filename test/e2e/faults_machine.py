#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 600
# quick: no
# cpus: 2
"""What can happen to the machine under load: a CPU goes and comes back, memory is short for the clients, for the
daemon and for all of them, descriptors and locked memory run out; and rings and pools that are far too small for what
is asked of them. Nothing is lost, and what cannot be had is refused in words."""
import ctypes
import mmap
import os
import resource
import subprocess
import tempfile
import time

from mixed_load import LIMIT_S, Load, Mount, main, wait_until

CGROUP = "/sys/fs/cgroup"


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


class Group:
    """A memory cgroup; `join` is for the process that is to be limited."""

    def __init__(self, name, **limits):
        self.path = f"{CGROUP}/{name}"
        os.mkdir(self.path)
        for key, value in limits.items():
            write(f"{self.path}/memory.{key}", str(value))

    def join(self):
        write(f"{self.path}/cgroup.procs", str(os.getpid()))

    def read(self, name):
        with open(f"{self.path}/memory.{name}", encoding="ascii") as f:
            return f.read()

    def remove(self):
        def gone():
            try:
                os.rmdir(self.path)
                return True
            except OSError:
                return False
        wait_until(gone, f"the removal of {self.path}")


def cpu_goes_and_comes():
    online = "/sys/devices/system/cpu/cpu1/online"
    if not os.path.exists(online):
        print("this kernel cannot take a CPU offline: not tried")
        return
    mount = Mount()
    load = Load(mount.directory)
    load.make_progress()
    try:
        for _ in range(4):
            write(online, "0")
            load.make_progress()
            write(online, "1")
            load.make_progress()
    finally:
        write(online, "1")
    load.stop()
    mount.close()


def clients_are_short_of_memory():
    """Page cache of the mount is theirs: reclaim writes back through the daemon."""
    group = Group("clients", max=96 << 20, high=64 << 20)
    mount = Mount()
    load = Load(mount.directory, ("data", "map", "aio", "map", "meta"), group.join)
    hog = subprocess.Popen(["dd", "if=/dev/zero", f"of={mount.directory}/big", "bs=1M", "count=160", "status=none"],
                           preexec_fn=group.join)
    load.make_progress()
    assert hog.wait(8 * LIMIT_S) == 0, "dd under a memory limit"
    assert os.stat(f"{mount.directory}/big").st_size == 160 << 20
    load.make_progress()
    load.stop()
    print("clients' group: " + " ".join(group.read("events").split()))
    os.unlink(f"{mount.directory}/big")
    mount.close()
    group.remove()


def daemon_is_short_of_memory():
    """Throttled at each allocation, as memory.high does, it is slow and nothing else."""
    group = Group("daemon", high=8 << 20)
    mount = Mount("--set", "ring.payload_size=1MiB", prepare=group.join)
    load = Load(mount.directory, ("data", "aio", "meta"))
    load.make_progress(seconds=8 * LIMIT_S)
    load.stop(8 * LIMIT_S)
    events = dict(line.split() for line in group.read("events").splitlines())
    print(f"daemon's group: {events}")
    assert int(events["high"]), "the daemon was never short of memory"
    mount.close()
    group.remove()


def all_are_short_of_memory():
    """One limit for the clients, the daemon and a process that dirties all it gets."""
    group = Group("everybody", high=160 << 20)
    mount = Mount("--set", "ring.payload_size=1MiB", prepare=group.join)
    load = Load(mount.directory, ("data", "map", "aio", "meta"), group.join)
    pressing = os.fork()
    if pressing == 0:
        group.join()
        area = mmap.mmap(-1, 140 << 20)
        while True:
            for at in range(0, len(area), mmap.PAGESIZE):
                area[at] = 1
            time.sleep(0.05)
    try:
        for _ in range(3):
            load.make_progress(seconds=8 * LIMIT_S)
    finally:
        os.kill(pressing, 9)
        os.waitpid(pressing, 0)
    load.stop(8 * LIMIT_S)
    mount.close()
    group.remove()


def full_pool():
    """Payload of 64 KiB for each ring and calls of 1 MiB, several at a time."""
    mount = Mount("--set", "session.max_write=64KiB", "--set", "ring.payload_size=64KiB")
    load = Load(mount.directory)
    data = os.urandom(1 << 20)
    pids = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            os._exit(big_calls(f"{mount.directory}/big{number}", data, number % 2))
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0, "a 1 MiB call went wrong"
    load.make_progress()
    load.stop()
    mount.close()


def big_calls(path, data, direct):
    area = mmap.mmap(-1, len(data))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0))
    for _ in range(6):
        area[:] = data
        if os.pwritev(fd, [area], 0) != len(data):
            return 1
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        area[:] = bytes(len(data))
        if os.preadv(fd, [area], 0) != len(data) or area[:] != data:
            return 2
    return 0


def full_ring():
    """Four slots, 64 processes that all want one."""
    mount = Mount("--set", "ring.depth=4")
    pids = []
    for number in range(64):
        pid = os.fork()
        if pid == 0:
            os._exit(crowd(f"{mount.directory}/c{number}"))
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0, "one of the crowd got an error"
    print(f"full ring: {mount.stat()['requests']}")
    assert not os.listdir(mount.directory)
    mount.close()


def crowd(path):
    for i in range(20):
        with open(f"{path}.{i}", "wb") as f:
            f.write(path.encode())
        with open(f"{path}.{i}", "rb") as f:
            if f.read() != path.encode():
                return 1
        os.unlink(f"{path}.{i}")
    return 0


def mount_with(limits, transport="ring"):
    """efuse mount as nobody's concern: limits {resource: value}, without CAP_IPC_LOCK and CAP_SYS_RESOURCE."""
    directory = tempfile.mkdtemp()

    def prepare():
        for what, value in limits.items():
            resource.setrlimit(what, (value, value))
        for capability in (14, 24):     # CAP_IPC_LOCK, CAP_SYS_RESOURCE
            if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):    # PR_CAPBSET_DROP
                os._exit(126)
    done = subprocess.run(["efuse", "mount", "memfs", directory, "--transport", transport], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, preexec_fn=prepare, timeout=LIMIT_S, check=False)
    text = (done.stdout + done.stderr).strip()
    print(f"{limits}: {done.returncode}: {text}")
    return directory, done.returncode, text


def limits_are_refused_in_words():
    directory, code, text = mount_with({resource.RLIMIT_MEMLOCK: 1 << 20})
    assert code and "memlock" in text.lower() + text.replace("locked memory", "memlock"), text
    os.rmdir(directory)
    directory, code, text = mount_with({resource.RLIMIT_MEMLOCK: 1 << 20}, "auto")
    assert code == 0 and "transport dev" in text, text
    with open(f"{directory}/f", "w", encoding="ascii") as f:
        f.write("x")
    subprocess.run(["umount", directory], check=True)
    os.rmdir(directory)
    directory, code, text = mount_with({resource.RLIMIT_NOFILE: 5})
    assert code and text, "too few descriptors went unnoticed"
    os.rmdir(directory)


if __name__ == "__main__":
    main(cpu_goes_and_comes, clients_are_short_of_memory, daemon_is_short_of_memory, all_are_short_of_memory,
         full_pool, full_ring, limits_are_refused_in_words)
