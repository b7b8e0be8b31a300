#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
"""Fast paths that cannot be had: one clear line says so, and the mount works without, over its rings. Objects that do
not verify, are of another interface, have a member that the module does not know, or are none; a filesystem that
offers nothing."""
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
              ("nothing offered", "nullfs", "metadata", "nullfs|offer")]
    wrong = []
    for case in cases:
        try:
            check(*case)
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            wrong.append(f"{case[0]}: {e}")
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
