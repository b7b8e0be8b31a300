# SPDX-License-Identifier: LGPL-2.1-or-later
"""Filesystems that know nothing of efuse, on a mount: for tests of `efuse exec` and of libefuse. Not a test itself.

Programs come from Debian's packages, unpacked (scripts/lib/foreign.py). FOREIGN_LONG=1: larger files, more of
them.
"""

import contextlib
import ctypes
import errno
import filecmp
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts", "lib"))
import foreign  # noqa: E402

LONG = os.environ.get("FOREIGN_LONG") == "1"
BIG = (64 if LONG else 1 if os.path.exists("/dev/efuse") else 3) * 1_100_000     # bytes of the largest file
MANY = 400 if LONG else 12 if os.path.exists("/dev/efuse") else 40          # files in one folder
PATIENCE = 20 * (3 if os.path.exists("/dev/efuse") else 1)  # seconds until something must have happened
SKIP = 77


class Failed(Exception):
    pass


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(SKIP)


def check(what, ok, shown=""):
    if not ok:
        raise Failed(f"{what} {shown}".rstrip())


def until(what, condition, patience=None):
    """The first true value of condition()."""
    end = time.monotonic() + (patience or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"not within {patience or PATIENCE} s: {what}")
        time.sleep(0.02)


def usable_transports():
    """What `efuse doctor` says that works here, the best first."""
    done = subprocess.run(["efuse", "doctor", "--json"], stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)["usable"]


