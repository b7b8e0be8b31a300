# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels to test on: fetched as Debian packages and unpacked into a cache, never installed.

In the cache (cache.py):
  kernels/RELEASE/          image, modules and headers of one stock kernel, as its packages have them
  kernels/debug-V-HASH/     a kernel built from linux-source with scripts/lib/debug.config
Whatever is complete there is used as it is; delete it to get a newer one.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import buildroot
import debian
from cache import CacheError as KernelError
from cache import cache_dir, locked, run, say, version_key

LIB = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True)
class Stock:
    pattern: str            # of its release
    suite: str = ""         # of Debian that has it; "": one that the machine's own apt knows
    release: str = ""       # of Debian that the suite belongs to, which has the compiler


STOCK = {
    "6.12": Stock(r"6\.12\.\d+\S*-cloud-amd64"),
    "7.2": Stock(r"7\.2\.\d+\S*-cloud-amd64", "trixie-backports", "trixie"),
}
KNOWN = [*STOCK, "debug"]
DEFAULT = "6.12"
DEBUG_SERIES = "6.12"


@dataclass
class Kernel:
    name: str       # as given to --kernel
    release: str    # uname -r
    image: str      # bzImage
    build: str      # kernel build directory: headers, vmlinux with BTF
    modules: str    # lib/modules/RELEASE, or ""
    root: str       # the directory of all of these
    tools: str | None = None    # a build root (buildroot.py) to build its modules in; None: this machine


def relocate(root):
    """Make the unpacked headers build modules from where they are: their Makefile and the links between them
    name absolute paths."""
    for makefile in glob.glob(os.path.join(root, "usr/src/linux-headers-*/Makefile")):
        with open(makefile, encoding="utf-8") as f:
            text = f.read()
        moved = re.sub(r"(?<![\w/.])(/usr/(?:src|lib)/linux-)", lambda m: root + m.group(1), text)
        if moved != text:
            with open(makefile, "w", encoding="utf-8") as f:
                f.write(moved)
    places = [p for pattern in ("usr/src/*", "usr/lib/linux-*", "lib/modules/*", "usr/lib/modules/*")
              for p in glob.glob(os.path.join(root, pattern))]
    for directory in places:
        for name in os.listdir(directory) if os.path.isdir(directory) and not os.path.islink(directory) else []:
            link = os.path.join(directory, name)
            if os.path.islink(link) and os.readlink(link).startswith("/usr/"):
                target = root + os.readlink(link)
                os.unlink(link)
                os.symlink(target, link)


def image_of(root):
    """The kernel image among the unpacked packages: beside its modules since Linux 7.2, in boot before."""
    found = [p for pattern in ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz")
             for p in glob.glob(os.path.join(root, pattern))]
    if len(found) != 1:
        return None, None
    directory, name = os.path.split(found[0])
    return found[0], os.path.basename(directory) if name == "vmlinuz" else name[len("vmlinuz-"):]


def stock_at(name, root):
    """The complete stock kernel under `root`, or None."""
    image, release = image_of(root)
    if image is None or not os.path.exists(os.path.join(root, ".complete")):
        return None
    modules = [d for d in (f"{root}/lib/modules/{release}", f"{root}/usr/lib/modules/{release}") if os.path.isdir(d)]
    return Kernel(name, release, image, f"{root}/usr/src/linux-headers-{release}", modules[0] if modules else "",
                  root)


def cached_stock(name, kernels):
    roots = [r for r in glob.glob(os.path.join(kernels, "*"))
             if re.fullmatch(STOCK[name].pattern, os.path.basename(r))]
    found = [k for k in (stock_at(name, r) for r in sorted(roots, key=version_key)) if k]
    return found[-1] if found else None


