# SPDX-License-Identifier: LGPL-2.1-or-later
"""For the tests of fast paths: mounts with and without them, and BPF objects.

FASTPATH: what mounts with fast paths ask for (metadata,read); `none` tries a test without any."""
import os
import subprocess
import sys
import tempfile

from mixed_load import Mount

TOP = os.environ.get("EFUSE_TOP") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = os.environ.get("FASTPATH", "metadata,read")
NONE = PROGRAMS == "none"
EVERY_CALL = "entry_timeout=0,attr_timeout=0,negative_timeout=0"     # of the kernel's own caches: nothing


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def require_fastpaths():
    """This build has fast paths, or the test is skipped. That they work here is for the test to say."""
    if NONE:
        return
    text = subprocess.run(["efuse", "mount", "--help"], capture_output=True, text=True, check=False).stdout
    if "--fastpath" not in text:
        skip("efuse was built without fast paths")


def fastpath_arguments(programs=PROGRAMS, entries=131072):
    if programs == "none":
        return []
    return ["--fastpath", programs, "--set", f"fastpath.entries={entries}"]


class FastMount(Mount):
    """A mount over rings. `programs`: of --fastpath, and then all of them are attached."""

    def __init__(self, *arguments, fs="memfs", programs=PROGRAMS):
        super().__init__(*fastpath_arguments(programs), *arguments, fs=fs)
        if programs != "none" and len(self.stat().get("fastpath", [])) < len(programs.split(",")):
            self.close()
            raise AssertionError(f"not all fast paths of {programs}: {self.said}")

    def requests(self):
        """(those that the daemon got, those that fast paths answered)"""
        ways = self.stat()["requests"]
        fast = ways.get("fastpath", 0)
        return sum(ways.values()) - fast, fast

    def by_opcode(self):
        """What the daemon got of each opcode."""
        return {op: sum(n for way, n in ways.items() if way != "fastpath") for op, ways in self.stat()["by_op"].items()}

    def hits(self):
        """{opcode: answers of all programs together}"""
        total = {}
        for program in self.stat().get("fastpath", []):
            for opcode, counts in program["opcodes"].items():
                total[opcode] = total.get(opcode, 0) + counts.get("hits", 0)
        return total


class Tmpfs:
    """A directory of its own, gone with it."""

    def __init__(self, size="75%"):
        self.path = tempfile.mkdtemp()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=0", "tmpfs", self.path], check=True)

    def close(self):
        subprocess.run(["umount", "-l", self.path], check=True)
        os.rmdir(self.path)


def drop_caches(what=3):
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write(str(what))


def bpf_object(name):
    """The path of one that test/bpf/meson.build makes."""
    path = os.path.join(os.environ.get("EFUSE_BUILD") or os.path.join(TOP, "build"), "test/bpf", name + ".bpf.o")
    if not os.path.exists(path):
        skip(f"{path} has not been built: it needs clang and libbpf 1.4")
    return path
