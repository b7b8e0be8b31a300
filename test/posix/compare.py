#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""compare.py --target NAME [--differences FILE] HOST MOUNT: hold what posix-suite saw on two filesystems against
each other. HOST is that of tmpfs, MOUNT that of the target.

A failure is
  - a check that tmpfs does not pass as the manual pages have it, unless that is listed for the target "tmpfs";
  - a difference between the two that is not listed for the target, or is there with other values;
  - a listed difference that is not there any more;
  - a check that only one of the two has.
differences.toml lists them: [[difference]] with `checks` (names; * and ? match), `targets` (names), `tmpfs` and
`mount` (the values, where they are the same for all of the checks; absent: any two that differ), `reason`, and
`before`: the Linux release that no longer does so ("6.18"), from which on the two must be the same.
"""

import argparse
import fnmatch
import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass, field


class BadList(Exception):
    pass


@dataclass
class Difference:
    checks: list
    targets: list
    reason: str
    tmpfs: str | None = None
    mount: str | None = None
    before: str | None = None
    met: set = field(default_factory=set)   # patterns that a difference was found for

    def covers(self, name, host, mount):
        """The pattern that lists this difference, or None."""
        if (self.tmpfs is not None and self.tmpfs != host) or (self.mount is not None and self.mount != mount):
            return None
        return next((p for p in self.checks if fnmatch.fnmatchcase(name, p)), None)


def version(release):
    """Of "6.12.117+deb12-cloud-amd64" or "6.12"."""
    return tuple(int(n) for n in re.match(r"(\d+)\.(\d+)", release).groups())


def load_differences(path, target):
    with open(path, "rb") as f:
        table = tomllib.load(f)
    found = []
    for entry in table.get("difference", []):
        unknown = set(entry) - {"checks", "targets", "reason", "tmpfs", "mount", "before"}
        missing = {"checks", "targets", "reason"} - set(entry)
        if unknown or missing or not entry.get("reason", "").strip():
            raise BadList(f"{path}: {entry}: unknown {sorted(unknown)}, missing {sorted(missing)}, or no reason")
        if not re.fullmatch(r"\d+\.\d+", entry.get("before", "0.0")):
            raise BadList(f"{path}: {entry}: before: expected a Linux release such as 6.18")
        found.append(Difference(**entry))
    here = version(os.uname().release)
    return [d for d in found if target in d.targets and (d.before is None or here < version(d.before))]


def load_run(path):
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    return {r["check"]: r for r in rows}


def check_host(host, listed):
    """What tmpfs itself does against the manual pages."""
    for name, row in host.items():
        if row["ok"]:
            continue
        for d in listed:
            pattern = d.covers(name, row["observed"], None) if d.mount is None else None
            if pattern:
                d.met.add(pattern)
                break
        else:
            yield f"{name}: tmpfs: expected {row['expected']}, saw {row['observed']}"


def check_mount(host, mount, listed):
    for name in sorted(set(host) | set(mount)):
        if name not in host or name not in mount:
            yield f"{name}: only on {'the mount' if name in mount else 'tmpfs'}"
            continue
        h, m = host[name]["observed"], mount[name]["observed"]
        if h == m:
            continue
        for d in listed:
            pattern = d.covers(name, h, m)
            if pattern:
                d.met.add(pattern)
                break
        else:
            wanted = f" (expected {mount[name]['expected']})" if mount[name]["expected"] else ""
            yield f"{name}: tmpfs {h}, mount {m}{wanted}"


def stale(listed):
    for d in listed:
        for pattern in d.checks:
            if pattern not in d.met:
                yield f"{pattern}: listed as different ({d.reason}), but it is not: take it out"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--target", required=True)
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("--differences", default=os.path.join(here, "differences.toml"))
    p.add_argument("host")
    p.add_argument("mount")
    a = p.parse_args()
    try:
        of_host, of_target = load_differences(a.differences, "tmpfs"), load_differences(a.differences, a.target)
    except (OSError, BadList, tomllib.TOMLDecodeError) as e:
        sys.exit(f"compare.py: {e}")
    host, mount = load_run(a.host), load_run(a.mount)
    problems = [*check_host(host, of_host), *check_mount(host, mount, of_target)]
    problems += [*stale(of_host), *stale(of_target)]   # after both have run
    for line in problems:
        print(line)
    different = sum(n in mount and host[n]["observed"] != mount[n]["observed"] for n in host)
    skipped = sum(r["observed"].startswith("skip: ") for r in mount.values())
    print(f"{a.target}: {len(mount)} checks, {len(mount) - different} as on tmpfs, {different} different, "
          f"{len(of_target)} reasons listed, {skipped} skipped, {len(problems)} problems")
    if not host or not mount:
        sys.exit("compare.py: a run without checks")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
