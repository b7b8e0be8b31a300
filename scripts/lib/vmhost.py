# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's side of scripts/vm: QEMU, the exported directories, and the frames that lib/vm-init.c speaks."""

import ctypes
import errno
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

LIB = os.path.dirname(os.path.abspath(__file__))
FRAME = struct.Struct("<c3xI")
CHUNK = 65536
START_TIMEOUT = 300     # seconds until the guest's first word; a debug kernel under emulation is slow

# What in the kernel's log fails a run.
SPLAT = re.compile(
    r"\bWARNING: |\bBUG: |\bkernel BUG at |\bOops\b|\bKASAN: |\bKCSAN: |\bUBSAN: |\bODEBUG: |general protection fault"
    r"|Kernel panic|unable to handle|INFO: task .* blocked for|\bsoft lockup|\bhard LOCKUP|rcu.*detected (?:expedited )?stalls?"
    r"|possible (?:recursive locking|circular locking|irq lock inversion)|inconsistent lock state|suspicious RCU usage"
    r"|Invalid wait context|bad unlock balance|held lock freed|sleeping function called|scheduling while atomic"
    r"|list_(?:add|del) corruption|refcount_t: |Bad page|workqueue lockup|DEBUG_LOCKS_WARN_ON|trapping instruction"
    r"|vm-init: efuse_ring is still in use")
# QEMU before 8.1 (Debian 12 has 7.2) may run code that was translated before the kernel patched it: the breakpoint that
# text_poke_bp() had put there for a moment (fixed by QEMU's commit deba78709a). No stock code reports an int3 otherwise.
EMULATOR_FAULT = re.compile(r"Oops: int3: ")
HARMLESS = re.compile(r"WARNING: (?:You are running an unsupported|Kernel memory leak detection disabled)")
ERR = 3


class VmError(Exception):
    pass


class VmTimeout(Exception):
    pass


def is_splat(text):
    return bool(SPLAT.search(text)) and not HARMLESS.search(text)


# ---- processes --------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR = 442
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 1


def check(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent():
    """No child outlives this process, however it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def private_mounts():
    """A mount namespace of this process's own; an ordinary user is root in it."""
    uid, gid = os.geteuid(), os.getegid()
    check(LIBC.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)))
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
    check(LIBC.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    if uid:     # where the daemon keeps its pid file
        check(LIBC.mount(b"tmpfs", b"/run", b"tmpfs", ctypes.c_ulong(0), None))


def read_only_view(where):
    """In this process only: the whole file tree at `where`, every mount of it read-only."""
    private_mounts()
    check(LIBC.mount(b"/", where.encode(), None, ctypes.c_ulong(MS_BIND | MS_REC), None))
    attr = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    check(LIBC.syscall(SYS_MOUNT_SETATTR, ctypes.c_int(-100), where.encode(), ctypes.c_uint(AT_RECURSIVE),
                       attr, ctypes.c_size_t(len(attr))))


def can_make_read_only_view(scratch):
    """Tried in a process that ends at once, and its mounts with it."""
    where = os.path.join(scratch, "try")
    os.mkdir(where)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            read_only_view(where)
            code = 0
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def find_virtiofsd():
    for path in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", shutil.which("virtiofsd")):
        if path and os.access(path, os.X_OK):
            return path
    raise VmError("no virtiofsd; scripts/setup installs it")


def virtiofsd_args(path, source, sock, cache):
    """Debian 12 has QEMU's own virtiofsd, later ones the rewritten one with other options."""
    if "/qemu/" in path:
        return [path, f"--socket-path={sock}", "-o", f"source={source}", "-o", "sandbox=chroot", "-o",
                f"cache={cache}", "-o", "xattr", "-o", "log_level=err", "-f"]
    return [path, f"--socket-path={sock}", f"--shared-dir={source}", "--sandbox=chroot", f"--cache={cache}",
            "--xattr", "--log-level=error"]


# Nested virtualisation may offer a /dev/kvm on which no guest gets far, and older QEMUs do not know every model.
KVM_CPU = "host,-arch-capabilities"


def kvm_boots(image, seconds=10):
    """Whether a kernel under KVM says something within `seconds`."""
    args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
            "-accel", "kvm", "-cpu", KVM_CPU, "-m", "256M", "-kernel", image, "-serial", "stdio",
            "-append", "console=ttyS0 earlycon=uart8250,io,0x3f8 panic=-1"]
    with subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          start_new_session=True, preexec_fn=die_with_parent) as qemu:
        try:
            said, end = b"", time.monotonic() + seconds
            while time.monotonic() < end and b"Linux version" not in said:
                if select.select([qemu.stdout], [], [], 0.1)[0]:
                    data = os.read(qemu.stdout.fileno(), CHUNK)
                    if not data:
                        break
                    said += data
            return b"Linux version" in said
        finally:
            qemu.kill()