def stat_of(mountpoint):
    """What `efuse stat` says about the mount, or None."""
    done = subprocess.run(["efuse", "stat", mountpoint, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else []
    return found[0] if found else None


def mounted(mountpoint):
    with open("/proc/self/mounts", encoding="utf-8") as f:
        return any(line.split()[1] == mountpoint and line.split()[2].startswith("fuse") for line in f)


def expect_transport(mountpoint, transport):
    """What has happened on the mount went by this transport: most of it by rings, all of it else."""
    shown = stat_of(mountpoint)
    check(f"{mountpoint} is in efuse stat", shown)
    requests = shown["requests"]
    total = sum(requests.values())
    way = {"dev": "stock"}.get(transport, transport)
    check(f"transport {transport}", shown["transport"] == transport, str(shown))
    check(f"requests by {transport}", total >= 20 and requests[way] >= (total if way == "stock" else 0.5 * total),
          str(requests))
    return f"{requests[way]} of {total} requests by {transport}"


# ---- what is done on a mount ------------------------------------------------------------------

def pattern(size, seed):
    unit = bytes((seed * 31 + i * 7 + (i >> 8)) & 255 for i in range(4099))     # no power of two
    return (unit * (size // len(unit) + 1))[:size]


def write_and_read_back(root):
    for size in (0, 1, 4095, 4096, 4097, 130_000, BIG):
        path = os.path.join(root, f"size-{size}")
        data = pattern(size, size % 251)
        with open(path, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        check("size", os.stat(path).st_size == size, path)
        with open(path, "rb") as f:
            check("content", f.read() == data, path)
            f.seek(size // 2)
            check("content from the middle", f.read(5000) == data[size // 2:size // 2 + 5000], path)
    path = os.path.join(root, f"size-{BIG}")
    with open(path, "r+b") as f:
        f.seek(70_001)
        f.write(b"changed here")
    with open(path, "rb") as f:
        f.seek(69_999)
        check("overwritten", f.read(16)[2:14] == b"changed here")
    os.truncate(path, 1234)
    check("truncated", os.stat(path).st_size == 1234)


def names(root):
    folder = os.path.join(root, "folder")
    os.mkdir(folder, 0o750)
    for i in range(MANY):
        with open(os.path.join(folder, f"entry-{i:05}-{'x' * (i % 90)}"), "w", encoding="ascii") as f:
            f.write(str(i))
    check("listing", sorted(os.listdir(folder)) == sorted(f"entry-{i:05}-{'x' * (i % 90)}" for i in range(MANY)))
    old, new = os.path.join(folder, "entry-00001-x"), os.path.join(root, "renamed")
    os.rename(old, new)
    check("renamed", not os.path.exists(old) and open(new, encoding="ascii").read() == "1")
    with open(os.path.join(root, "victim"), "w", encoding="ascii") as f:
        f.write("to be replaced")
    os.replace(new, os.path.join(root, "victim"))
    check("replaced", open(os.path.join(root, "victim"), encoding="ascii").read() == "1")
    os.symlink("victim", os.path.join(root, "link"))
    check("symbolic link", os.readlink(os.path.join(root, "link")) == "victim" and
          open(os.path.join(root, "link"), encoding="ascii").read() == "1")
    try:
        os.rmdir(folder)
        raise Failed("rmdir of a folder with entries")
    except OSError as e:
        check("rmdir of a folder with entries", e.errno == errno.ENOTEMPTY, str(e))
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)
    check("gone", not os.path.exists(folder))


def attributes(root):
    path = os.path.join(root, "victim")
    os.chmod(path, 0o640)
    os.utime(path, ns=(1_000_000_000 * 10**9, 1_234_567_890 * 10**9))
    st = os.stat(path)
    check("mode", stat.S_IMODE(st.st_mode) == 0o640, oct(st.st_mode))
    check("time", int(st.st_mtime) == 1_234_567_890, str(st.st_mtime))


def extended_attributes(root):
    path = os.path.join(root, "victim")
    os.setxattr(path, "user.efuse", b"value of an attribute")
    check("xattr", os.getxattr(path, "user.efuse") == b"value of an attribute")
    check("list of xattrs", "user.efuse" in os.listxattr(path))
    os.removexattr(path, "user.efuse")
    check("xattr removed", "user.efuse" not in os.listxattr(path))


def at_the_same_time(root):
    """Several processes, so that requests are in flight side by side."""
    script = ("import os,sys\n"
              "for i in range(int(sys.argv[2])):\n"
              "  p=f'{sys.argv[1]}-{i%3}'; open(p,'wb').write(bytes([i&255])*9000)\n"
              "  d=open(p,'rb').read(); assert d==bytes([i&255])*9000,(p,len(d)); os.stat(p)\n")
    jobs = [subprocess.Popen([sys.executable, "-c", script, os.path.join(root, f"job-{j}"), str(MANY)])
            for j in range(4)]
    check("four processes", [j.wait() for j in jobs] == [0] * 4)


def file_operations(root, xattrs=False):
    write_and_read_back(root)
    names(root)
    attributes(root)
    if xattrs:
        extended_attributes(root)
    at_the_same_time(root)
    os.statvfs(root)


def make_tree(root):
    """What a read-only filesystem is made from."""
    for i in range(MANY):
        os.makedirs(os.path.join(root, f"folder-{i % 7}"), exist_ok=True)
        with open(os.path.join(root, f"folder-{i % 7}", f"file-{i}"), "wb") as f:
            f.write(pattern(i * 733, i))
    with open(os.path.join(root, "big"), "wb") as f:
        f.write(pattern(BIG, 3))
    os.symlink("folder-1/file-1", os.path.join(root, "link"))


def compare_trees(one, other):
    seen = filecmp.dircmp(one, other)
    check("same names", not seen.left_only and not seen.right_only, f"{seen.left_only} {seen.right_only}")
    for path, folders, files in os.walk(one):
        at = os.path.relpath(path, one)
        _, differing, errors = filecmp.cmpfiles(path, os.path.join(other, at), files, shallow=False)
        check("same content", not differing and not errors, f"{at}: {differing} {errors}")
        check("same folders", sorted(folders) ==
              sorted(e.name for e in os.scandir(os.path.join(other, at)) if e.is_dir(follow_symlinks=False)), at)
    check("link", os.readlink(os.path.join(other, "link")) == "folder-1/file-1")


# ---- programs ---------------------------------------------------------------------------------

class Machine:
    """Folders, processes and mounts of one test; leaving it takes them all away."""

    def __init__(self):
        self.work = os.path.realpath(tempfile.mkdtemp(prefix="efuse-programs-"))
        os.chmod(self.work, 0o755)
        self.processes, self.at_end = [], []
        self.root = foreign.programs()
        libraries = [os.path.join(self.root or "", d) for d in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
        triplet = subprocess.run(["gcc", "-print-multiarch"], stdout=subprocess.PIPE, text=True,
                                 check=False).stdout.strip()
        if triplet:
            libraries = [d.replace("x86_64-linux-gnu", triplet) for d in libraries]
        self.environment = dict(os.environ)
        if self.root:
            self.environment["LD_LIBRARY_PATH"] = ":".join(libraries)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for mountpoint in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", mountpoint], check=False)
        for action in reversed(self.at_end):
            action()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        subprocess.run(["rm", "-rf", "--one-file-system", self.work], check=False)

    def mounts(self):
        with open("/proc/self/mounts", encoding="utf-8") as f:
            return [line.split()[1] for line in f if line.split()[1].startswith(self.work)]

    def folder(self, name):
        path = os.path.join(self.work, name)
        os.makedirs(path, exist_ok=True)
        return path

    def program(self, name):
        for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
            path = os.path.join(self.root, folder, name)
            if os.path.exists(path):
                return path
        raise Failed(f"no {name} among the unpacked packages")

    def start(self, command, log, environment=None):
        with open(os.path.join(self.work, log), "wb") as f:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT,
                                       env=environment or self.environment)
        self.processes.append(process)
        return process

    def text(self, log):
        with open(os.path.join(self.work, log), encoding="utf-8", errors="replace") as f:
            return f.read()


# MooseFS does not believe that a chunkserver on 127.0.0.1 can be reached by anybody. This one is for documentation,
# and only exists in this test's own network, where it is local.
ADDRESS = "192.0.2.1"


def own_network():
    """From here on a network of this process and its children, with nothing in it but loopback."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:     # CLONE_NEWNET
        raise Failed(f"no network of its own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)


def free_port():
    with socket.socket() as s:
        s.bind((ADDRESS, 0))
        return s.getsockname()[1]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex((ADDRESS, port)) == 0


class Sshfs:
    """The high-level API, over an sshd of our own on loopback."""
    name = "sshfs"

    def __init__(self, machine):
        self.machine = machine
        self.source = machine.folder("ssh-source")
        self.port = free_port()
        for key in ("host", "key"):
            subprocess.run([machine.program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f",
                            os.path.join(machine.work, key)], env=machine.environment, check=True)
        self.start_sshd()

    def start_sshd(self):
        m, here = self.machine, lambda name: os.path.join(self.machine.work, name)
        with open(here("sshd_config"), "w", encoding="utf-8") as f:
            f.write(f"""\
Port {self.port}
ListenAddress {ADDRESS}
HostKey {here('host')}
AuthorizedKeysFile {here('key.pub')}
PidFile none
UsePAM no
StrictModes no
Subsystem sftp internal-sftp
""")
        # sshd wants a user of that name, which only an installed package makes; here only sshd sees it.
        with open("/etc/passwd", encoding="utf-8") as f, open(here("passwd"), "w", encoding="utf-8") as mine:
            mine.write(f.read() + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
        script = ('mount --bind "$1" /etc/passwd && mkdir -p /run/sshd && chmod 755 /run/sshd && '
                  'exec "$2" -D -e -f "$3"')
        m.start(["unshare", "-m", "sh", "-c", script, "sshd", here("passwd"), m.program("sshd"), here("sshd_config")],
                "sshd.log")
        until("sshd listens", lambda: listens(self.port))

    def command(self, mountpoint):
        m = self.machine
        return [m.program("sshfs"), "-p", str(self.port), "-o",
                f"IdentityFile={m.work}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,"
                f"ssh_command={m.program('ssh')}",
                f"{os.environ.get('USER') or 'root'}@{ADDRESS}:{self.source}", mountpoint]

    def use(self, mountpoint):
        file_operations(mountpoint)
        check("the files are there", os.path.exists(os.path.join(self.source, "victim")))
        subprocess.run(["rm", "-rf", *(os.path.join(mountpoint, n) for n in os.listdir(mountpoint))], check=True)
        check("and gone", os.listdir(self.source) == [])


class Overlay:
    """The low-level API."""
    name = "fuse-overlayfs"

    def __init__(self, machine):
        self.machine = machine
        self.n = 0

    def command(self, mountpoint):
        self.n += 1
        lower, upper, work = (self.machine.folder(f"overlay-{d}-{self.n}") for d in ("lower", "upper", "work"))
        self.upper = upper
        with open(os.path.join(lower, "below"), "w", encoding="ascii") as f:
            f.write("from below")
        return [self.machine.program("fuse-overlayfs"), "-o", f"lowerdir={lower},upperdir={upper},workdir={work}",
                mountpoint]

    def use(self, mountpoint):
        below = os.path.join(mountpoint, "below")
        check("below", open(below, encoding="ascii").read() == "from below")
        with open(below, "a", encoding="ascii") as f:
            f.write(", changed")
        check("copied up", open(os.path.join(self.upper, "below"), encoding="ascii").read() == "from below, changed")
        file_operations(mountpoint, xattrs=True)
        os.unlink(below)
        check("whiteout", not os.path.exists(below))


class Squash:
    """The low-level API, read-only, single-threaded."""
    name = "squashfuse_ll"

    def __init__(self, machine):
        self.machine = machine
        self.source = machine.folder("squash-source")
        make_tree(self.source)
        self.image = os.path.join(machine.work, "image.squashfs")
        subprocess.run([machine.program("mksquashfs"), self.source, self.image, "-quiet", "-no-progress"],
                       env=machine.environment, stdout=subprocess.DEVNULL, check=True)

    def command(self, mountpoint):
        return [self.machine.program("squashfuse_ll"), self.image, mountpoint]

    def use(self, mountpoint):
        compare_trees(self.source, mountpoint)
        try:
            with open(os.path.join(mountpoint, "new"), "w", encoding="ascii"):
                raise Failed("a file was made on squashfs")
        except OSError as e:
            check("read-only", e.errno in (errno.EROFS, errno.ENOSYS, errno.EACCES), str(e))


class MooseFs:
    """The client of a distributed filesystem: a master and two chunkservers, all on loopback."""
    name = "mfsmount"

    def __init__(self, machine):
        self.machine = machine
        self.master, self.chunks, self.clients = free_port(), free_port(), free_port()
        self.start_master()
        for i in (1, 2):
            self.start_chunkserver(i)

    def configure(self, folder, name, settings):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return path

    def start_master(self):
        m = self.machine
        folder = m.folder("moosefs-master")
        with open(os.path.join(m.root, "var/lib/mfs/metadata.mfs.empty"), "rb") as f, \
             open(os.path.join(folder, "metadata.mfs"), "wb") as empty:
            empty.write(f.read())
        with open(os.path.join(folder, "exports"), "w", encoding="utf-8") as f:
            f.write("* / rw,alldirs,admin,maproot=0:0\n")
        config = self.configure(folder, "mfsmaster.cfg", {
            "WORKING_USER": "root", "WORKING_GROUP": "root", "DATA_PATH": folder, "LOCK_MEMORY": 0,
            "EXPORTS_FILENAME": os.path.join(folder, "exports"),
            "MATOML_LISTEN_HOST": ADDRESS, "MATOML_LISTEN_PORT": self.master,
            "MATOCS_LISTEN_HOST": ADDRESS, "MATOCS_LISTEN_PORT": self.chunks,
            "MATOCL_LISTEN_HOST": ADDRESS, "MATOCL_LISTEN_PORT": self.clients})
        m.start([m.program("mfsmaster"), "-f", "-c", config, "start"], "mfsmaster.log")
        until("mfsmaster listens", lambda: listens(self.clients) and listens(self.chunks))

    def start_chunkserver(self, number):
        m = self.machine
        folder, data = m.folder(f"moosefs-chunks-{number}"), m.folder(f"moosefs-chunks-{number}/data")
        with open(os.path.join(folder, "mfshdd.cfg"), "w", encoding="utf-8") as f:
            f.write(data + "\n")
        port = free_port()
        config = self.configure(folder, "mfschunkserver.cfg", {
            "WORKING_USER": "root", "WORKING_GROUP": "root", "DATA_PATH": folder, "LOCK_MEMORY": 0,
            "HDD_CONF_FILENAME": os.path.join(folder, "mfshdd.cfg"), "HDD_LEAVE_SPACE_DEFAULT": "1MiB",
            "MASTER_HOST": ADDRESS, "MASTER_PORT": self.chunks, "CSSERV_LISTEN_HOST": ADDRESS,
            "CSSERV_LISTEN_PORT": port, "BIND_HOST": ADDRESS})
        m.start([m.program("mfschunkserver"), "-f", "-c", config, "start"], f"mfschunkserver-{number}.log")
        until(f"mfschunkserver {number} listens", lambda: listens(port))

    def command(self, mountpoint):
        return [self.machine.program("mfsmount"), "-H", ADDRESS, "-P", str(self.clients), mountpoint]

    def use(self, mountpoint):
        # Until both chunkservers are registered there is no room.
        until("room on the chunkservers", lambda: os.statvfs(mountpoint).f_bavail > 0)
        try:
            file_operations(mountpoint, xattrs=True)
        finally:
            subprocess.run(["rm", "-rf", *(os.path.join(mountpoint, n) for n in os.listdir(mountpoint))], check=True)


def exec_command(transport, command):
    return ["efuse", "exec", "--transport", transport, "--", *command]


def run_over(machine, program, transport):
    """Mount in the background, use, prove the transport, unmount, and see the program end. Returns the proof."""
    mountpoint = machine.folder(f"{program.name}-{transport}")
    started = subprocess.run(exec_command(transport, program.command(mountpoint)), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=machine.environment, text=True,
                             timeout=PATIENCE, check=False)
    check(f"{program.name} starts", started.returncode == 0, started.stdout)
    until(f"{program.name} is mounted", lambda: mounted(mountpoint))
    until(f"{program.name} is in efuse stat", lambda: stat_of(mountpoint))
    pid = stat_of(mountpoint)["pid"]
    program.use(mountpoint)
    proof = expect_transport(mountpoint, transport)
    done = subprocess.run(["fusermount3", "-u", mountpoint], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    check("fusermount3 -u", done.returncode == 0, done.stdout)
    until(f"{program.name} ends after fusermount3 -u", lambda: not os.path.exists(f"/proc/{pid}"))
    check("not mounted", not mounted(mountpoint))
    return proof


URING_SWITCH = "/sys/module/fuse/parameters/enable_uring"


@contextlib.contextmanager
def uring_on():
    """FUSE over io_uring is on meanwhile, where this kernel has it and we may say so."""
    try:
        with open(URING_SWITCH, "r+", encoding="ascii") as f:
            was = f.read().strip()
            f.write("Y")
    except OSError as error:
        print(f"FUSE over io_uring stays as it is: {error}", flush=True)
        yield
        return
    try:
        yield
    finally:
        with open(URING_SWITCH, "w", encoding="ascii") as f:
            f.write(was)


def run_matrix(makers, run=None):
    """Every program over every transport that works here. Exit status of the test."""
    with uring_on():
        return run_transports(makers, run)


def run_transports(makers, run):
    failures = 0
    transports = usable_transports()
    print(f"transports: {', '.join(transports)}")
    for maker in makers:
        with Machine() as machine:
            try:
                program = maker(machine)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                failures += 1
                print(f"FAILED: {maker.name}: {error}", flush=True)
                continue
            for transport in transports:
                begin = time.monotonic()
                try:
                    print(f"ok: {maker.name}: {(run or run_over)(machine, program, transport)} "
                          f"({time.monotonic() - begin:.1f} s)", flush=True)
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    failures += 1
                    print(f"FAILED: {maker.name} over {transport}: {error}", flush=True)
    return 1 if failures else 0
