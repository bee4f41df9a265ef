"""The kernels: which, where Debian has them, and the cache outside the repository that keeps them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(
    os.environ.get("MEMCG_VM_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memcg" / "vm"
)

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The modules that no guest needs: most of what a kernel package weighs.
WEIGHT = ("sound", "drivers/[!bv]*", "drivers/bluetooth", "drivers/video", "drivers/vf*", "net/[!9u]*")

LOOK_AGAIN = 24 * 3600
"""After how many seconds Debian is asked for a newer kernel."""


class VmError(Exception):
    """Why no kernel can be booted here, and what to do about it."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a kernel, and the version of the memory controller that it is booted with."""

    name: str
    suite: str
    version: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the kernel is told at boot."""
        return ("cgroup_no_v1=all",) if self.version == 2 else ()


ROWS = {
    row.name: row
    for row in (
        Row("6.1-v1", "bookworm", 1),
        Row("6.1-v2", "bookworm", 2),
        Row("6.12-v2", "bookworm-backports", 2),
        Row("7.3-v2", "trixie-backports", 2),  # the newest that Debian has; 7.3 is what that was
    )
}


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache: the directory has ``vmlinuz`` and ``lib/modules/RELEASE``."""

    directory: Path

    @property
    def image(self) -> Path:
        """What qemu boots."""
        return self.directory / "vmlinuz"

    @property
    def package(self) -> str:
        """The version of Debian's package."""
        return self.directory.name

    @property
    def release(self) -> str:
        """What ``uname -r`` says in it."""
        return next((self.directory / "lib/modules").iterdir()).name


def kernel(row: Row, *, newest: bool = False) -> Kernel:
    """The kernel of a row: from the cache where it has one, else from Debian.

    With *newest*, Debian is asked once a day for a newer one; without a network, what the cache has is taken.
    """
    directory = CACHE / row.suite
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        current, asked = directory / "current", directory / ".asked"
        stale = not asked.exists() or time.time() - asked.stat().st_mtime > LOOK_AGAIN
        if not current.exists() or (newest and stale):
            try:
                _fetch(row.suite, directory)
                asked.touch()
            except VmError as error:
                if not current.exists():
                    raise VmError(f"no kernel for {row.name} in {CACHE}, and none to be had: {error}") from error
                print(f"vm: no newer kernel for {row.name}, taking the one at hand ({error})")
        return Kernel(current.resolve())


def _fetch(suite: str, directory: Path) -> None:
    """Makes ``current`` in *directory* lead to the newest kernel that Debian has in that suite."""
    with _apt(suite) as apt:
        apt("apt-get", "update", "-qq")
        offered = apt("apt-cache", "show", "--no-all-versions", "linux-image-amd64")
        version, release = _field("Version", offered), _name(offered)
        kept = directory / version
        if not kept.exists():
            print(f"vm: fetching Linux {release} ({version}) from {suite}", flush=True)
            # From 6.16 on, the package of the image is an empty one that depends on the others.
            parts = apt("apt-cache", "pkgnames", "linux-").split()
            named = (f"linux-{part}-{release}" for part in ("image", "binary", "modules", "base"))
            wanted = [name for name in named if name in parts]
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                apt("apt-get", "download", "-qq", *(f"{name}={version}" for name in wanted), cwd=scratch)
                _unpack(Path(scratch), release).rename(kept)
    link = directory / ".next"
    link.symlink_to(version)
    link.rename(directory / "current")


def _unpack(scratch: Path, release: str) -> Path:
    """The directory of a kernel, made of the packages in *scratch*."""
    tree, made = scratch / "tree", scratch / "made"
    for package in scratch.glob("*.deb"):
        _run("dpkg", "-x", package, tree)
        package.unlink()
    images = [tree / f"boot/vmlinuz-{release}", tree / f"usr/lib/modules/{release}/vmlinuz"]
    modules = [tree / f"lib/modules/{release}", tree / f"usr/lib/modules/{release}"]
    made.mkdir()
    next(filter(Path.exists, images)).rename(made / "vmlinuz")
    (made / "lib/modules").mkdir(parents=True)
    home = next(filter(Path.exists, modules)).rename(made / "lib/modules" / release)
    for pattern in WEIGHT:
        for useless in (home / "kernel").glob(pattern):
            shutil.rmtree(useless)
    _run("depmod", "-b", made, release)
    return made


@contextlib.contextmanager
def _apt(suite: str) -> Iterator[_Apt]:
    """apt with nothing but that suite of Debian, and nothing of the system's own configuration of sources."""
    if not KEYRING.exists():
        raise VmError(f"{KEYRING} is not here: apt-get install debian-archive-keyring")
    with tempfile.TemporaryDirectory() as private:
        yield _Apt(Path(private), suite)


class _Apt:
    def __init__(self, private: Path, suite: str) -> None:
        source = private / "debian.list"
        source.write_text(f"deb [arch=amd64 signed-by={KEYRING}] {_mirror()} {suite} main\n")
        for each in ("lists/partial", "cache/archives/partial"):
            (private / each).mkdir(parents=True)
        settings = {
            "Dir::Etc::SourceList": source,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": private / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": private / "cache",
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
            "APT::Update::Error-Mode": "any",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]

    def __call__(self, program: str, *arguments: str, cwd: str | None = None) -> str:
        return _run(program, *self._options, *arguments, cwd=cwd)


def _mirror() -> str:
    """The mirror of Debian that this system uses."""
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    for address in targets:
        if re.search(r"/debian/?$", address):
            return address
    raise VmError("the kernels are Debian's, and this system's apt sources name no mirror of Debian")


def _field(name: str, shown: str) -> str:
    """A field of what ``apt-cache show`` prints."""
    found = re.search(rf"^{name}: (.+)$", shown, re.MULTILINE)
    assert found, f"no {name} in {shown!r}"
    return found[1]


def _name(shown: str) -> str:
    """The release of the kernel that linux-image-amd64 depends on."""
    found = re.search(r"\blinux-image-(\d\S+)", _field("Depends", shown))
    assert found, f"no kernel in {shown!r}"
    return found[1]


def _run(*command: str | Path, cwd: str | None = None) -> str:
    ended = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    if ended.returncode:
        raise VmError(f"{command[0]}: {' '.join(ended.stderr.split())}")
    return ended.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time fills a part of the cache."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
