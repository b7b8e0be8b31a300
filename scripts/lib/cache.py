# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is fetched or built once and used by every build: a directory of it, and the means to fill it.

The cache is $EFUSE_CACHE, or efuse/ in the user's cache directory.
"""

import contextlib
import fcntl
import os
import re
import subprocess
import sys


class CacheError(Exception):
    """What was asked for cannot be had here; the text says why."""


def say(text):
    print(f"efuse: {text}", file=sys.stderr, flush=True)


def cache_dir():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.abspath(os.environ.get("EFUSE_CACHE") or os.path.join(home, "efuse"))


@contextlib.contextmanager
def locked(path):
    """One process at a time; the others wait and then find the work done."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def run(args, what, **kwargs):
    """Run a tool quietly; its output is shown only with the error."""
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False, **kwargs)
    if done.returncode:
        raise CacheError(f"{what}: {' '.join(args[:3])} failed:\n{done.stdout[-3000:].rstrip()}")
    return done.stdout


def version_key(text):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)]
