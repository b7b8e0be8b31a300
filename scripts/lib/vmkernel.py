# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels to test on: fetched as Debian packages and unpacked into a cache, never installed.

The cache is $EFUSE_CACHE, or efuse/ in the user's cache directory:
  kernels/RELEASE/          boot/vmlinuz-*, lib/modules/*, usr/src/linux-headers-* of one stock kernel
  kernels/debug-V-HASH/     a kernel built from linux-source with scripts/lib/debug.config
Whatever is complete there is used as it is; delete it to get a newer one.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

LIB = os.path.dirname(os.path.abspath(__file__))
STOCK = {"6.12": r"6\.12\.\d+\S*-cloud-amd64"}
KNOWN = [*STOCK, "debug"]
DEFAULT = "6.12"
DEBUG_SERIES = "6.12"


class KernelError(Exception):
    pass


@dataclass
class Kernel:
    name: str       # as given to --kernel
    release: str    # uname -r
    image: str      # bzImage
    build: str      # kernel build directory: headers, vmlinux with BTF
    modules: str    # lib/modules/RELEASE, or ""
    root: str       # the directory of all of these


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
        raise KernelError(f"{what}: {' '.join(args[:3])} failed:\n{done.stdout[-3000:].rstrip()}")
    return done.stdout


def version_key(text):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)]


def find_package(prefix, pattern):
    """The newest package whose name matches and that apt can fetch, or None."""
    if not glob.glob("/var/lib/apt/lists/*_Packages*"):
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        run([*as_root, "apt-get", "-qq", "update"], "updating the package lists")
    names = run(["apt-cache", "pkgnames", prefix], "looking for packages").split()
    for name in sorted((n for n in names if re.fullmatch(pattern, n)), key=version_key, reverse=True):
        if re.search(r"^Filename:", run(["apt-cache", "show", name], "reading package lists"), re.M):
            return name
    return None


def fetch(names, into):
    """Download packages and unpack them under `into`."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(into)) as debs:
        os.chmod(debs, 0o755)
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        run(["apt-get", "-qq", *sandbox, "download", *names], "fetching " + ", ".join(names), cwd=debs)
        for deb in sorted(glob.glob(os.path.join(debs, "*.deb"))):
            run(["dpkg-deb", "-x", deb, into], f"unpacking {os.path.basename(deb)}")


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


def stock_at(name, root):
    """The complete stock kernel under `root`, or None."""
    images = glob.glob(os.path.join(root, "boot/vmlinuz-*"))
    if len(images) != 1 or not os.path.exists(os.path.join(root, ".complete")):
        return None
    release = os.path.basename(images[0])[len("vmlinuz-"):]
    modules = [d for d in (f"{root}/lib/modules/{release}", f"{root}/usr/lib/modules/{release}") if os.path.isdir(d)]
    return Kernel(name, release, images[0], f"{root}/usr/src/linux-headers-{release}", modules[0] if modules else "",
                  root)


def cached_stock(name, kernels):
    pattern = STOCK[name]
    roots = [r for r in glob.glob(os.path.join(kernels, "*")) if re.fullmatch(pattern, os.path.basename(r))]
    found = [k for k in (stock_at(name, r) for r in sorted(roots, key=version_key)) if k]
    return found[-1] if found else None


def headers_packages(headers):
    """The headers package and those that its Makefile and links lead to."""
    depends = run(["apt-cache", "depends", "--important", headers], "reading dependencies")
    wanted = re.findall(r"Depends: (linux-(?:headers-\S+-common|kbuild-\S+))$", depends, re.M)
    if len(wanted) < 2:
        raise KernelError(f"{headers}: cannot tell which headers and kbuild packages it needs:\n{depends}")
    return [headers, *wanted]


def fetch_stock(name, kernels):
    image = find_package(f"linux-image-{name}.", "linux-image-" + STOCK[name])
    if image is None:
        raise KernelError(f"apt's package lists have no linux-image-{name}.*-cloud-amd64 "
                          "(Debian 12: bookworm-security, Debian 13: trixie)")
    release = image[len("linux-image-"):]
    root = os.path.join(kernels, release)
    say(f"fetching Linux {release} (image and headers) into {root}")
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    fetch([image, *headers_packages("linux-headers-" + release)], root)
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
    found = cached_stock(name, kernels)
    if found:
        return found
    with locked(os.path.join(kernels, f".{name}.lock")):
        return cached_stock(name, kernels) or fetch_stock(name, kernels)


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
    if find_package(package, re.escape(package)) is None:
        raise KernelError(f"apt's package lists have no {package}")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(root)) as unpacked:
        fetch([package], unpacked)
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
    with locked(os.path.join(build_dir, "kmod", f".{kernel.release}.lock")):
        done = subprocess.run([os.path.join(os.path.dirname(LIB), "build-kmod"), kernel.build, out],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", check=False)
    if done.stdout.strip():
        print(done.stdout.rstrip(), file=sys.stderr, flush=True)
    module = os.path.join(out, "efuse_ring.ko")
    if done.returncode or not os.path.exists(module):
        raise KernelError(f"the module for Linux {kernel.release} did not build")
    return module
