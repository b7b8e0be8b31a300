#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 400
# quick: yes
"""No answer is older than the last completed change. Writers change things by every kind of call and, when a call is
done, publish how many there have been; readers note that number, look, and what they see must be of that state or a
later one, and never older than what the same reader saw before. On memfs and passthrough, with caching times of 0, so
that every call is a request, while caches are dropped all the time: inodes go, and others come with their numbers.

--self-check (also done first): a change is published before it is made, and every kind of look has to find that out.
STALE_SECONDS (30): of the two filesystems together. STALE_SEED. FASTPATH, see fastpath_mounts.py."""
import argparse
import ctypes
import errno
import mmap
import os
import random
import select
import signal
import stat
import struct
import sys
import time

from fastpath_mounts import EVERY_CALL, FastMount, NONE, PROGRAMS, Tmpfs, drop_caches, require_fastpaths

SECONDS = float(os.environ.get("STALE_SECONDS", "30"))
SEED = int(os.environ.get("STALE_SEED", str(random.randrange(1 << 32))))
SELF_CHECK_CHANGES = 200    # most that a look is given: some look at one of several things at a time
BLOCK = 4096
ANY = 1 << 62               # a modulus that no version reaches
POOL = 100                  # inodes that are replaced


class Subject:
    """Something with a version: how many calls have changed it. change(v) makes version v of v-1, by one call.
    Each look returns what it saw as (modulus, residues): the version, modulo that, is one of these."""

    def __init__(self, directory):
        self.path = f"{directory}/{type(self).__name__.lower()}"
        self.number = 0     # set by whoever runs it
        self.fd = -1        # of a look that keeps the file open

    def prepare(self):
        """Makes version 0."""

    def looks(self):
        return [getattr(self, name) for name in sorted(dir(self)) if name.startswith("look_")]

    def put(self, path, data=b"", mode=0o644):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
        if data:
            os.write(fd, data)
        os.close(fd)


def there(path):
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def exactly(version):
    return ANY, (version,)


