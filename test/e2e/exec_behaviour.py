#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 120
# quick: yes
"""`efuse exec` leaves a program its options, signals and exit status, and says so where it cannot help."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import examples  # noqa: E402
import programs  # noqa: E402
from programs import check, foreign, mounted, stat_of, until  # noqa: E402

SOURCE = foreign.libfuse_source()
if SOURCE is None:
    programs.skip("libfuse's source package is not in the cache (scripts/lib/foreign.py --fetch)")

# A high-level filesystem whose reads take a while, and which says how many run at a time.
SLOW = r"""
#define FUSE_USE_VERSION 31
#include <fuse.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static atomic_int now, most;
static int get(const char *path, struct stat *st, struct fuse_file_info *fi)
{ memset(st, 0, sizeof *st); st->st_nlink = 1; st->st_mode = strcmp(path, "/") ? S_IFREG | 0444 : S_IFDIR | 0755; st->st_size = 64; return 0; }
static int rd(const char *path, char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{ int n = ++now, m = most; while (n > m && !atomic_compare_exchange_weak(&most, &m, n)) ; usleep(50000); --now;
  return snprintf(buf, size, "%d\n", (int)most); }
static void *in(struct fuse_conn_info *c, struct fuse_config *cfg) { cfg->direct_io = 1; cfg->attr_timeout = 60; cfg->entry_timeout = 60; return 0; }
static const struct fuse_operations ops = { .getattr = get, .read = rd, .init = in };
int main(int argc, char **argv) { return fuse_main(argc, argv, &ops, NULL); }
"""


def compile_slow(machine):
    code, made = os.path.join(machine.work, "slow.c"), os.path.join(machine.work, "slow")
    with open(code, "w", encoding="ascii") as f:
        f.write(SLOW)
    subprocess.run(["cc", "-w", code, "-o", made, *examples.pkg_config("fuse3")], check=True)
    return made


def start(machine, name, command, transport="dev"):
    mountpoint = machine.folder(name)
    process = machine.start(programs.exec_command(transport, [*command, "-f", mountpoint]), name + ".log")
    until(f"{name} is in efuse stat", lambda: process.poll() is not None or
          (mounted(mountpoint) and stat_of(mountpoint)))
    check(f"{name} serves", process.poll() is None, machine.text(name + ".log"))
    return mountpoint, process


def end(mountpoint, process, how, status):
    how()
    until("the program ends", lambda: process.poll() is not None)
    check(f"{os.path.basename(mountpoint)}: exit status", process.returncode == status, str(process.returncode))
    check(f"{os.path.basename(mountpoint)}: not mounted", not mounted(mountpoint))


def read_at_once(mountpoint, count):
    """The number of callbacks that the filesystem has seen side by side."""
    seen = []

    def one(i):
        fd = os.open(os.path.join(mountpoint, f"f{i}"), os.O_RDONLY)
        seen.append(int(os.pread(fd, 16, 0)))
        os.close(fd)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(seen)


def at_a_time(machine, slow):
    for options, least, most in ((["-s"], 1, 1), (["-o", "max_threads=3"], 2, 3), ([], 5, 10)):
        mountpoint, process = start(machine, "at-once" + "".join(options).replace("=", ""), [slow, *options])
        got = read_at_once(mountpoint, 10)
        check(f"{options}: callbacks at a time", least <= got <= most, str(got))
        end(mountpoint, process, lambda: subprocess.run(["fusermount3", "-u", mountpoint], check=True), 0)
        print(f"ok: {' '.join(options) or 'no option'}: {got} callbacks at a time")


def signals(machine, slow):
    """As without efuse: whatever status the program has then."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        plain = machine.folder(f"plain-{number.name}")
        process = machine.start([slow, "-f", plain], "plain.log")
        until("mounted", lambda: mounted(plain))
        time.sleep(0.2)
        process.send_signal(number)
        status = process.wait(programs.PATIENCE)
        mountpoint, process = start(machine, f"signal-{number.name}", [slow])
        end(mountpoint, process, lambda: process.send_signal(number), status)
        print(f"ok: {number.name} ends it, status {status}")


def debug(machine, slow):
    mountpoint, process = start(machine, "debug", [slow, "-d"])
    os.stat(os.path.join(mountpoint, "f"))
    end(mountpoint, process, lambda: subprocess.run(["umount", mountpoint], check=True), 0)
    text = machine.text("debug.log")
    check("-d", "opcode: LOOKUP" in text and "unique:" in text, text)
    print("ok: -d prints libfuse's own lines")


def reconfigure(machine, slow):
    mountpoint, process = start(machine, "config", [slow])
    subprocess.run(["efuse", "config", "set", mountpoint, "polling.worker_spin_ns=1000"], check=True,
                   stdout=subprocess.DEVNULL)
    shown = subprocess.run(["efuse", "config", "get", mountpoint], check=True, stdout=subprocess.PIPE, text=True).stdout
    check("efuse config get", "1us" in shown or "1000" in shown, shown)
    end(mountpoint, process, lambda: subprocess.run(["fusermount3", "-u", mountpoint], check=True), 0)
    print("ok: efuse config")


def killed(machine, slow):
    """Requests in flight when the program dies."""
    mountpoint, process = start(machine, "killed", [slow])
    readers = [subprocess.Popen(["cat", os.path.join(mountpoint, f"f{i}")], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for i in range(4)]
    pid = stat_of(mountpoint)["pid"]
    os.kill(pid, signal.SIGKILL)
    process.wait(programs.PATIENCE)
    for reader in readers:
        reader.wait(programs.PATIENCE)
    subprocess.run(["umount", mountpoint], check=True)
    print("ok: killed with requests in flight, nobody hangs")


def says(command, *words):
    done = subprocess.run(["efuse", "exec", "--", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=programs.PATIENCE, check=False)
    lines = done.stderr.splitlines()
    check(f"{command[0]}: runs", done.returncode == 0 and "ran" in done.stdout, str(done))
    check(f"{command[0]}: one line", len(lines) == len(words) and all(w in line for w, line in zip(words, lines)),
          str(lines))
    print(f"ok: {lines[0] if lines else 'a script is not remarked upon'}")


def remarks(machine):
    """Programs for which nothing can be done; each prints a word, as it is."""
    code, static = os.path.join(machine.work, "word.c"), os.path.join(machine.work, "static")
    with open(code, "w", encoding="ascii") as f:
        f.write('#include <stdio.h>\nint main(void) { puts("ran"); return 0; }\n')
    subprocess.run(["cc", "-static", code, "-o", static], check=True)
    says([static], "is statically linked, so it runs as it is")

    old = os.path.join(machine.work, "libfuse.so.2")    # a library of that name is what makes it a libfuse 2 program
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", os.devnull, "-o", old, "-Wl,-soname,libfuse.so.2"], check=True)
    two = os.path.join(machine.work, "two")
    subprocess.run(["cc", code, "-o", two, "-Wl,--no-as-needed", old, f"-Wl,-rpath,{machine.work}"], check=True)
    says([two], "uses libfuse 2, so it runs as it is")

    script = os.path.join(machine.work, "script")
    with open(script, "w", encoding="ascii") as f:
        f.write("#!/bin/sh\necho ran\n")
    os.chmod(script, 0o755)
    says([script])
    says(["echo", "ran"], "is not linked with libfuse3")

    suid = os.path.join(machine.work, "suid")
    shutil.copy(two, suid)
    os.chown(suid, 65534, 65534)
    os.chmod(suid, 0o4755)
    says([suid], "is set-user-ID")


def through_script(machine, slow):
    """A wrapper that starts the filesystem."""
    script = os.path.join(machine.work, "wrapper")
    with open(script, "w", encoding="ascii") as f:
        f.write(f'#!/bin/sh\nexec {slow} "$@"\n')
    os.chmod(script, 0o755)
    mountpoint, process = start(machine, "wrapped", [script])
    end(mountpoint, process, lambda: subprocess.run(["fusermount3", "-u", mountpoint], check=True), 0)
    print("ok: through a script")


def falls_back(machine, slow):
    """A transport that is not here: libfuse's own loop, and one line that says so."""
    if "ring" in programs.usable_transports():
        return
    mountpoint = machine.folder("fallback")
    process = machine.start(programs.exec_command("ring", [slow, "-f", mountpoint]), "fallback.log")
    until("mounted", lambda: mounted(mountpoint))
    os.stat(os.path.join(mountpoint, "f"))
    end(mountpoint, process, lambda: subprocess.run(["fusermount3", "-u", mountpoint], check=True), 0)
    text = machine.text("fallback.log")
    check("one line", text.count("efuse exec:") == 1 and "so libfuse's own loop serves" in text, text)
    print(f"ok: {text.splitlines()[-1]}")


def main():
    # Programs are to end by these, also where who has started this ignores them (nohup, a shell in the background).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with programs.Machine() as machine:
        slow = compile_slow(machine)
        at_a_time(machine, slow)
        signals(machine, slow)
        debug(machine, slow)
        reconfigure(machine, slow)
        killed(machine, slow)
        through_script(machine, slow)
        falls_back(machine, slow)
        remarks(machine)


try:
    main()
except (programs.Failed, subprocess.SubprocessError) as error:
    sys.exit(f"FAILED: {error}")
