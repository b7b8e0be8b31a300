# SPDX-License-Identifier: LGPL-2.1-or-later
"""End-to-end tests: what test/e2e holds, and their results.

A test is an executable file NAME.sh or NAME.py whose first comment lines may say
  # where: host|vm     vm: on a test kernel, as root, with the module (default)
  # timeout: SECONDS   (default 300)
  # quick: yes|no      no: left out by scripts/test --quick (default yes)
  # kernel: NAME       of scripts/vm --kernel; skipped where another than the default one cannot be had
  # also: NAME         another kernel to run it on as well, as NAME-OF-TEST@NAME
  # cpus: N            of scripts/vm --cpus
It passes with exit status 0, is skipped with 77 (its last line says why), and fails with any other.
Tests that want the same machine share one.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, replace

import vmkernel

KEYS = {"where": r"host|vm", "timeout": r"\d+", "quick": r"yes|no", "kernel": r"\S+", "also": r"\S+", "cpus": r"[1-9]\d*"}
SLOWER = {"debug": 6}   # kernels on which a test may take so many times its timeout when it is not made for them
KERNEL_LOG = "the kernel's log: "   # begins why such a test failed


class TestError(Exception):
    pass


@dataclass(frozen=True)
class Machine:
    where: str
    kernel: str
    cpus: int   # 0: as many as here

    def __str__(self):
        if self.where == "host":
            return "on this machine"
        return f"in a VM, Linux {self.kernel}" + (f", {self.cpus} CPUs" if self.cpus else "")


def slower(kernel):
    return SLOWER.get(kernel, 1)


@dataclass(frozen=True)
class Test:
    name: str
    path: str
    machine: Machine
    timeout: int    # seconds
    quick: bool
    also: str = ""  # the other kernel that it is to run on, too

    def on_kernel(self, kernel):
        """The same test on another kernel of the test machine."""
        return replace(self, machine=replace(self.machine, kernel=kernel), also="").slowed(slower(kernel))

    def repeated(self):
        """This test, and itself on the other kernel where it is to run there too."""
        if not self.also:
            return [self]
        return [self, replace(self.on_kernel(self.also), name=f"{self.name}@{self.also}")]

    def slowed(self, factor):
        return replace(self, timeout=self.timeout * factor)


@dataclass
class Result:
    name: str
    outcome: str    # pass, fail or skip
    seconds: float
    why: str


def read_test(path):
    found = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            if not line.startswith("#"):
                break
            m = re.match(r"# (\w+): *(.*?)\s*$", line)
            if m and m.group(1) in KEYS:
                if not re.fullmatch(KEYS[m.group(1)], m.group(2)):
                    raise TestError(f"{path}: '{m.group(1)}: {m.group(2)}' is not {KEYS[m.group(1)]}")
                found[m.group(1)] = m.group(2)
    kernel, also = found.get("kernel", vmkernel.DEFAULT), found.get("also", "")
    for name in filter(None, (kernel, also)):
        if name not in vmkernel.KNOWN:
            raise TestError(f"{path}: unknown kernel '{name}'")
    where = found.get("where", "vm")
    machine = Machine(where, kernel if where == "vm" else "", int(found.get("cpus", 0)) if where == "vm" else 0)
    name = os.path.splitext(os.path.basename(path))[0]
    return Test(name, path, machine, int(found.get("timeout", 300)), found.get("quick", "yes") == "yes", also)


def discover(directory, only):
    """The tests in `directory`, quick ones first; `only`: just those of these names, in that order."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    paths = [os.path.join(directory, n) for n in names if re.search(r"\.(sh|py)$", n)]
    tests = {t.name: t for t in (read_test(p) for p in paths if os.access(p, os.X_OK))}
    unknown = [n for n in only if n not in tests]
    if unknown:
        raise TestError(f"no such end-to-end test: {', '.join(unknown)}")
    return [tests[n] for n in only] if only else sorted(tests.values(), key=lambda t: (not t.quick, t.name))


def print_result(r):
    mark = {"pass": "ok  ", "fail": "FAIL", "skip": "skip"}[r.outcome]
    print(f"{mark} {r.name} ({r.seconds:.1f} s)" + (f": {r.why}" if r.outcome != "pass" else ""), flush=True)


def add_result(path, r):
    """On disk before the next test begins: that one may take the machine down."""
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(asdict(r)) + "\n")
        f.flush()
        os.fsync(f.fileno())


def read_results(path):
    try:
        with open(path, encoding="utf-8") as f:
            return [Result(**json.loads(line)) for line in f if line.endswith("\n")]
    except FileNotFoundError:
        return []