def newest_image(apt, name):
    """The newest image of that series, as the name of its package."""
    pattern = "linux-image-" + STOCK[name].pattern
    for package in sorted((n for n in apt.names(f"linux-image-{name}.") if re.fullmatch(pattern, n)),
                          key=version_key, reverse=True):
        if apt.version(package):
            return package
    others = sorted((n for n in apt.names("linux-image-") if re.fullmatch(r"linux-image-\d\S*-cloud-amd64", n)),
                    key=version_key)
    raise KernelError(f"{apt.where} has no linux-image-{name}.*-cloud-amd64" +
                      (f"; the newest that it has is {others[-1]}" if others else ""))


def packages_of(apt, image):
    """The image, its headers, and what of the same kernel these lead to: headers of all flavours, kbuild, and for an
    image in parts, those."""
    release = image[len("linux-image-"):]
    headers = "linux-headers-" + release
    parts = [d for d in apt.depends(image) if re.fullmatch(r"linux-(?:binary|modules|base)-\d\S*", d)]
    wanted = [d for d in apt.depends(headers) if re.fullmatch(r"linux-(?:headers-\S+-common|kbuild-\S+)", d)]
    if len(wanted) < 2:
        raise KernelError(f"{headers}: cannot tell which headers and kbuild packages it needs")
    return [image, *parts, headers, *wanted]


def unpack_stock(apt, name, kernels):
    image = newest_image(apt, name)
    release = image[len("linux-image-"):]
    root = os.path.join(kernels, release)
    say(f"fetching Linux {release} (image and headers) into {root}")
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    debian.unpack(apt.fetch(packages_of(apt, image)), root)
    return root, release


