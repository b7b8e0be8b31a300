#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 120
# quick: yes
"""Workers of /dev/fuse and io_uring try to look for requests instead of sleeping: they do it under load, not when their
budget is 0, all requests are answered either way, and an idle mount costs nothing afterwards."""

import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from uring_mounts import Mount, SWITCH, WORK, skip, switch

REQUESTS = 8000     # several trials
UNCACHED = ("-o", "entry_timeout=0,attr_timeout=0")
NO_BUDGET = ("--set", "polling.worker_spin_ns=0", "--set", "polling.worker_poll_ns=0")


def load(m, clients):
    def client():
        for _ in range(REQUESTS // clients):
            assert os.stat(m.directory + "/f").st_size == 1

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()   # raises what the client has raised


def looks(transport, *arguments):
    with Mount(*UNCACHED, *arguments, transport=transport) as m:
        with open(m.directory + "/f", "wb") as f:
            f.write(b"x")
        for clients in (1, 4):
            load(m, clients)
        state = m.stat()
        served = state["requests"][{"dev": "stock"}.get(transport, transport)]
        assert served >= 2 * REQUESTS, state["requests"]
        time.sleep(0.2)
        before = m.cpu_ticks()
        time.sleep(2)
        used = m.cpu_ticks() - before
        assert used <= 1, f"{transport}: an idle mount has used {used} ticks in 2 s"
        print(f"ok {transport} {' '.join(arguments)}: {served} requests, {state['looks']} looks, "
              f"{state['looks_paid']} found one", flush=True)
        return state["looks"]


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
            assert looks(transport) > 0, f"{transport}: no worker has looked"
            assert looks(transport, *NO_BUDGET) == 0, f"{transport}: a worker without a budget has looked"
    finally:
        if was:
            switch(was)
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
