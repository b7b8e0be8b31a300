#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 400
# quick: yes
"""What can happen to a daemon under load: it is killed, or stopped and continued, its mount is forced away, detached
lazily or aborted, and the module cannot go from under it. Calls wait, or end with an error at once; no byte is lost."""
import ctypes
import errno
import os
import signal
import subprocess
import time

from mixed_load import END_LIMIT_S, SYS_DELETE_MODULE, Load, Mount, libc, main, mounted, wait_until

MNT_FORCE = 1


def stop_and_continue():
    mount = Mount()
    load = Load(mount.directory)
    load.make_progress()
    for stopped_s in (0.05, 0.3, 1.0, 2.0):
        mount.signal(signal.SIGSTOP)
        time.sleep(stopped_s)
        load.check_no_end()
        mount.signal(signal.SIGCONT)
        load.make_progress()
    rounds = load.stop()
    print(f"rounds over four stops: {rounds}")
    assert mount.close() == 0


def removal_is_refused():
    mount = Mount()
    load = Load(mount.directory)
    load.make_progress()
    for _ in range(5):
        assert libc.syscall(SYS_DELETE_MODULE, b"efuse_ring", os.O_NONBLOCK) == -1, "the module is gone"
        assert ctypes.get_errno() == errno.EAGAIN, os.strerror(ctypes.get_errno())
    load.make_progress()
    load.stop()
    mount.close()


def dies(how, act):
    """The mount dies under load: whoever waits hears of it at once, and the daemon ends."""
    mount = Mount()
    load = Load(mount.directory)
    load.make_progress()
    began = act(mount)
    late = load.ended_with_mount(began)
    print(f"{how}: the last client ended after {late * 1000:.0f} ms")
    assert late < END_LIMIT_S, f"{how}: a client waited {late:.2f} s"
    mount.bury()


def force_umount():
    """Open files make the umount itself fail; the connection is gone all the same."""
    def act(mount):
        began = time.monotonic()
        libc.umount2(mount.directory.encode(), MNT_FORCE)
        return began
    dies("umount -f", act)


def abort():
    def act(mount):
        began = time.monotonic()
        mount.abort()
        return began
    dies("abort", act)


def kill():
    def act(mount):
        began = time.monotonic()
        mount.signal(signal.SIGKILL)
        return began
    dies("kill -9", act)


def abort_while_stopped():
    mount = Mount()
    load = Load(mount.directory)
    load.make_progress()
    mount.signal(signal.SIGSTOP)
    time.sleep(0.5)
    began = time.monotonic()
    mount.abort()
    late = load.ended_with_mount(began)
    assert late < END_LIMIT_S, f"with a stopped daemon a client waited {late:.2f} s after the abort"
    mount.signal(signal.SIGCONT)
    mount.bury()


def lazy_umount():
    """Who has a file open goes on; the rest is gone, and the daemon ends with the last one."""
    mount = Mount()
    load = Load(mount.directory, ("data", "map", "aio", "data"))
    load.make_progress()
    subprocess.run(["umount", "-l", mount.directory], check=True)
    assert not mounted(mount.directory)
    assert mount.daemon.poll() is None, "the daemon ended with files open"
    load.make_progress()
    # Not stop(): at their end clients open their file by its name, which is gone.
    load.kill()
    wait_until(lambda: load.reap() or not load.pids, "killed clients")
    assert mount.wait() == 0
    os.rmdir(mount.directory)


def killed_in_a_call(mount):
    """A process that waits for a stopped daemon, at least as long as it takes to get there."""
    pid = os.fork()
    if pid == 0:
        try:
            os.stat(f"{mount.directory}/{os.getpid()}")
        except OSError as e:
            os._exit(0 if e.errno == errno.ENOENT else 1)
        os._exit(2)
    return pid


def kill_waiting_applications():
    """SIGKILL of who waits for a daemon that does not answer: it dies, and its directory is free for others."""
    mount = Mount()
    mount.signal(signal.SIGSTOP)
    pids = [killed_in_a_call(mount) for _ in range(8)]
    time.sleep(0.3)
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    def reap():
        pids[:] = [p for p in pids if os.waitpid(p, os.WNOHANG)[0] == 0]
        return not pids
    try:
        wait_until(reap, "the end of killed applications", 5)
    finally:
        mount.signal(signal.SIGCONT)
    took = time.monotonic() - began
    print(f"killed while waiting: gone after {took * 1000:.0f} ms")
    assert took < END_LIMIT_S
    assert not os.listdir(mount.directory)
    mount.close()


def signals_while_stopped():
    """A handled signal does not end a wait for a daemon that is only slow, nor lose the call."""
    mount = Mount()

    def handle():
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    load = Load(mount.directory, ("data", "meta", "aio"), handle)
    for _ in range(3):
        mount.signal(signal.SIGSTOP)
        time.sleep(0.4)
        load.check_no_end()
        mount.signal(signal.SIGCONT)
        load.make_progress()
    load.stop()
    mount.close()


if __name__ == "__main__":
    main(stop_and_continue, removal_is_refused, force_umount, abort, kill, abort_while_stopped, lazy_umount,
         signals_while_stopped, kill_waiting_applications)