class Content(Subject):
    """Four blocks full of the version, written or copied."""

    def prepare(self):
        self.put(self.path, self.blocks(0))
        self.put(self.path + ".from", self.blocks(0))

    @staticmethod
    def blocks(version):
        return struct.pack("<Q", version) * (4 * BLOCK // 8)

    def change(self, version):
        if version % 3 == 0:    # two calls, but only one of them on this file
            self.put(self.path + ".from", self.blocks(version))
            source, target = os.open(self.path + ".from", os.O_RDONLY), os.open(self.path, os.O_WRONLY)
            copied = os.copy_file_range(source, target, 4 * BLOCK, 0, 0)
            assert copied == 4 * BLOCK, f"{copied} bytes copied"
            os.close(source)
        else:
            target = os.open(self.path, os.O_WRONLY)
            os.pwrite(target, self.blocks(version), 0)
        os.close(target)

    @staticmethod
    def oldest(data):
        return exactly(min(struct.unpack("<2Q", data[:8] + data[-8:])))

    def look_block(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.oldest(os.pread(fd, BLOCK, random.randrange(4) * BLOCK))
        finally:
            os.close(fd)

    def look_open_file(self):
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDONLY)
        return self.oldest(os.pread(self.fd, BLOCK, random.randrange(4) * BLOCK))

    def look_all(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.oldest(os.pread(fd, 4 * BLOCK, 0))
        finally:
            os.close(fd)


class Appended(Subject):
    """A byte more each time, and at times none: by write with O_APPEND, fallocate, open with O_TRUNC."""
    PERIOD = 5000

    def prepare(self):
        self.put(self.path)

    def change(self, version):
        if version % self.PERIOD == 0:
            os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        if version % 2:
            os.write(fd, b"x")
        else:
            os.posix_fallocate(fd, version % self.PERIOD - 1, 1)
        os.close(fd)

    def look_stat(self):
        return self.PERIOD, (os.stat(self.path).st_size,)

    def look_fstat(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.PERIOD, (os.fstat(fd).st_size,)
        finally:
            os.close(fd)

    def look_end(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.PERIOD, (len(os.read(fd, 2 * self.PERIOD)),)
        finally:
            os.close(fd)


class Size(Subject):
    def prepare(self):
        self.put(self.path)

    def change(self, version):
        if version % 2:
            os.truncate(self.path, version)
            return
        fd = os.open(self.path, os.O_WRONLY)
        os.ftruncate(fd, version)
        os.close(fd)

    def look_stat(self):
        return exactly(os.stat(self.path).st_size)


class Mode(Subject):
    def prepare(self):
        self.put(self.path, mode=0)

    def change(self, version):
        os.chmod(self.path, version % 512)

    def look_stat(self):
        return 512, (stat.S_IMODE(os.stat(self.path).st_mode),)


class Owner(Subject):
    def prepare(self):
        self.put(self.path)
        os.chown(self.path, 0, 0)

    def change(self, version):
        os.chown(self.path, version, version)

    def look_stat(self):
        st = os.stat(self.path)
        return exactly(min(st.st_uid, st.st_gid))


class Times(Subject):
    def prepare(self):
        self.put(self.path)
        os.utime(self.path, (0, 0))

    def change(self, version):
        os.utime(self.path, (version, version))

    def look_stat(self):
        return exactly(int(os.stat(self.path).st_mtime))


class Attribute(Subject):
    NAME = "user.version"

    def prepare(self):
        self.put(self.path)
        os.setxattr(self.path, self.NAME, b"0")

    def change(self, version):
        os.setxattr(self.path, self.NAME, str(version).encode())

    def look_value(self):
        return exactly(int(os.getxattr(self.path, self.NAME)))


class AttributeNames(Subject):
    """Version 2n: user.n alone; 2n+1: user.n+1 too."""

    def prepare(self):
        self.put(self.path)
        os.setxattr(self.path, "user.0", b"")

    def change(self, version):
        if version % 2:
            os.setxattr(self.path, f"user.{version // 2 + 1}", b"")
        else:
            os.removexattr(self.path, f"user.{version // 2 - 1}")

    def look_list(self):
        names = sorted(int(n[5:]) for n in os.listxattr(self.path) if n.startswith("user."))
        return exactly(2 * names[0] + len(names) - 1)

    def look_one(self):
        """Of one that comes and goes."""
        try:
            os.getxattr(self.path, "user.1")
            return ANY, (1, 2, 3)
        except OSError:
            return ANY, (0,), 4     # before, or from the fourth on


class AttributeAtTimes(Subject):
    """An attribute that is there in odd versions alone, and says which. Who asks for another one may be told of this one,
    too: that it is not there."""
    NAME = "security.capability"

    def prepare(self):
        self.put(self.path)

    def change(self, version):
        if version % 2:
            os.setxattr(self.path, self.NAME, struct.pack("<IIIII", 0x02000000, version, 0, 0, 0))
        else:
            os.removexattr(self.path, self.NAME)

    def value(self, name):
        try:
            return os.getxattr(self.path, name)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise
            return None

    def look_value(self):
        value = self.value(self.NAME)
        return exactly(struct.unpack_from("<I", value, 4)[0]) if value else (2, (0,))

    def look_after_another(self):
        assert not self.value("security.selinux")
        return self.look_value()


class Replaced(Subject):
    """By a new file, of as many bytes as there were versions and with that number in it."""

    def prepare(self):
        self.change(0)

    def change(self, version):
        self.put(self.path + ".new", struct.pack("<Q", version) + bytes(version % 100))
        os.rename(self.path + ".new", self.path)

    def look_stat(self):
        return 100, ((os.stat(self.path).st_size - 8) % 100,)

    def look_content(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return exactly(struct.unpack("<Q", os.pread(fd, 8, 0))[0])
        finally:
            os.close(fd)


class MadeAndRemoved(Subject):
    """Not there in even versions; in odd ones its mode says which."""

    def make(self, mode):
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

    remove = staticmethod(os.unlink)

    def change(self, version):
        if version % 2:
            self.make(version // 2 % 512)
        else:
            self.remove(self.path)

    def look_stat(self):
        st = there(self.path)
        return (1024, (2 * stat.S_IMODE(st.st_mode) + 1,)) if st else (2, (0,))

    def look_list(self):
        return 2, (int(os.path.basename(self.path) in os.listdir(os.path.dirname(self.path))),)

    def look_access(self):
        return 2, (int(os.access(self.path, os.F_OK)),)


class Directory(MadeAndRemoved):
    def make(self, mode):
        os.mkdir(self.path, mode)

    remove = staticmethod(os.rmdir)


class Crowded(MadeAndRemoved):
    """One of many in a directory that takes several requests to list."""
    OTHERS = frozenset(f"other{i}{i * 'x'}" for i in range(120))

    def prepare(self):
        os.mkdir(self.path)
        for name in self.OTHERS:
            self.put(f"{self.path}/{name}")
        self.path += "/one"

    def look_list(self):
        found = os.listdir(os.path.dirname(self.path))
        there_too = set(found) - {"one"}
        assert there_too == self.OTHERS and len(found) == len(set(found)), f"listed: {sorted(found)}"
        return 2, (int("one" in found),)


class Node(MadeAndRemoved):
    def make(self, mode):
        os.mknod(self.path, stat.S_IFIFO | mode)


class Links(Subject):
    """As many names as a wave is high."""
    HEIGHT = 8

    def prepare(self):
        self.put(self.path)

    def change(self, version):
        at = version % (2 * self.HEIGHT)
        if 1 <= at <= self.HEIGHT:
            os.link(self.path, f"{self.path}.{at}")
        else:
            os.unlink(f"{self.path}.{(-at) % (2 * self.HEIGHT) + 1}")

    def look_count(self):
        n = os.stat(self.path).st_nlink - 1
        return 2 * self.HEIGHT, (n, -n % (2 * self.HEIGHT))

    def look_name(self):
        at = random.randrange(1, self.HEIGHT + 1)
        inside = range(at, 2 * self.HEIGHT - at + 1)
        found = there(f"{self.path}.{at}") is not None
        return 2 * self.HEIGHT, tuple(v for v in range(2 * self.HEIGHT) if (v in inside) == found)


class Symlink(Subject):
    """Replaced by another."""

    def prepare(self):
        os.symlink("0", self.path)

    def change(self, version):
        os.symlink(str(version), self.path + ".new")
        os.rename(self.path + ".new", self.path)

    def look_target(self):
        return exactly(int(os.readlink(self.path)))

    def look_length(self):
        length = os.lstat(self.path).st_size
        return ANY, (), (10 ** (length - 1) if length > 1 else 0), 10 ** length - 1


class SymlinkAgain(Subject):
    """Not there in even versions."""

    def change(self, version):
        if version % 2:
            os.symlink(str(version), self.path)
        else:
            os.unlink(self.path)

    def look_target(self):
        try:
            return exactly(int(os.readlink(self.path)))
        except FileNotFoundError:
            return 2, (0,)


class Moved(Subject):
    """Between two directories, itself a directory with something in it."""

    def prepare(self):
        for side in "01":
            os.mkdir(self.path + side)
        os.mkdir(self.path + "0/it")
        self.put(self.path + "0/it/inner")
        self.numbers = [os.stat(self.path + side).st_ino for side in "01"]

    def change(self, version):
        os.rename(f"{self.path}{1 - version % 2}/it", f"{self.path}{version % 2}/it")

    def look_outer(self):
        side = random.randrange(2)
        return 2, (side if there(f"{self.path}{side}/it") else 1 - side,)

    def look_inner(self):
        side = random.randrange(2)
        return 2, (side if there(f"{self.path}{side}/it/inner") else 1 - side,)

    def look_list(self):
        side = random.randrange(2)
        return 2, (side if os.listdir(f"{self.path}{side}") else 1 - side,)

    def look_parent(self):
        """The number of "..", as the directory itself lists it."""
        for side in (0, 1):
            found = listed_number(f"{self.path}{side}/it", b"..")
            if found:
                return 2, (self.numbers.index(found),)
        return 2, (0, 1)    # it has moved meanwhile

    def look_count(self):
        """Of the directories' links."""
        side = random.randrange(2)
        return 2, (side if os.stat(f"{self.path}{side}").st_nlink > 2 else 1 - side,)


class Exchanged(Subject):
    """Two names for two files, the other way round each time."""

    def prepare(self):
        self.put(self.path, b"0")
        self.put(self.path + ".other", b"11")

    def change(self, _):
        result = ctypes.CDLL(None, use_errno=True).renameat2(-100, self.path.encode(), -100,
                                                              (self.path + ".other").encode(), 2)
        assert result == 0, os.strerror(ctypes.get_errno())

    def look_stat(self):
        return 2, (os.stat(self.path).st_size - 1,)

    def look_content(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return 2, (len(os.pread(fd, 8, 0)) - 1,)
        finally:
            os.close(fd)


class Dirent(ctypes.Structure):
    _fields_ = [("d_ino", ctypes.c_uint64), ("d_off", ctypes.c_int64), ("d_reclen", ctypes.c_ushort),
                ("d_type", ctypes.c_ubyte), ("d_name", ctypes.c_char * 256)]


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = ctypes.c_void_p
LIBC.readdir.restype = ctypes.POINTER(Dirent)
LIBC.readdir.argtypes = LIBC.closedir.argtypes = [ctypes.c_void_p]


def listed_number(path, name):
    """d_ino of a name; None: there is no such directory."""
    directory = LIBC.opendir(path.encode())
    if not directory:
        assert ctypes.get_errno() == errno.ENOENT, os.strerror(ctypes.get_errno())
        return None
    try:
        while entry := LIBC.readdir(directory):
            if entry.contents.d_name == name:
                return entry.contents.d_ino
    finally:
        LIBC.closedir(directory)
    raise AssertionError(f"{path} does not list {name}")


SUBJECTS = [Content, Appended, Size, Mode, Owner, Times, Attribute, AttributeNames, AttributeAtTimes, Replaced,
            MadeAndRemoved, Directory, Crowded, Node, Links, Symlink, SymlinkAgain, Moved, Exchanged]


def pool(directory):
    """Many of one kind, so that inodes are many and go between two looks."""
    found = []
    for i in range(POOL):
        subject = (Replaced, MadeAndRemoved, Symlink)[i % 3](f"{directory}/pool{i % 10}")
        subject.path += str(i)
        found.append(subject)
    return found


class Versions:
    """Shared by all processes: of each subject the version that was begun and the one that is known to be there."""

    def __init__(self, count):
        self.memory = mmap.mmap(-1, 16 * count + 8)
        words = (ctypes.c_uint64 * (2 * count + 1)).from_buffer(self.memory)
        self.words = words

    def begun(self, i):
        return self.words[2 * i]

    def done(self, i):
        return self.words[2 * i + 1]

    def begin(self, i, version):
        self.words[2 * i] = version

    def publish(self, i, version):
        self.words[2 * i + 1] = version

    def stop(self):
        self.words[len(self.words) - 1] = 1

    def stopped(self):
        return self.words[len(self.words) - 1] != 0


def earliest(seen, least):
    """The first version from `least` on that looks like this."""
    modulus, residues, *span = seen
    if span:
        start = max(least, span[0])
        if any(r >= least for r in residues):
            return min(r for r in residues if r >= least)
        return start if len(span) < 2 or start <= span[1] else ANY
    if modulus == ANY:
        return min((r for r in residues if r >= least), default=ANY)
    return min(least + (r - least) % modulus for r in residues)


class Run:
    """One mount, its subjects, and the processes on them."""
    WRITERS, READERS = 3, 4
    OVERTAKEN = WRITERS + READERS + 1   # place in counts of looks that changes have outrun

    def __init__(self, directory):
        self.subjects = [s(directory) for s in SUBJECTS]
        for i in range(10):
            os.mkdir(f"{directory}/pool{i}")
        self.subjects += pool(directory)
        self.versions = Versions(len(self.subjects))
        os.umask(0)
        for i, s in enumerate(self.subjects):
            s.number = i
            s.prepare()
        self.reports, self.report_to = os.pipe()
        self.pids = {}
        self.counts = mmap.mmap(-1, 8 * (self.WRITERS + self.READERS + 2))

    def say(self, text):
        os.write(self.report_to, (text[:400] + "\n").encode())

    def tally(self, who):
        at = 8 * who
        struct.pack_into("<Q", self.counts, at, struct.unpack_from("<Q", self.counts, at)[0] + 1)

    def write(self, who, chance):
        mine = self.subjects[who::self.WRITERS]
        while not self.versions.stopped():
            # Subjects of a kind of their own get as many changes as the pool.
            subject = chance.choice([s for s in mine if s.number < len(SUBJECTS)] if chance.random() < 0.6 else mine)
            i, version = subject.number, self.versions.begun(subject.number) + 1
            self.versions.begin(i, version)
            subject.change(version)
            self.versions.publish(i, version)
            self.tally(who)

    def read(self, who, chance):
        last = {}
        while not self.versions.stopped():
            subject = chance.choice(self.subjects[:len(SUBJECTS)] if chance.random() < 0.6 else self.subjects)
            stale = self.look(subject, chance.choice(subject.looks()), last)
            if stale:
                raise AssertionError(stale)
            self.tally(self.WRITERS + who)

    def look(self, subject, look, last):
        """What is wrong with what it saw, or None."""
        i = subject.number
        done = self.versions.done(i)
        least = max(done, last.get(i, 0))
        try:
            seen = look()
        except OSError as e:
            # The kernel looks a name up once more when its file is gone by the time it is opened, and gives up when that
            # one is gone as well: only who was replaced twice meanwhile may say so.
            if e.errno != errno.ESTALE or self.versions.begun(i) < done + 2:
                raise
            self.tally(self.OVERTAKEN)
            return None
        most = self.versions.begun(i)
        version = earliest(seen, least)
        if version <= most:
            last[i] = version
            return None
        return (f"{type(subject).__name__}.{look.__name__} saw {seen} of {subject.path}: version {done} was complete, "
                f"{last.get(i, 0)} had been seen, {most} begun")

    def disturb(self, _, chance):
        """Inodes and entries leave the kernel's caches, so that nodes are forgotten, all the time."""
        while not self.versions.stopped():
            drop_caches(2)
            if chance.random() < 0.05:
                drop_caches(3)
                memory = bytearray(32 << 20)
                memory[::4096] = b"x" * len(memory[::4096])
            self.tally(self.WRITERS + self.READERS)
            time.sleep(chance.random() * 0.4)

    def start(self, work, who):
        pid = os.fork()
        if pid:
            self.pids[pid] = f"{work.__name__}{who}"
            return
        code = 1
        try:
            random.seed(SEED + 100 * len(self.pids))
            work(who, random)
            code = 0
        except BaseException as e:
            self.say(f"{work.__name__}{who}: {type(e).__name__}: {e}")
        finally:
            os._exit(code)

    def go(self, seconds):
        """The reports, once the time is up or there is one."""
        for work, count in ((self.write, self.WRITERS), (self.read, self.READERS), (self.disturb, 1)):
            for who in range(count):
                self.start(work, who)
        text, end = b"", time.monotonic() + seconds
        while time.monotonic() < end and not text:
            if select.select([self.reports], [], [], 0.2)[0]:
                text += os.read(self.reports, 65536)
        self.versions.stop()
        return self.finish(text)

    def finish(self, text):
        statuses = {}
        deadline = time.monotonic() + 60
        while self.pids and time.monotonic() < deadline:
            if select.select([self.reports], [], [], 0.05)[0]:
                text += os.read(self.reports, 65536)    # a full pipe would keep them
            for pid in list(self.pids):
                got, status = os.waitpid(pid, os.WNOHANG)
                if got:
                    statuses[self.pids.pop(pid)] = status
        while select.select([self.reports], [], [], 0)[0]:
            text += os.read(self.reports, 65536)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        reports = text.decode().splitlines()
        reports += [f"{name}: does not end" for name in self.pids.values()]
        if not reports:
            reports += [f"{name}: wait status {status}" for name, status in statuses.items() if status]
        os.close(self.reports)
        os.close(self.report_to)
        return reports

    def totals(self):
        n = struct.unpack_from(f"<{self.OVERTAKEN + 1}Q", self.counts)
        return sum(n[:self.WRITERS]), sum(n[self.WRITERS:-2]), n[-2], n[self.OVERTAKEN]


def finds_out(run, subject, look):
    """Is this look at a state that should be newer noticed?"""
    i, said = subject.number, None
    for _ in range(SELF_CHECK_CHANGES):
        version = run.versions.begun(i) + 1
        run.versions.begin(i, version)
        run.versions.publish(i, version)
        said = said or run.look(subject, look, {})
        subject.change(version)
        honest = run.look(subject, look, {})
        assert not honest, f"reported without reason: {honest}"
        if said:
            return said
    return None


def self_check(directory):
    """A look that can notice nothing would find nothing."""
    run = Run(directory)
    found = {(subject, look.__name__): finds_out(run, subject, look)
             for subject in run.subjects[:len(SUBJECTS)] for look in subject.looks()}
    missed = [f"{type(s).__name__}.{name}" for (s, name), said in found.items() if not said]
    print(f"self-check: {len(found) - len(missed)} of {len(found)} kinds of looks noticed a state that was too old, "
          f"such as: {next(iter(found.values()))}", flush=True)
    assert not missed, f"not noticed: {missed}"
    for subject in run.subjects:
        if subject.fd >= 0:
            os.close(subject.fd)


def check(directory, seconds, name, mount):
    run = Run(directory)
    before = mount.requests()
    reports = run.go(seconds)
    changes, looks, drops, overtaken = run.totals()
    daemon, fast = (b - a for a, b in zip(before, mount.requests()))
    print(f"{name}: {changes} changes, {looks} looks, {overtaken} outrun by changes, caches dropped {drops} times; "
          f"{daemon} requests to the daemon, {fast} answered by fast paths {mount.hits()}", flush=True)
    for r in reports[:20]:
        print(f"  {r}", flush=True)
    assert not reports, f"{name}: {len(reports)} reports, see above"
    assert looks > 100 and changes > 100, "too little happened"
    assert NONE or fast > 0, "no fast path has answered"


def mounts(fs):
    """(mount, to be called afterwards)"""
    if fs == "memfs":
        return FastMount("-o", EVERY_CALL + ",direct_io", fs="memfs"), lambda: None
    source = Tmpfs()
    options = f"source={source.path},{EVERY_CALL},direct_io,fastpath_timeout=inf"
    return FastMount("-o", options, fs="passthrough"), source.close


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--self-check", action="store_true", help="that alone")
    p.add_argument("--fs", choices=["memfs", "passthrough"], help="one of the two alone, for all of the time")
    args = p.parse_args()
    require_fastpaths()
    print(f"seed {SEED}, fast paths {PROGRAMS}", flush=True)
    mount, then = mounts("memfs")
    os.mkdir(mount.directory + "/check")
    self_check(mount.directory + "/check")
    mount.close()
    then()
    if args.self_check:
        return
    filesystems = [args.fs] if args.fs else ["memfs", "passthrough"]
    for fs in filesystems:
        mount, then = mounts(fs)
        try:
            check(mount.directory, SECONDS / len(filesystems), fs, mount)
        finally:
            mount.close()
            then()


if __name__ == "__main__":
    main()
