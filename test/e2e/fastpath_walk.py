#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 900
# quick: yes
"""How many requests fast paths save in programs that look at many files: find, ls -lR, git status and a C build, on
passthrough over a tmpfs whose source nobody else changes, with no caching by the kernel itself. They run one after
the other on new mounts; then each runs cold, once the kernel has forgotten all, and warm. Always without and with fast
paths in turn; what they print or make is the same.

TREE_FILES (250), BUILD_FILES (1): how large the tree and the C project are. WALK_PARTS (new cold warm): those of the
above that are wanted. EFUSE_SET ("polling.worker_poll_ns=1ms ..."): configuration of both sides. FASTPATH, see
fastpath_mounts.py."""
import os
import shutil
import subprocess
import sys
import time

from fastpath_mounts import EVERY_CALL, FastMount, NONE, PROGRAMS, Tmpfs, drop_caches, require_fastpaths, skip

TREE_FILES = int(os.environ.get("TREE_FILES", "250"))
BUILD_FILES = int(os.environ.get("BUILD_FILES", "1"))
PARTS = os.environ.get("WALK_PARTS", "new cold warm").split()
FILES_PER_DIRECTORY = 25
SUBDIRECTORIES = 8
INCLUDE_DIRECTORIES = 6
HEADERS_PER_DIRECTORY = 4
ENTRIES = max(131072, 4 * TREE_FILES)   # nodes, names, attributes
# A build opens, reads and closes what it includes, and writes.
LEAST_SAVED = {"find -newer": 0.9, "ls -lR": 0.9, "git status": 0.9, "find": 0.9, "make": 0.6}
WALKS = ("find", "ls -lR", "git status")
SEQUENCE = (*WALKS, "make")


def run(*command, cwd=None):
    env = {**os.environ, "HOME": "/nonexistent", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, errors="surrogateescape",
                          check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stderr[-1000:]}"
    return done.stdout


