#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 120
# quick: yes
"""Workers of /dev/fuse and io_uring try to look for requests instead of sleeping, those of io_uring also to give way to
whom they wake: they do it under load, not when they are told not to, all requests are answered either way, and an idle
mount costs nothing afterwards, and has no thread that is SCHED_IDLE."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from uring_mounts import Mount, SWITCH, WORK, skip, switch

REQUESTS = 8000     # several trials
UNCACHED = ("-o", "entry_timeout=0,attr_timeout=0")
STAYS = ("--set", "uring.give_way=false")
NO_BUDGET = ("--set", "polling.worker_spin_ns=0", "--set", "polling.worker_poll_ns=0")


def load(m, clients):
    def client():
        for _ in range(REQUESTS // clients):
            assert os.stat(m.directory + "/f").st_size == 1

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()   # raises what the client has raised


def may_give_way():
    """Whether a process of ours may come back from SCHED_IDLE."""
    both = "import os; [os.sched_setscheduler(0, p, os.sched_param(0)) for p in (os.SCHED_IDLE, os.SCHED_OTHER)]"
    return subprocess.run([sys.executable, "-c", both], stderr=subprocess.DEVNULL, check=False).returncode == 0


def idle_threads(pid):
    """Threads of the process whose policy is SCHED_IDLE."""
    return [tid for tid in os.listdir(f"/proc/{pid}/task") if os.sched_getscheduler(int(tid)) == os.SCHED_IDLE]


def served(transport, *arguments):
    """What the mount says of itself after some load."""
    with Mount(*UNCACHED, *arguments, transport=transport) as m:
        with open(m.directory + "/f", "wb") as f:
            f.write(b"x")
        for clients in (1, 4):
            load(m, clients)
        state = m.stat()
        requests = state["requests"][{"dev": "stock"}.get(transport, transport)]
        assert requests >= 2 * REQUESTS, state["requests"]
        time.sleep(0.2)
        before = m.cpu_ticks()
        time.sleep(2)
        used = m.cpu_ticks() - before
        still = idle_threads(state["pid"])
        assert not still, f"{transport}: threads {still} of an idle mount are SCHED_IDLE"
        assert used <= 1, f"{transport}: an idle mount has used {used} ticks in 2 s"
        print(f"ok {transport} {' '.join(arguments)}: {requests} requests, {state['looks']} looks, "
              f"{state['looks_paid']} found one, {state['gave_way']} times given way", flush=True)
        return state


def main():
    if os.geteuid() != 0:
        skip("only root mounts here")
    if len(os.sched_getaffinity(0)) < 2:
        skip("there is one CPU, and nowhere to look from")
    transports = ["dev"]
    was = None
    if os.path.exists(SWITCH):
        transports.append("uring")
        with open(SWITCH, encoding="ascii") as f:
            was = f.read().strip()
        switch("Y")
    try:
        for transport in transports:
            assert served(transport)["looks"] > 0, f"{transport}: no worker has looked"
            assert served(transport, *NO_BUDGET)["looks"] == 0, f"{transport}: a worker without a budget has looked"
        if "uring" in transports:
            if may_give_way():
                assert served("uring")["gave_way"] > 0, "no worker has given way"
            else:
                print("giving way: not looked at, as nobody here may come back from SCHED_IDLE")
            assert served("uring", *STAYS)["gave_way"] == 0, "a worker that may not has given way"
    finally:
        if was:
            switch(was)
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
