# SPDX-License-Identifier: LGPL-2.1-or-later
"""libfuse's own examples, from Debian's source package: the low-level ones linked with libefuse, those of the
high-level API with libfuse and run by `efuse exec`. Not a test itself.

poll and ioctl are of the high-level API; an ioctl_ll is not in this Debian's libfuse.
"""

import fcntl
import os
import signal
import subprocess
import time

import programs
from programs import check, foreign, mounted, stat_of, until

BUILD = os.path.abspath(os.environ.get("EFUSE_BUILD") or os.path.join(programs.TOP, "build"))
OUT = os.path.join(BUILD, "examples")
LOW = ("hello_ll", "passthrough_ll", "notify_inval_inode", "notify_inval_entry", "notify_store_retrieve")
HIGH = ("poll", "ioctl")
CLIENTS = ("poll_client", "ioctl_client")
LINES = 30  # times that a file is read, so that there are requests to be counted


def pkg_config(package):
    env = {**os.environ, "PKG_CONFIG_PATH": os.path.join(BUILD, "meson-uninstalled")}
    return subprocess.run(["pkg-config", "--cflags", "--libs", package], env=env, stdout=subprocess.PIPE, text=True,
                          check=True).stdout.split()


def compile_all(source):
    """Once, for whichever machine is first: the others wait."""
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, ".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in LOW + HIGH + CLIENTS:
            made = os.path.join(OUT, name)
            code = os.path.join(source, "example", name + ".c")
            if os.path.exists(made) and os.path.getmtime(made) > os.path.getmtime(code):
                continue
            flags = pkg_config("efuse" if name in LOW else "fuse3") + [f"-Wl,-rpath,{BUILD}/runtime", "-pthread"]
            subprocess.run(["cc", "-O1", "-g", "-DHAVE_POSIX_FALLOCATE", "-DHAVE_UTIMENSAT",
                            "-DHAVE_COPY_FILE_RANGE", code, "-o", made + ".new", *flags], check=True)
            os.rename(made + ".new", made)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


class Example:
    """A program of OUT. Low-level ones take efuse's transport from the environment."""
    options = ()
    known = {}      # exit statuses that are no good and known: what is said of them

    def __init__(self, machine):
        self.machine = machine

    def command(self, mountpoint):
        return [os.path.join(OUT, self.name), *self.options, mountpoint]


class Hello(Example):
    name = "hello_ll"

    def use(self, mountpoint):
        path = os.path.join(mountpoint, "hello")
        check("listing", os.listdir(mountpoint) == ["hello"])
        check("text", all(read(path) == "Hello World!\n" for _ in range(LINES)))
        try:
            with open(path, "a", encoding="ascii"):
                raise programs.Failed("hello_ll was opened for writing")
        except PermissionError:
            pass


class Passthrough(Example):
    name = "passthrough_ll"

    def command(self, mountpoint):
        source = self.machine.folder("passthrough-" + os.path.basename(mountpoint))
        return [os.path.join(OUT, self.name), "-o", f"source={source},xattr", mountpoint]

    def use(self, mountpoint):
        programs.file_operations(mountpoint, xattrs=os.path.realpath(mountpoint).startswith("/tmp") and xattrs_in_tmp())


def xattrs_in_tmp():
    """tmpfs has user xattrs from Linux 6.6 on, where it is configured."""
    path = os.path.join("/tmp", f"efuse-xattr-{os.getpid()}")
    with open(path, "w", encoding="ascii"):
        pass
    try:
        os.setxattr(path, "user.efuse", b"1")
        return True
    except OSError:
        return False
    finally:
        os.unlink(path)


class InvalInode(Example):
    name = "notify_inval_inode"
    options = ("--update-interval=1",)

    def use(self, mountpoint):
        # Attributes and data are cached without end: only notifications make a change seen.
        path = os.path.join(mountpoint, "current_time")
        for _ in range(LINES):
            first = read(path)
        until("the file changes", lambda: read(path) != first, 10)


class InvalEntry(Example):
    name = "notify_inval_entry"
    options = ("--update-interval=1", "--timeout=600")

    def use(self, mountpoint):
        for _ in range(LINES):
            names = os.listdir(mountpoint)
        check("one name", len(names) == 1, str(names))
        until("the name is gone", lambda: not os.path.exists(os.path.join(mountpoint, names[0])), 10)


class StoreRetrieve(Example):
    name = "notify_store_retrieve"
    options = ("--update-interval=1",)

    def use(self, mountpoint):
        path = os.path.join(mountpoint, "current_time")
        for _ in range(LINES):
            first = read(path)
        until("the stored text is read", lambda: read(path) != first, 10)
        time.sleep(1.2)     # the example compares what it retrieves with what it has stored, and ends if it differs
        check("it still serves", stat_of(mountpoint) is not None)
        # Its second thread stores once a second, also while main() destroys the session, and aborts if that fails:
        # unmount right after it has stored.
        last = read(path)
        until("it stores again", lambda: read(path) != last, 10)


class Poll(Example):
    name = "poll"
    # Its second thread goes on to notify a session that fuse_main() has destroyed. libfuse alone then mostly writes to a
    # closed descriptor; under `efuse exec` it may call through the freed table of fuse_session_custom_io().
    known = {-signal.SIGSEGV: "a thread of the example's own notified the session after its end (docs/exec.md, limits)"}

    def use(self, mountpoint):
        done = subprocess.run([os.path.join(OUT, "poll_client")], cwd=mountpoint, stdout=subprocess.PIPE, timeout=60,
                              check=False)
        check("poll_client", done.returncode == 0 and len(done.stdout.splitlines()) == 16, str(done))


class Ioctl(Example):
    name = "ioctl"

    def use(self, mountpoint):
        path = os.path.join(mountpoint, "fioc")
        client = os.path.join(OUT, "ioctl_client")
        for size in ("5000", "77", "0", "123456", "8"):
            subprocess.run([client, path, size], check=True, timeout=30)
            shown = subprocess.run([client, path], stdout=subprocess.PIPE, check=True, timeout=30).stdout.decode()
            check("size by ioctl", shown.strip() == size, shown)


def run_over(machine, program, transport):
    mountpoint = machine.folder(f"{program.name}-{transport}")
    command = program.command(mountpoint) + ["-f"]
    environment = machine.environment
    if program.name in LOW:
        environment = {**environment, "EFUSE_SESSION_TRANSPORT": transport}
    else:
        command = programs.exec_command(transport, command)
    log = f"{program.name}-{transport}.log"
    process = machine.start(command, log, environment)
    until(f"{program.name} is in efuse stat", lambda: process.poll() is not None or
          (mounted(mountpoint) and stat_of(mountpoint)))
    check(f"{program.name} serves", process.poll() is None, machine.text(log))
    program.use(mountpoint)
    proof = programs.expect_transport(mountpoint, transport)
    subprocess.run(["fusermount3", "-u", mountpoint], check=True)
    until(f"{program.name} ends", lambda: process.poll() is not None)
    if process.returncode in program.known:
        print(f"KNOWN: {program.name} ended with {process.returncode}: {program.known[process.returncode]}", flush=True)
    else:
        check(f"{program.name} ends well", process.returncode == 0, f"{process.returncode} {machine.text(log)}")
    return proof


def run_all():
    source = foreign.libfuse_source()
    if source is None:
        programs.skip("libfuse's source package is not in the cache (scripts/lib/foreign.py --fetch)")
    compile_all(source)
    return programs.run_matrix([Hello, Passthrough, InvalInode, InvalEntry, StoreRetrieve, Poll, Ioctl], run_over)
