"""Building memcg: the wheel, the source archive, and what is said where something to build with is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import memcg

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
SOURCES = ("build_ffi.py", "csrc", "LICENSE", "MANIFEST.in", "pyproject.toml", "README.md", "setup.py", "src")
ARTIFACTS = ("*.so", "memcg-enter", "memcg-guard", "__pycache__", "*.egg-info")


@dataclass
class Builder:
    """A Python with what memcg is built with, and a place to work in."""

    python: Path
    place: Path

    def pip(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs pip for that Python."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.python)),
                *map(str, arguments),
            ],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def tree(self) -> Path:
        """A copy of the sources, without anything that was built from them."""
        tree = self.place / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        for name in SOURCES:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns(*ARTIFACTS))
            elif source.exists():
                shutil.copy(source, tree)
        return tree

    def build(self, source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Builds a wheel, for the directory "wheels"."""
        wheels = self.place / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        return self.pip("wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source, **environment)

    def wheel(self) -> Path:
        """The wheel that was built last."""
        [wheel] = (self.place / "wheels").iterdir()
        return wheel


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A virtual environment with what pyproject.toml names under [build-system]."""
    place = tmp_path_factory.mktemp("build")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    builder = Builder(place / "venv" / "bin" / "python", place)
    requires = re.search(r"^requires = (\[.*\])$", (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires is not None
    installed = builder.pip("install", *json.loads(requires[1]))
    assert installed.returncode == 0, installed.stdout
    return builder


@pytest.fixture(scope="module")
def wheel(builder: Builder) -> Path:
    """A wheel, built with warnings as errors."""
    built = builder.build(builder.tree(), CI="1")
    assert built.returncode == 0, built.stdout
    return builder.wheel().rename(builder.place / builder.wheel().name)


def test_the_wheel_fits_every_python_from_3_10(wheel: Path) -> None:
    """One wheel serves all versions of Python, and its compiled module is of the stable ABI."""
    assert re.fullmatch(r"memcg-[0-9.]+-cp310-abi3-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == ["memcg/_ffi.abi3.so"]


def test_the_wheel_has_all_that_is_needed_and_no_more(wheel: Path) -> None:
    """The two programs are there and may be run; so are the types; the C sources and the tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        programs = [archive.getinfo(f"memcg/{name}") for name in ("memcg-enter", "memcg-guard")]
        names = set(archive.namelist())
    assert [stat.S_IMODE(program.external_attr >> 16) for program in programs] == [0o755, 0o755]
    assert {"memcg/py.typed", "memcg/_ffi.pyi"} <= names
    modules = {
        f"memcg/{path.relative_to(PROJECT / 'src/memcg')}" for path in (PROJECT / "src/memcg").rglob("*.py")
    }
    assert modules <= names
    assert [name for name in names if name.endswith((".c", ".h")) or "test" in name.lower()] == []


USE = """
import subprocess, sys
import memcg
with memcg.temporary(parent=memcg.open(sys.argv[1]), limit="16M") as group:
    with group.oom.hold(10), group.popen(["/bin/cat", "/proc/self/cgroup"], stdout=subprocess.PIPE) as process:
        assert group.cgroup_path.encode() in process.communicate()[0]
print(memcg.__file__)
"""


def test_what_the_wheel_installs_works(nursery: memcg.Cgroup, builder: Builder, wheel: Path) -> None:
    """Installed from the wheel, memcg holds a real group and starts a process in it, and the command is there."""
    installed = builder.pip("install", "--no-deps", "--force-reinstall", wheel)
    assert installed.returncode == 0, installed.stdout

    def run(program: str, *arguments: str) -> str:
        return subprocess.run(
            [builder.python.with_name(program), *arguments],
            cwd=builder.place,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    assert run("python", "-c", USE, nursery.cgroup_path).startswith(str(builder.place))
    assert "the job has finished" in run("memcg", "demo")


SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def test_the_source_archive_can_be_built(builder: Builder) -> None:
    """The archive of the sources has all that building a wheel takes."""
    made = subprocess.run(
        [builder.python, "-c", SDIST, builder.place],
        cwd=builder.tree(),
        capture_output=True,
        text=True,
        check=True,
    )
    archive = builder.place / made.stdout.splitlines()[-1]
    built = builder.build(archive)
    assert built.returncode == 0, built.stdout
    assert "cp310-abi3" in builder.wheel().name


COMPILERS = {
    "a compiler": "",
    "Python.h": """
        for argument do
            shift
            case $argument in -I/*) ;; *) set -- "$@" "$argument";; esac
        done
        exec cc "$@"
    """,
    "errno.h": """
        exec cc -nostdinc "$@"
    """,
}
"""Compilers that do not find some headers, as where the package that has them is not installed."""


@pytest.mark.parametrize("missing", COMPILERS)
def test_what_is_missing_is_said_with_the_packages_that_have_it(builder: Builder, missing: str) -> None:
    """Without a compiler, or without headers, the build fails with what to install on Debian and on Fedora."""
    compiler = builder.place / "cc-without"
    compiler.unlink(missing_ok=True)
    if COMPILERS[missing]:
        compiler.write_text(f"#!/bin/sh{COMPILERS[missing]}")
        compiler.chmod(0o755)
    failed = builder.build(builder.tree(), CC=str(compiler), LC_ALL="C")
    assert failed.returncode != 0
    assert re.search(f"No such file or directory: '{compiler}'|{missing}: No such file", failed.stdout)
    assert "memcg could not compile its C parts" in failed.stdout
    assert str(builder.python) in failed.stdout
    for package in ("gcc", "libc6-dev", "python3-dev", "glibc-devel", "python3-devel"):
        assert package in failed.stdout
    assert "Traceback" not in failed.stdout