def make_tree(top):
    """Directories within directories, files of a few different contents; some links, some attributes."""
    directories = [top]
    for i in range(1, max(1, TREE_FILES // FILES_PER_DIRECTORY)):
        path = f"{directories[(i - 1) // SUBDIRECTORIES]}/directory{i}"
        os.mkdir(path)
        directories.append(path)
    for i in range(TREE_FILES):
        path = f"{directories[i % len(directories)]}/file{i}"
        if i % 50 == 49:
            os.symlink(f"file{i - len(directories)}", path)
            continue
        with open(path, "w", encoding="ascii") as f:
            f.write(f"{i % 64}\n" * (i % 64))
        os.utime(path, (1_500_000_000 + i, 1_500_000_000 + i))
        if i % 50 == 7:
            os.setxattr(path, "user.number", str(i).encode())


def make_repository(top):
    """As git gc leaves one: hardly any files of its own."""
    git(top, "init", "-q", "--template=")
    git(top, "add", "-A")
    git(top, "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-q", "-m", "all")
    git(top, "gc", "-q")


def git(top, *arguments):
    return run("git", "-c", f"safe.directory={top}", "-c", "gc.auto=0", "-C", top, *arguments)


def make_project(top):
    """Sources that include headers of every include directory, which the compiler looks for in all before."""
    for d in range(INCLUDE_DIRECTORIES):
        os.makedirs(f"{top}/include{d}/part")
        for h in range(HEADERS_PER_DIRECTORY):
            with open(f"{top}/include{d}/part/h{d}_{h}.h", "w", encoding="ascii") as f:
                below = f"#include <part/h{d - 1}_{h}.h>\n" if d else ""
                f.write(f"#pragma once\n{below}static inline int f{d}_{h}(int x) {{ return x + {d * h}; }}\n")
    os.mkdir(f"{top}/src")
    for i in range(BUILD_FILES):
        with open(f"{top}/src/s{i}.c", "w", encoding="ascii") as f:
            f.writelines(f"#include <part/h{d}_{h}.h>\n" for d in range(INCLUDE_DIRECTORIES)
                         for h in range(HEADERS_PER_DIRECTORY))
            f.write(f"int s{i}(int x) {{ return f{i % INCLUDE_DIRECTORIES}_0(x); }}\n")
    flags = " ".join(f"-Iinclude{d}" for d in range(INCLUDE_DIRECTORIES))
    with open(f"{top}/Makefile", "w", encoding="ascii") as f:
        f.write(f"OBJECTS := {' '.join(f'src/s{i}.o' for i in range(BUILD_FILES))}\n"
                f"all.a: $(OBJECTS)\n\tar rcsD $@ $^\n"
                f"src/%.o: src/%.c\n\tgcc {flags} -MMD -c -o $@ $<\n"
                "clean:\n\trm -f src/*.o src/*.d all.a\n-include $(OBJECTS:.o=.d)\n")


def make_sources(tops):
    """The same in each. git looks at inode numbers and change times, too."""
    first = tops[0]
    os.mkdir(first + "/tree")
    os.mkdir(first + "/project")
    make_tree(first + "/tree")
    make_repository(first + "/tree")
    make_project(first + "/project")
    for top in tops[1:]:
        run("cp", "-a", first + "/.", top)
        git(top + "/tree", "update-index", "-q", "--refresh")
        for written in ("/tree/.git/index", "/tree/.git"):
            shutil.copystat(first + written, top + written)


def build(top):
    run("make", "-s", "clean", cwd=top)
    run("make", "-s", cwd=top)
    return ""


WORK = {
    "find": lambda m: sorted(run("find", m + "/tree").splitlines()),
    "find -newer": lambda m: sorted(run("find", m + "/tree", "-newer", m + "/tree/file0").splitlines()),
    "ls -lR": lambda m: run("ls", "-lRA", "--time-style=full-iso", m + "/tree"),
    # That the index stays as it is, as in tools that ask often.
    "git status": lambda m: git(m + "/tree", "--no-optional-locks", "status", "--porcelain"),
    "make": lambda m: build(m + "/project"),
}


class Sample:
    """What one run of a program cost."""

    def __init__(self, mount, work, directory):
        before = mount.requests()
        begin = time.monotonic()
        self.output = work(directory)
        self.seconds = time.monotonic() - begin
        self.daemon, self.fast = (b - a for a, b in zip(before, mount.requests()))


class Side:
    """A mount on a source of its own, and what programs cost there."""

    def __init__(self, name, source, mountpoint, programs):
        self.name, self.mountpoint = name, mountpoint
        options = f"source={source},fastpath_timeout=inf,{EVERY_CALL}"
        arguments = ["--set", f"fastpath.entries={ENTRIES}"] if programs != "none" else []
        for setting in os.environ.get("EFUSE_SET", "").split():
            arguments += ["--set", setting]
        self.mount = FastMount(*arguments, "-o", options, fs="passthrough", programs=programs)
        self.samples = {}
        self.listing, self.objects = [], {}

    def at_mountpoint(self, what):
        """Every side has the same, because programs print it."""
        subprocess.run(["mount", "--bind", self.mount.directory, self.mountpoint], check=True)
        try:
            return what(self.mountpoint)
        finally:
            subprocess.run(["umount", self.mountpoint], check=True)

    def sample(self, name, which):
        before = self.mount.by_opcode()
        self.samples[name, which] = self.at_mountpoint(lambda _: Sample(self.mount, WORK[name], self.mountpoint))
        self.show(name, which, before, self.mount.by_opcode())

    def look(self):
        """Everything that is there."""
        self.listing = self.at_mountpoint(listing)
        for directory, _, files in os.walk(self.mount.directory + "/project"):
            for f in files:
                path = f"{directory}/{f}"
                with open(path, "rb") as content:
                    self.objects[os.path.relpath(path, self.mount.directory)] = content.read()

    def show(self, name, which, before, after):
        if not os.environ.get("WALK_VERBOSE"):
            return
        change = {op: n - before.get(op, 0) for op, n in after.items()}
        text = ", ".join(f"{op} {n}" for op, n in sorted(change.items(), key=lambda c: -c[1]) if n)
        print(f"  {name}, {which}, {self.name}: {text}", flush=True)


def listing(top):
    """All that does not depend on when it was looked at: what was built is new on each side."""
    text = run("find", top, "-path", top + "/project*", "-printf", "%y %m %s %p\\n",
               "-o", "-type", "d", "-printf", "%y %m %U %G %n %T@ %P\\n", "-o",
               "-printf", "%y %m %U %G %s %n %T@ %l %P\\n")
    attributes = []
    for directory, _, files in os.walk(top + "/tree"):
        for f in files:
            path = f"{directory}/{f}"
            attributes += [f"{path}: {a}={os.getxattr(path, a, follow_symlinks=False)}"
                           for a in os.listxattr(path, follow_symlinks=False)]
    return sorted(text.splitlines()) + sorted(attributes)


def differences(a, b, what):
    """The first difference of two outputs, or nothing."""
    if a == b:
        return []
    lines = [x.splitlines() if isinstance(x, str) else list(x) for x in (a, b)]
    first = next((pair for pair in zip(*lines) if pair[0] != pair[1]), ("lengths", [len(x) for x in lines]))
    return [f"{what} differs: {first[0]!r} without, {first[1]!r} with fast paths"]


def print_row(name, plain, fast):
    """plain, fast: samples, of which the sums are printed. Returns by how much there are fewer requests."""
    p, f = sum(s.daemon for s in plain), sum(s.daemon for s in fast)
    p_seconds, f_seconds = sum(s.seconds for s in plain), sum(s.seconds for s in fast)
    print(f"{name:20}{p:11}{f:11}{1 - f / p:11.1%}   {p_seconds:9.2f}{f_seconds:9.2f}{p_seconds / f_seconds:8.2f}")
    return 1 - f / p


def compare(plain, fast):
    """Prints the table. Returns what is wrong."""
    wrong = []

    def expect(least, saved, what):
        if saved < least and not NONE:
            wrong.append(f"{what}: {saved:.1%} fewer requests, expected {least:.0%}")

    print(f"{'':20}{'requests to the daemon':>33}{'':3}{'seconds':>18}")
    print(f"{'':20}{'without':>11}{'with':>11}{'fewer':>11}   {'without':>9}{'with':>9}{'ratio':>8}")
    for name, which in plain.samples:
        p, f = plain.samples[name, which], fast.samples[name, which]
        saved = print_row(f"{name}, {which}", [p], [f])
        wrong += differences(p.output, f.output, f"{name}, {which}")
        if which == "warm" or (which == "new" and name not in WALKS):
            expect(LEAST_SAVED[name], saved, f"{name}, {which}")
    if "new" in PARTS:
        saved = print_row("the walks, new", *([side.samples[name, "new"] for name in WALKS] for side in (plain, fast)))
        expect(0.9, saved, "the walks on new mounts, in sum")
    wrong += differences(plain.listing, fast.listing, "the tree")
    wrong += differences([f"{k} {hash(v)}" for k, v in sorted(plain.objects.items())],
                         [f"{k} {hash(v)}" for k, v in sorted(fast.objects.items())], "what was built")
    return wrong


def main():
    unknown = set(PARTS) - {"new", "cold", "warm"}
    if unknown or not PARTS:
        print(f"WALK_PARTS: '{' '.join(PARTS)}': expected some of new, cold, warm")
        return 2
    require_fastpaths()
    for tool in ("git", "make", "gcc"):
        if not shutil.which(tool):
            skip(f"there is no {tool}")
    sources, point, sides = [Tmpfs(), Tmpfs()], Tmpfs("1m"), []
    try:
        make_sources([source.path for source in sources])
        print(f"{TREE_FILES} files, {BUILD_FILES} sources, fast paths {PROGRAMS}", flush=True)
        for name, source, programs in zip(("without", "with"), sources, ("none", PROGRAMS)):
            sides.append(Side(name, source.path, point.path, programs))
        turns = [(name, "new") for name in SEQUENCE] + [(name, which) for name in WORK for which in ("cold", "warm")]
        for name, which in turns:
            for side in sides if which in PARTS else []:
                if which == "cold":
                    drop_caches()
                side.sample(name, which)
        for side in sides:
            side.look()
    finally:
        for side in sides:
            side.mount.close()
        for place in [*sources, point]:
            place.close()
    plain, fast = sides
    wrong = compare(plain, fast)
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
