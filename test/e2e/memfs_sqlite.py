#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 600
# quick: no
"""SQLite on memfs over rings: concurrent writers in rollback-journal and in WAL mode, then its integrity check."""
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile

ROWS = 400
WRITERS = 4


def writer(path, seed):
    rng = random.Random(seed)
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    for i in range(ROWS):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (seed, i, rng.randbytes(rng.randrange(10, 6000))))
        if i % 7 == 3:
            db.execute("DELETE FROM t WHERE writer = ? AND n = ?", (seed, i - 3))
        if i % 11 == 5:
            db.execute("UPDATE t SET data = ? WHERE writer = ? AND n = ?", (rng.randbytes(3000), seed, i - 1))
        db.execute("ROLLBACK" if i % 13 == 7 else "COMMIT")
    db.close()


def expected_rows():
    left = set()
    for i in range(ROWS):
        if i % 13 == 7:
            continue
        left.add(i)
        if i % 7 == 3:
            left.discard(i - 3)
    return len(left) * WRITERS


def load(path, mode):
    db = sqlite3.connect(path)
    got = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
    assert got == mode, f"journal_mode={mode} was refused: {got}"
    db.execute("CREATE TABLE t (writer INTEGER, n INTEGER, data BLOB)")
    db.execute("CREATE INDEX i ON t (n, writer)")
    db.close()
    children = []
    for seed in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            try:
                writer(path, seed)
                os._exit(0)
            except Exception as e:  # pylint: disable=broad-except
                print(f"writer {seed}: {e!r}", file=sys.stderr)
                os._exit(1)
        children.append(pid)
    bad = [pid for pid in children if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0]
    assert not bad, f"{len(bad)} writers failed in {mode} mode"
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3")
    db = sqlite3.connect(path)
    check = db.execute("PRAGMA integrity_check").fetchall()
    rows = db.execute("SELECT count(*) FROM t").fetchone()[0]
    db.close()
    assert check == [("ok",)], f"integrity_check in {mode} mode: {check[:5]}"
    assert rows == expected_rows(), f"{mode}: {rows} rows, expected {expected_rows()}"
    print(f"{mode}: integrity_check ok, {rows} rows")


def main():
    mountpoint = tempfile.mkdtemp()
    subprocess.run(["efuse", "mount", "memfs", mountpoint, "--transport", "ring"], check=True)
    try:
        for mode in ("delete", "wal"):
            load(f"{mountpoint}/{mode}.db", mode)
        out = subprocess.run(["efuse", "stat", mountpoint, "--json"], check=True, capture_output=True).stdout
        requests = json.loads(out)[0]["requests"]
        share = requests["ring"] / sum(requests.values())
        print(f"{100 * share:.3f} % of {sum(requests.values())} requests by ring")
        assert share >= 0.99, requests
    finally:
        subprocess.run(["umount", mountpoint], check=False)
    os.rmdir(mountpoint)


if __name__ == "__main__":
    main()
