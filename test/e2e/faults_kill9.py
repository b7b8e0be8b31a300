#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 900
# quick: no
"""kill -9 of the daemon at random moments under a mixed load, KILL_CYCLES (15) times: every waiting call ends with an
error within a second, the mount goes, the next one works, and kernel memory does not grow with the cycles. Where the
passthrough filesystem is there: what fsync() acknowledged is in the directory below.

KILL_SEED: of the moments."""
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from mixed_load import BLOCK, DEBUG_KERNEL, END_LIMIT_S, Load, Mount, block, main

CYCLES = int(os.environ.get("KILL_CYCLES", "15"))
SEED = int(os.environ.get("KILL_SEED", str(random.randrange(1 << 32))))
# An attachment has over 4 MiB for each ring: a leaked one is far above this, noise of caches far below.
GROWTH_KB_PER_CYCLE = 64
WARM_UP = 5     # cycles in which caches grow to their size


def kernel_kb():
    """Unreclaimable slab, vmalloc, per-CPU and page-table memory, once what is being freed is."""
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3")
    with open("/proc/meminfo", encoding="ascii") as f:
        fields = dict(line.split(":") for line in f)
    return sum(int(fields[k].split()[0]) for k in ("SUnreclaim", "VmallocUsed", "Percpu", "PageTables"))


def slope(values):
    """Least squares, in units of values for each step."""
    n = len(values)
    mean_x, mean_y = (n - 1) / 2, sum(values) / n
    over = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values))
    return over / sum((x - mean_x) ** 2 for x in range(n))


def cycle(chance):
    mount = Mount()
    load = Load(mount.directory)
    # Sometimes before the clients have begun, sometimes in the middle of things.
    if chance.random() < 0.8:
        load.make_progress()
    time.sleep(chance.random() * 0.7)
    killed = time.monotonic()
    mount.signal(signal.SIGKILL)
    late = load.ended_with_mount(killed)
    mount.bury()
    return late


def kill_cycles():
    chance = random.Random(SEED)
    print(f"KILL_SEED={SEED}, {CYCLES} cycles", flush=True)
    latest, memory = 0.0, []
    for number in range(CYCLES):
        late = cycle(chance)
        latest = max(latest, late)
        assert late < END_LIMIT_S, f"cycle {number}: a client waited {late:.2f} s after the daemon's death"
        memory.append(kernel_kb())
    print(f"longest wait after a death: {latest * 1000:.0f} ms")
    if CYCLES < 2 * WARM_UP:
        print("too few cycles to judge memory by")
        return
    grown = slope(memory[WARM_UP:])
    print(f"kernel memory: {memory[WARM_UP]} kB after {WARM_UP} cycles, {memory[-1]} kB after {CYCLES}, "
          f"{grown:+.1f} kB a cycle")
    if DEBUG_KERNEL:
        print("a kernel with KASAN keeps what was freed: growth is not judged")
        return
    assert grown < GROWTH_KB_PER_CYCLE, f"kernel memory grows by {grown:.0f} kB a cycle: {memory}"


def writer(directory, number, pipe):
    """Writes and syncs its file, and tells of each fsync() that returned. Ends with the mount."""
    fd = os.open(f"{directory}/w{number}", os.O_RDWR | os.O_CREAT, 0o600)
    use = 0
    while True:
        use += 1
        for i in range(4):
            os.pwrite(fd, block(number, i, use), i * BLOCK)
        os.fsync(fd)
        os.write(pipe, use.to_bytes(8, "little"))


def start_writer(directory, number):
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            writer(directory, number, write_end)
        except OSError as e:
            os._exit(0 if e.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO) else 1)
        finally:
            os._exit(1)
    os.close(write_end)
    return pid, read_end


def last_acknowledged(read_end):
    with os.fdopen(read_end, "rb") as f:
        return max((int.from_bytes(record, "little") for record in iter(lambda: f.read(8), b"")), default=0)


def acknowledged_is_there():
    probe = subprocess.run(["efuse", "mount", "--help"], capture_output=True, text=True, check=False)
    if "passthrough" not in probe.stdout:
        print("no passthrough filesystem here: what fsync() acknowledged is not checked")
        return
    chance = random.Random(SEED + 1)
    acknowledged = 0
    with tempfile.TemporaryDirectory() as source:
        for _ in range(max(1, CYCLES // 5)):
            mount = Mount("-o", f"source={source}", fs="passthrough")
            writers = [start_writer(mount.directory, i) for i in range(4)]
            time.sleep(0.3 + chance.random())
            mount.signal(signal.SIGKILL)
            for number, (pid, read_end) in enumerate(writers):
                use = last_acknowledged(read_end)
                acknowledged += use
                _, status = os.waitpid(pid, 0)
                assert status == 0, f"writer {number}: {status}"
                check_blocks(f"{source}/w{number}", number, use)
            mount.bury()
    print(f"fsync() acknowledged {acknowledged} times")
    assert acknowledged, "no write was ever acknowledged"


def check_blocks(path, number, use):
    """At least what was acknowledged; a later write may be there in part."""
    if not use:
        return
    with open(path, "rb") as f:
        for i in range(4):
            data = f.read(BLOCK)
            assert data in (block(number, i, use), block(number, i, use + 1)), \
                f"{path}: block {i} is not of write {use} or {use + 1}: {data[:16]!r}"


if __name__ == "__main__":
    main(kill_cycles, acknowledged_is_there)