def fetch_stock(name, kernels):
    suite = STOCK[name].suite
    with debian.Suites([suite], kernels) if suite else debian.Own(kernels) as apt:
        root, release = unpack_stock(apt, name, kernels)
    relocate(root)
    # Modules are loaded by name in the guest; the package would have this done on installation.
    base = root if os.path.isdir(f"{root}/lib/modules") else f"{root}/usr"
    depmod = shutil.which("depmod", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if depmod:
        run([depmod, "-b", base, release], "indexing the kernel's modules")
    with open(os.path.join(root, ".complete"), "w", encoding="utf-8"):
        pass
    kernel = stock_at(name, root)
    if kernel is None or not os.path.exists(os.path.join(kernel.build, "vmlinux")):
        raise KernelError(f"{root}: the packages of Linux {release} lack the image or the headers' vmlinux")
    return kernel


def stock(name):
    kernels = os.path.join(cache_dir(), "kernels")
    kernel = cached_stock(name, kernels)
    if not kernel:
        with locked(os.path.join(kernels, f".{name}.lock")):
            kernel = cached_stock(name, kernels) or fetch_stock(name, kernels)
    if STOCK[name].release:
        kernel.tools = buildroot.prepare(STOCK[name].release, kernel.root, kernel.build)
    return kernel


def fragment_missing(fragment, config):
    """Lines of the fragment that Kconfig did not accept."""
    def options(path):
        with open(path, encoding="utf-8") as f:
            lines = [line.strip() for line in f]
        on = dict(line.split("=", 1) for line in lines if re.match(r"CONFIG_\w+=", line))
        off = {m.group(1) for line in lines if (m := re.fullmatch(r"# (CONFIG_\w+) is not set", line))}
        return on, off
    want_on, want_off = options(fragment)
    have_on, _ = options(config)
    return [f"{k}={v}" for k, v in want_on.items() if have_on.get(k) != v] + \
           [f"# {k} is not set" for k in want_off if k in have_on]


def unpack_source(root):
    """Unpack Debian's kernel source into `root`."""
    package = f"linux-source-{DEBUG_SERIES}"
    with debian.Own(os.path.dirname(root)) as apt, tempfile.TemporaryDirectory(dir=os.path.dirname(root)) as unpacked:
        if not apt.version(package):
            raise KernelError(f"{apt.where} has no {package}")
        debian.unpack(apt.fetch([package]), unpacked)
        archives = glob.glob(os.path.join(unpacked, "usr/src/linux-source-*.tar.*"))
        if len(archives) != 1:
            raise KernelError(f"{package}: no source archive in it")
        run(["tar", "-xf", archives[0], "-C", root, "--strip-components=1"], "unpacking the kernel source")


def debug_at(root):
    image = os.path.join(root, "arch/x86/boot/bzImage")
    if not os.path.exists(os.path.join(root, ".complete")):
        return None
    with open(os.path.join(root, "include/config/kernel.release"), encoding="utf-8") as f:
        return Kernel("debug", f.read().strip(), image, root, "", root)


def build_debug(root, fragment):
    say(f"building the debug kernel in {root}; this takes a good while, once (log: {root}/build.log)")
    run([os.path.join(os.path.dirname(LIB), "setup"), "--debug-kernel"], "installing what a kernel build needs")
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    unpack_source(root)
    env = {**os.environ, "KCONFIG_ALLCONFIG": fragment, "KBUILD_BUILD_TIMESTAMP": "1970-01-01"}
    run(["make", "-s", "alldefconfig"], "configuring the debug kernel", cwd=root, env=env)
    missing = fragment_missing(fragment, os.path.join(root, ".config"))
    if missing:
        raise KernelError("the debug kernel's configuration did not take:\n  " + "\n  ".join(missing))
    jobs = os.environ.get("EFUSE_JOBS", "2")
    with open(os.path.join(root, "build.log"), "w", encoding="utf-8") as log:
        done = subprocess.run(["make", f"-j{jobs}", "bzImage", "modules"], cwd=root, stdin=subprocess.DEVNULL,
                              stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        with open(os.path.join(root, "build.log"), encoding="utf-8", errors="replace") as log:
            tail = "".join(log.readlines()[-30:])
        raise KernelError(f"building the debug kernel failed ({root}/build.log):\n{tail}")
    # Modules are built against headers, scripts and vmlinux; the objects are only bulk.
    for directory, _, files in os.walk(root):
        if os.path.relpath(directory, root).split(os.sep)[0] in ("scripts", "tools"):
            continue
        for name in files:
            if name.endswith((".o", ".a")):
                os.unlink(os.path.join(directory, name))
    with open(os.path.join(root, ".complete"), "w", encoding="utf-8"):
        pass
    return debug_at(root)


def debug():
    fragment = os.path.join(LIB, "debug.config")
    with open(fragment, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()[:12]
    kernels = os.path.join(cache_dir(), "kernels")
    root = os.path.join(kernels, f"debug-{DEBUG_SERIES}-{digest}")
    found = debug_at(root)
    if found:
        return found
    with locked(os.path.join(kernels, ".debug.lock")):
        return debug_at(root) or build_debug(root, fragment)


def prepare(name):
    """The kernel called `name`, fetched or built if the cache has none."""
    if name not in KNOWN:
        raise KernelError(f"unknown kernel '{name}'; known: {', '.join(KNOWN)}")
    if os.uname().machine != "x86_64":
        raise KernelError(f"the test kernels are for x86_64, this machine is {os.uname().machine}")
    return debug() if name == "debug" else stock(name)


def build_module(kernel, build_dir):
    """efuse_ring.ko for `kernel`, rebuilt when stale."""
    out = os.path.join(build_dir, "kmod", os.path.basename(kernel.release))
    env = dict(os.environ)
    if kernel.tools:
        top = os.path.dirname(os.path.dirname(LIB))
        env["EFUSE_MAKE"] = " ".join([os.path.join(LIB, "in-root"), kernel.tools, kernel.root, top, out, "--", "make"])
    with locked(os.path.join(build_dir, "kmod", f".{kernel.release}.lock")):
        done = subprocess.run([os.path.join(os.path.dirname(LIB), "build-kmod"), kernel.build, out],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", check=False, env=env)
    if done.stdout.strip():
        print(done.stdout.rstrip(), file=sys.stderr, flush=True)
    module = os.path.join(out, "efuse_ring.ko")
    if done.returncode or not os.path.exists(module):
        raise KernelError(f"the module for Linux {kernel.release} did not build")
    return module
