# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages of Debian suites that this machine's apt does not know: fetched into a directory, never installed.

The machine's apt is only asked where its archive is. Each use has a configuration, package lists and downloads of its
own, which end with it; what is fetched is signed by the key that the machine's own sources name for that archive.
"""

import glob
import os
import re
import shutil
import tempfile

from cache import CacheError, run


def signed_by(uri):
    """The keyring that the machine's sources name for this address, or None."""
    for path in [*glob.glob("/etc/apt/sources.list.d/*"), "/etc/apt/sources.list"]:
        if not path.endswith((".list", ".sources")) or not os.path.exists(path):
            continue
        with open(path, encoding="utf-8", errors="replace") as f:
            text = re.sub(r"^\s*#.*\n?", "", f.read(), flags=re.M)
        for part in re.split(r"\n\s*\n", text) if path.endswith(".sources") else text.splitlines():
            key = re.search(r"signed-by\s*[:=]\s*(/[^\s\]]+)", part, re.I)
            if key and uri.rstrip("/") in part:
                return key.group(1)
    return None


def codename():
    """Of the machine's own release."""
    with open("/etc/os-release", encoding="utf-8") as f:
        release = re.search(r"^VERSION_CODENAME=\"?(\w+)", f.read(), re.M)
    return release.group(1) if release else "bookworm"


def archive():
    """Address of the Debian archive that this machine uses."""
    own = codename()
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)",
                  "Created-By: Packages"], "reading apt's sources")
    for line in listed.splitlines():
        uri, *rest = line.split()
        if rest == [own, "main"]:
            return uri
    raise CacheError(f"apt's sources do not name {own} main")


def unpack(packages, into):
    """Unpack package files under `into`, without running anything of theirs."""
    for deb in sorted(packages):
        run(["dpkg-deb", "-x", deb, into], f"unpacking {os.path.basename(deb)}")


class Own:
    """The machine's apt, only asked. Leaving the context removes what it fetched."""

    where = "apt's package lists"

    def __init__(self, scratch):
        """scratch: a directory of the caller's, made if need be, for what is fetched."""
        self.scratch = scratch
        self.options = ["-qq"] + (["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else [])

    def __enter__(self):
        os.makedirs(self.scratch, exist_ok=True)
        self.root = tempfile.mkdtemp(dir=self.scratch, prefix=".apt-")
        try:
            os.makedirs(os.path.join(self.root, "archives"))
            self.update()
        except BaseException:
            shutil.rmtree(self.root, ignore_errors=True)
            raise
        return self

    def __exit__(self, *exc):
        shutil.rmtree(self.root, ignore_errors=True)

    def update(self):
        if not glob.glob("/var/lib/apt/lists/*_Packages*"):
            as_root = [] if os.geteuid() == 0 else ["sudo"]
            run([*as_root, "apt-get", "-qq", "update"], "updating the package lists")

    def names(self, prefix):
        """Packages whose name begins so."""
        return run(["apt-cache", *self.options, "pkgnames", prefix], "looking for packages").split()

    def version(self, package):
        """Upstream version of the newest one that can be fetched, or None."""
        if package not in self.names(package):
            return None
        shown = run(["apt-cache", *self.options, "show", package], f"looking for {package}")
        found = re.search(r"^Version: (?:\d+:)?([\d.]+)", shown, re.M)
        return found.group(1) if found and re.search(r"^Filename:", shown, re.M) else None

    def depends(self, package):
        """Names of the packages that it depends on itself."""
        return re.findall(r"^ +Depends: ([^<\s]\S*)$",
                          run(["apt-cache", *self.options, "depends", "--important", package],
                              "reading dependencies"), re.M)

    def fetch(self, packages):
        """Package files of just these. They last as long as this object."""
        into = os.path.join(self.root, "archives")
        run(["apt-get", *self.options, "download", *packages], "fetching " + ", ".join(packages), cwd=into)
        return glob.glob(os.path.join(into, "*.deb"))


class Suites(Own):
    """An apt that knows the packages of `suites` and nothing else."""

    def __init__(self, suites, scratch):
        super().__init__(scratch)
        self.suites, self.where = suites, "Debian " + ", ".join(suites)

    def update(self):
        self.options = self._configure()
        run(["apt-get", *self.options, "update"], "reading " + ", ".join(self.suites))

    def _configure(self):
        for name in ("lists/partial", "archives/partial"):
            os.makedirs(os.path.join(self.root, name))
        uri = archive()
        key = signed_by(uri)
        with open(os.path.join(self.root, "sources.list"), "w", encoding="utf-8") as f:
            for suite in self.suites:
                f.write(f"deb {f'[signed-by={key}] ' if key else ''}{uri} {suite} main\n")
        config = os.path.join(self.root, "apt.conf")
        with open(config, "w", encoding="utf-8") as f:
            f.write(f"""\
#clear APT::Update;
Dir::Etc::sourcelist "{self.root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{self.root}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{self.root}";
APT::Install-Recommends "0";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Debug::NoLocking "1";
""")
            if os.geteuid() == 0:
                f.write('APT::Sandbox::User "root";\n')
        return ["-qq", "-c", config]

    def fetch_with_dependencies(self, packages):
        """Package files of these and of all that they need, as on a machine that has nothing."""
        run(["apt-get", *self.options, "--yes", "--download-only", "install", *packages],
            "fetching " + ", ".join(packages))
        return glob.glob(os.path.join(self.root, "archives", "*.deb"))
