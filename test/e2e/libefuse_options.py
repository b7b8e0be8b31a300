#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 60
# quick: yes
"""libefuse's option functions beside libfuse's, on the same arguments: same results, same vectors left over."""

import ctypes
import itertools
import os
import random
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EFUSE_BUILD") or os.path.join(TOP, "build"))
SKIP = 77


class Args(ctypes.Structure):
    _fields_ = [("argc", ctypes.c_int), ("argv", ctypes.POINTER(ctypes.c_char_p)), ("allocated", ctypes.c_int)]


class Options(ctypes.Structure):
    _fields_ = [("singlethread", ctypes.c_int), ("foreground", ctypes.c_int), ("debug", ctypes.c_int),
                ("nodefault_subtype", ctypes.c_int), ("mountpoint", ctypes.c_char_p), ("show_version", ctypes.c_int),
                ("show_help", ctypes.c_int), ("clone_fd", ctypes.c_int), ("max_idle_threads", ctypes.c_uint),
                ("max_threads", ctypes.c_uint)]


class Opt(ctypes.Structure):
    _fields_ = [("templ", ctypes.c_char_p), ("offset", ctypes.c_ulong), ("value", ctypes.c_int)]


class Data(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint), ("text", ctypes.c_char_p), ("flag", ctypes.c_int), ("hex", ctypes.c_uint)]


NO_VARIABLE = 0xFFFFFFFF
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(Args))
TABLE = (Opt * 11)(
    Opt(b"number=%u", Data.number.offset, 0), Opt(b"text=%s", Data.text.offset, 0), Opt(b"flag", Data.flag.offset, 7),
    Opt(b"noflag", Data.flag.offset, 0), Opt(b"-x ", NO_VARIABLE, 42), Opt(b"-n %u", Data.number.offset, 0),
    Opt(b"hex=%x", Data.hex.offset, 0), Opt(b"keep=", NO_VARIABLE, -3), Opt(b"drop", NO_VARIABLE, -4),
    Opt(b"hex=", NO_VARIABLE, -3), Opt(None, 0, 0))


def vector(arguments):
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*[a.encode() for a in arguments], None)
    return Args(len(arguments), argv, 0)


def left(args):
    return [args.argv[i] for i in range(args.argc)]


def command_line(lib, arguments):
    args, options = vector(arguments), Options()
    result = lib.fuse_parse_cmdline_312(ctypes.byref(args), ctypes.byref(options))
    if result != 0:
        return [result]     # what is in them then is nobody's business
    return [result, left(args)] + [getattr(options, name) for name, _ in Options._fields_]


def own_table(lib, arguments):
    calls = []

    def callback(_data, argument, key, _out):
        calls.append((argument, key))
        return {b"bad": -1, b"mine": 0}.get(argument, 1)
    args, data = vector(arguments), Data()
    result = lib.fuse_opt_parse(ctypes.byref(args), ctypes.byref(data), TABLE, Callback(callback))
    found = [result, calls, data.number, data.text, data.flag, data.hex]
    return found + ([left(args)] if result == 0 else [])


def appended(lib, options):
    text = ctypes.c_char_p()
    for i, option in enumerate(options):
        (lib.fuse_opt_add_opt, lib.fuse_opt_add_opt_escaped)[i % 2](ctypes.byref(text), option.encode())
    return [text.value, [lib.fuse_opt_match(TABLE, o.encode()) for o in options]]


COMMAND_LINES = ["", "/tmp", "-f /tmp", "-s -d /tmp", "/tmp -o debug,max_threads=3", "-h", "-V", "/tmp -o fsname=a,ro",
                 "/tmp -osubtype=b", "/tmp -oclone_fd,max_idle_threads=5,allow_other -o rw", "/tmp /usr", "/nowhere",
                 "-o", "/tmp -o max_threads=x", "-- /tmp", "/tmp --", "-o a -- -f", "--unknown /tmp", "/dev/fd/7",
                 "-o ,,a,,", "-oa\\,b,c\\\\d,\\101\\062 /tmp", "/tmp -x y"]
PARTS = ["number=12", "number=", "text=one", "text=", "flag", "noflag", "hex=ff", "hex=zz", "keep=1", "drop", "bad", "mine",
         "other", "-x", "-xvalue", "-n", "-n5", "-ofl\\ag,other", "-o", "a,b=c,flag", "--", "-", "-nope", "text=a\\,b",
         "-otext=a\\,b,number=3,mine,x\\\\y", "\\141", "-o\\141\\4,drop"]


def main():
    try:
        theirs = ctypes.CDLL("libfuse3.so.3")
    except OSError as error:
        print(f"SKIPPED: no libfuse to compare with: {error}")
        sys.exit(SKIP)
    ours = ctypes.CDLL(os.path.join(BUILD, "runtime", "libefuse.so"))
    chosen = random.Random(20)
    cases = [(command_line, ["/bin/prog", *line.split()]) for line in COMMAND_LINES]
    cases += [(own_table, ["prog", *pair]) for pair in itertools.product(PARTS, PARTS)]
    cases += [(own_table, ["prog", *chosen.choices(PARTS, k=chosen.randint(3, 7))]) for _ in range(3000)]
    cases += [(appended, chosen.choices(PARTS, k=chosen.randint(1, 5))) for _ in range(300)]
    differing = 0
    for compare, arguments in cases:
        want, got = compare(theirs, arguments), compare(ours, arguments)
        if want != got:
            differing += 1
            print(f"differs: {compare.__name__}({arguments}):\n  libfuse  {want}\n  libefuse {got}")
    print(f"{len(cases)} argument vectors compared, {differing} differ")
    sys.exit(1 if differing else 0)


main()
