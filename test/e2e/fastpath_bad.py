#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
"""Fast paths that cannot be had: one clear line says so, and the mount works without, over its rings. Objects that do
not verify, are of another interface, have a member that the module does not know, or are none; a filesystem that
does not offer it. `efuse bench`, whose figures would then be about something else, stops; where fast paths are to be
had it says what they have answered."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from fastpath_mounts import bpf_object, require_fastpaths

LONGEST_LINE = 400      # of what libbpf and the verifier have to say, the user gets one line


def mount(fs, directory, fastpath):
    """What `efuse mount` says."""
    done = subprocess.run(["efuse", "mount", fs, directory, "--transport", "ring", "--fastpath", fastpath],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60,
                          check=False)
    assert done.returncode == 0, f"--fastpath {fastpath}: exit status {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def check_works(fs, directory):
    """As it would without having been asked for fast paths."""
    stat = subprocess.run(["efuse", "stat", directory, "--json"], check=True, capture_output=True).stdout
    state = json.loads(stat)[0]
    assert state["transport"] == "ring", f"the transport is {state['transport']}"
    assert not state.get("fastpath"), f"attached: {state['fastpath']}"
    assert state["requests"].get("fastpath", 0) == 0, state["requests"]
    os.stat(directory + "/f0" if fs == "nullfs" else directory)
    with open(directory + "/new", "w", encoding="ascii") as f:
        f.write("text")
    if fs != "nullfs":
        with open(directory + "/new", encoding="ascii") as f:
            assert f.read() == "text"
    os.unlink(directory + "/new")


def check(name, fs, fastpath, expected):
    directory = tempfile.mkdtemp()
    said = mount(fs, directory, fastpath)
    try:
        print(f"{name}: {said.strip()}", flush=True)
        lines = [line for line in said.splitlines() if re.search(r"fast.?path", line, re.I)]
        assert len(lines) == 1, f"{len(lines)} lines about fast paths, expected one"
        assert len(said.splitlines()) <= 2, "more than one line for the transport and one for fast paths"
        assert len(lines[0]) <= LONGEST_LINE, f"a line of {len(lines[0])} bytes"
        assert re.search(expected, lines[0], re.I), f"nothing like '{expected}' in it"
        check_works(fs, directory)
    finally:
        subprocess.run(["umount", directory], check=True)
        os.rmdir(directory)


def bench(fs, ops, *fastpaths, seconds=0.4):
    command = ["efuse", "bench", "--fs", fs, "--transport", "ring", "--op", ops, "--threads", "1",
               "--seconds", str(seconds), "--rounds", "2", "--quiet", "--json", "-"]
    for programs in fastpaths:
        command += ["--fastpath", programs]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def check_bench_stops(fs, fastpath, expected):
    done = bench(fs, "getattr", "none", fastpath)
    print(f"bench of {fs}: {done.stderr.strip()}", flush=True)
    assert done.returncode == 1, f"exit status {done.returncode}"
    assert not done.stdout, done.stdout
    assert len(done.stderr.splitlines()) == 1 and re.search(expected, done.stderr), f"expected '{expected}'"
    with open("/proc/mounts", encoding="utf-8") as f:
        assert "efuse-bench" not in f.read(), "a mount is left"


def check_bench():
    """Every operation that a program knows is answered by it, and by no cache of the kernel."""
    rows = bench_rows("getattr,lookup,write", "metadata", "metadata,read")
    knows = {"ring": (), "ring+metadata": ("getattr", "lookup"), "ring+metadata+read": ("getattr", "lookup")}
    assert len(rows) == 9, sorted(rows)
    for (transport, op), row in rows.items():
        what = f"{transport}, {op}"
        assert row["fastpath"] == (",".join(transport.split("+")[1:]) or "none"), f"{what}: {row['fastpath']}"
        assert row["carried"] >= 0.99, f"{what}: {row['carried']} carried"
        assert row["ops_per_s"] > 0, what
        if transport == "ring":
            assert "answered" not in row, what
        elif op in knows[transport]:
            assert row["answered"] > 0.8, f"{what}: {row['answered']} answered"
            assert row["unmeasured"] > 0.8, f"{what}: {row['unmeasured']} not split"
        else:
            assert row["answered"] == 0, f"{what}: {row['answered']} answered"
        if op not in knows[transport]:
            assert row["unmeasured"] < 0.1, f"{what}: {row['unmeasured']} not split"


def bench_rows(ops, *fastpaths, seconds=0.4):
    done = bench("memfs", ops, *fastpaths, seconds=seconds)
    print(done.stderr, flush=True)
    assert done.returncode == 0, f"exit status {done.returncode}"
    return {(r["transport"], r["op"]): r for r in json.loads(done.stdout)}


def check_bench_read():
    """Each block has to have been read before: how long that takes depends on the machine."""
    for seconds in (1, 5, 25):
        row = bench_rows("read", "read", seconds=seconds)["ring+read", "read"]
        assert row["carried"] >= 0.99, f"{row['carried']} carried"
        if row["answered"] > 0.2:
            break
    assert row["answered"] > 0.2 and row["unmeasured"] > 0, f"{row['answered']} answered, {row['unmeasured']} not split"


def main():
    require_fastpaths()
    work = tempfile.mkdtemp()
    cases = []
    for name, expected in (("unverifiable", "unverifiable.*verif"), ("other_abi", "other_abi.*(abi|version|interface)"),
                           ("unknown_member", "unknown_member.*(telepathy|member)")):
        cases.append((name, "memfs", bpf_object(name), expected))
    text = work + "/text.bpf.o"
    with open(text, "w", encoding="ascii") as f:
        f.write("this is no object\n" * 100)
    empty = work + "/empty.bpf.o"
    with open(empty, "w", encoding="ascii"):
        pass
    other = shutil.copy("/bin/true", work + "/other.bpf.o")
    os.mkdir(work + "/directory.bpf.o")
    cases += [("no BPF object", "memfs", text, r"text\.bpf\.o"), ("an empty file", "memfs", empty, r"empty\.bpf\.o"),
              ("an object for another machine", "memfs", other, r"other\.bpf\.o"),
              ("a directory", "memfs", work + "/directory.bpf.o", r"directory\.bpf\.o"),
              ("nothing there", "memfs", work + "/none.bpf.o", r"none\.bpf\.o"),
              ("not offered", "nullfs", "read", "nullfs|offer")]
    checks = [(case[0], check, case) for case in cases]
    checks += [("bench, not offered", check_bench_stops, ("nullfs", "read", r"ring\+read: .*offer")),
               ("bench, unverifiable", check_bench_stops,
                ("memfs", bpf_object("unverifiable"), r"ring\+unverifiable: .*verif")),
               ("bench", check_bench, ()), ("bench of reads", check_bench_read, ())]
    wrong = []
    for name, function, arguments in checks:
        try:
            function(*arguments)
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            wrong.append(f"{name}: {e}")
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