def kvm_usable(image, cache):
    """Tried once for each boot of this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        verdict = os.path.join(cache, f"kvm-{f.read().strip()}")
    try:
        with open(verdict, encoding="ascii") as f:
            return f.read() == "yes"
    except OSError:
        works = kvm_boots(image)
    with open(verdict, "w", encoding="ascii") as f:
        f.write("yes" if works else "no")
    return works


# ---- one machine ------------------------------------------------------------

class Vm:
    """Use as a context manager: leaving it stops every process and removes the sockets."""

    def __init__(self, kernel, init, build, logs, cpus, memory, accel):
        self.kernel, self.init, self.build, self.logs = kernel, init, build, logs
        self.cpus, self.memory, self.accel = cpus, memory, accel
        self.children = []
        self.port = None
        self.records = []   # of the guest's kernel log
        self.status = None  # as wait() gives it
        self.ready = False  # the command was about to start

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="efuse-vm-")
        return self

    def __exit__(self, *exc):
        # A signal in the middle of this must not leave a process behind.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM})
        if self.port:
            self.port.close()
        for child in self.children:
            child.kill()
        for child in self.children:
            child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def spawn(self, args, log, before=None):
        def prepare():
            die_with_parent()
            if before:
                before()
        with open(os.path.join(self.logs, log), "wb") as out:
            child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=out, close_fds=True,
                                     start_new_session=True, preexec_fn=prepare)
        self.children.append(child)
        return child

    def wait_for(self, path, child, log):
        while not os.path.exists(path):
            if child.poll() is not None:
                raise VmError(f"{os.path.basename(child.args[0])} did not start:\n{self.log_tail(log)}")
            time.sleep(0.005)

    def log_tail(self, log, lines=20):
        try:
            with open(os.path.join(self.logs, log), encoding="utf-8", errors="replace") as f:
                return "".join(f.readlines()[-lines:]).rstrip()
        except OSError:
            return ""

    def export(self, tag, source, read_only, cache):
        """Serve `source` to the guest; returns QEMU's options for it."""
        sock = os.path.join(self.dir, tag + ".sock")
        before = private_mounts if os.geteuid() else None
        if read_only:
            view = os.path.join(self.dir, tag)
            os.mkdir(view)
            before, source = (lambda: read_only_view(view)), view
        child = self.spawn(virtiofsd_args(find_virtiofsd(), source, sock, cache), f"{tag}.log", before)
        self.wait_for(sock, child, f"{tag}.log")
        return ["-chardev", f"socket,id={tag},path={sock}",
                "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]

    def kernel_command_line(self):
        words = ["root=efuseroot", "rootfstype=virtiofs", "ro", f"init={self.init}", "console=hvc0",
                 "ignore_loglevel", "log_buf_len=8M", "panic=-1", "oops=panic", "raid=noautodetect",
                 "printk.devkmsg=on", "cryptomgr.notests", "no_timer_check", "mitigations=off",
                 # While identify_cpu() collects the CPU's features anew, KASAN takes 5-level addresses for wild ones:
                 # an interrupt just then is a report, and the last one, at every few boots.
                 "no5lvl",
                 # FUSE-over-io_uring is off unless asked for; a kernel without it takes no notice.
                 "fuse.enable_uring=1"]
        if self.accel != "kvm":
            # Emulated, the TSC is the host's, or the count of instructions: the same on all CPUs and cheap. The kernel
            # cannot know, and would take the ACPI timer, where each look at the clock is an access to a device, one CPU
            # at a time. Linux 7.2 even stood still for minutes in four of five runs, with its watchdog of clocks, and in
            # none without.
            words += ["tsc=reliable", "clocksource=tsc"]
        if os.environ.get("EFUSE_VM_EARLYCON"):
            words.append("earlycon=uart8250,io,0x3f8")
        return " ".join(words)

    def qemu_args(self):
        accel = {"kvm": ["-accel", "kvm", "-cpu", KVM_CPU],
                 "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"],
                 # 2 ns per instruction; an idle guest goes on at once.
                 "icount": ["-accel", "tcg,thread=single", "-cpu", "max", "-icount", "shift=1,sleep=off"]}[self.accel]
        read_only = can_make_read_only_view(self.dir)
        if not read_only:
            print("vm: no mount namespace for a read-only view of /: the guest mounts it read-only, but root there "
                  "could change that", file=sys.stderr)
        # Nobody is to change the root while the guest runs, so it need not ask again for what it has seen.
        root = self.export("efuseroot", "/", read_only, "always")
        build = self.export("efusebuild", self.build, False, "auto")
        return ["qemu-system-x86_64", "-name", "efuse-vm", "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-machine", "q35,memory-backend=mem,usb=off,vmport=off,hpet=off", *accel,
                "-smp", str(self.cpus), "-m", self.memory,
                "-object", f"memory-backend-memfd,id=mem,size={self.memory},share=on",
                "-kernel", self.kernel.image, "-append", self.kernel_command_line(), *root, *build,
                "-device", "virtio-serial-pci",
                "-chardev", f"file,id=console,path={self.logs}/console.log", "-device", "virtconsole,chardev=console",
                "-chardev", f"socket,id=port,path={self.dir}/port.sock,server=on,wait=off",
                "-device", "virtserialport,chardev=port,name=efuse.0",
                *(["-serial", f"file:{self.logs}/serial.log"] if os.environ.get("EFUSE_VM_EARLYCON") else [])]

    def start(self, config):
        """Boot; `config` is the list of strings that vm-init's read_config() expects."""
        qemu = self.spawn(self.qemu_args(), "qemu.log")
        self.wait_for(f"{self.dir}/port.sock", qemu, "qemu.log")
        self.port = socket.socket(socket.AF_UNIX)
        self.port.connect(f"{self.dir}/port.sock")
        data = b"".join(os.fsencode(s) + b"\0" for s in config)
        self.out = bytearray(FRAME.pack(b"C", len(data)) + data)

    def fill(self, stdin):
        """Read input for the guest; returns what to go on reading from, None after its end."""
        try:
            data = os.read(stdin, CHUNK)
        except BlockingIOError:
            return stdin
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""  # a terminal that is not ours
        self.out += FRAME.pack(b"i", len(data)) + data if data else FRAME.pack(b"z", 0)
        return stdin if data else None

    def frames(self, stdin):
        """Yield (type, bytes) from the guest, and feed it stdin once it is ready for it."""
        self.port.setblocking(False)
        buffer, begin = bytearray(), time.monotonic()
        while True:
            poll = select.poll()
            poll.register(self.port, select.POLLIN | (select.POLLOUT if self.out else 0))
            if self.ready and stdin is not None and not self.out:
                poll.register(stdin, select.POLLIN)
            events = dict(poll.poll(1000))
            if not self.ready and time.monotonic() - begin > START_TIMEOUT:
                raise VmError(f"the guest did not come up within {START_TIMEOUT} s:\n{self.log_tail('console.log')}")
            if stdin in events:
                stdin = self.fill(stdin)
            if self.out:
                try:
                    del self.out[:self.port.send(self.out)]
                except BlockingIOError:
                    pass
            try:
                data = self.port.recv(1 << 20) if self.port.fileno() in events else None
            except (BlockingIOError, ConnectionResetError):
                data = None
            if data == b"":
                return
            buffer += data or b""
            while len(buffer) >= FRAME.size:
                kind, length = FRAME.unpack_from(buffer)
                if len(buffer) < FRAME.size + length:
                    break
                payload = bytes(buffer[FRAME.size:FRAME.size + length])
                del buffer[:FRAME.size + length]
                self.ready = self.ready or kind == b"R"
                yield kind, payload

    def run(self, stdin, stdout, stderr):
        """Carry the command's streams until it ends. Returns True if the guest said how it ended."""
        for kind, payload in self.frames(stdin):
            if kind == b"o":
                write_all(stdout, payload)
            elif kind == b"e":
                write_all(stderr, payload)
            elif kind == b"k":
                self.records.append(payload.decode(errors="replace").split("\n")[0])
            elif kind == b"F":
                raise VmError(payload.decode(errors="replace"))
            elif kind == b"X":
                self.status = struct.unpack("<I", payload)[0]
                return True
        return False

    def emulator_fault(self):
        """Whether the emulation, not the kernel, ended this machine."""
        try:
            with open(os.path.join(self.logs, "console.log"), encoding="utf-8", errors="replace") as console:
                return self.accel != "kvm" and self.status is None and bool(EMULATOR_FAULT.search(console.read()))
        except OSError:
            return False

    def splats(self):
        """Lines of the guest's kernel log that mean that something is wrong, each once, in order."""
        found = {}
        with open(os.path.join(self.logs, "dmesg.log"), "w", encoding="utf-8") as dmesg:
            for record in self.records:
                head, _, text = record.partition(";")
                fields = head.split(",")
                dmesg.write(f"[{int(fields[2]) / 1e6:12.6f}] {text}\n")
                from_kernel = int(fields[0]) >> 3 == 0
                if is_splat(text) or (from_kernel and int(fields[0]) & 7 <= ERR and "efuse" in text):
                    found[text] = None
        try:
            with open(os.path.join(self.logs, "console.log"), encoding="utf-8", errors="replace") as console:
                for line in console:
                    text = re.sub(r"^\[ *\d+\.\d+\](\[[^\]]*\])? ", "", line.rstrip())
                    if is_splat(text):
                        found[text] = None
        except OSError:
            pass
        return list(found)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:
            select.select([], [fd], [])


def exit_code(status):
    """The shell's view of a wait status."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
