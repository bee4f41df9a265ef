"""The guard as setup.py builds it, and built with sanitizers, which end it at the first mistake with a report.

The path of a sanitized guard, built for other tests: ``python tests/support/sanitized.py DIRECTORY``.
"""

from __future__ import annotations

import ast
import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

FLAGS = (
    *("-DMEMCG_HOSTED", "-g", "-O1", "-Wall", "-Wextra"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
)

# The environment of the guard, which could say the same, is empty; and one of the sanitizers knows no log_path.
OPTIONS = """
#include <fcntl.h>
#include <unistd.h>

const char *__asan_default_options(void);
const char *__asan_default_options(void) {{ return "detect_leaks=0"; }}
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) {{ return "print_stacktrace=1"; }}

__attribute__((constructor)) static void report_to_a_file(void)
{{
    dup2(open("{report}", O_WRONLY | O_APPEND), 2);
}}
"""

MISTAKE = """
#include <limits.h>
int main(int count, char **arguments)
{
    volatile int most = INT_MAX;
    char *volatile text = arguments[0];
    (void)text;
    return count > 1 ? arguments[count + 1000000][0] : most + count;
}
"""
"""A program that overflows an int; with an argument, it reads what is not its own."""


@dataclass(frozen=True)
class Build:
    """How setup.py builds the guard for a machine whose system calls it knows."""

    sources: tuple[str, ...]
    compile: tuple[str, ...]
    link: tuple[str, ...]


@dataclass(frozen=True)
class Sanitized:
    """A sanitized guard."""

    program: Path
    report_file: Path

    def report(self) -> str:
        """What the sanitizers had to say."""
        return self.report_file.read_text(errors="replace")


def build_of_setup() -> Build:
    """What setup.py says, without running it."""
    tree = ast.parse((PROJECT / "setup.py").read_text())
    values: dict[str, object] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[ast.Name(id="GUARD_SOURCES" | "GUARD_COMPILE" | "GUARD_LINK" as name)], value=value
            ):
                values[name] = _value(value)
    sources, compiling, linking = (values[f"GUARD_{what}"] for what in ("SOURCES", "COMPILE", "LINK"))
    assert isinstance(sources, list)
    assert isinstance(compiling, list)
    assert isinstance(linking, list)
    return Build(tuple(str(PROJECT / source) for source in sources), tuple(compiling), tuple(linking))


def _value(node: ast.expr) -> object:
    return eval(compile(ast.Expression(node), "setup.py", "eval"), {})


def compile_sanitized(directory: Path, name: str, *sources: str | Path) -> Sanitized:
    """A program in *directory*, with its report next to it."""
    report = directory / f"{name}.report"
    report.touch()
    report.chmod(0o666)  # a guard need not be root's
    options = directory / f"{name}-options.c"
    options.write_text(OPTIONS.format(report=report))
    program = directory / name
    compiler = os.environ.get("CC", "cc")
    compiled = subprocess.run(
        [compiler, *FLAGS, *map(str, sources), str(options), "-o", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stdout
    return Sanitized(program, report)


def _why_not() -> str:
    """Why nothing can be built with the sanitizers here, or ""."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        return f"no compiler: {compiler}"
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory, "empty.c"), Path(directory, "empty")
        source.write_text("int main(void) { return 0; }\n")
        tried = subprocess.run(
            [compiler, *FLAGS, str(source), "-o", str(program)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if tried.returncode:
            return f"{compiler} has no sanitizers: {tried.stdout.splitlines()[-1]}"
        run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        return f"the sanitizers do not run here: {run.stderr}" if run.returncode else ""


@functools.cache
def _directory() -> Path | str:
    if why_not := _why_not():
        return why_not
    directory = tempfile.mkdtemp(prefix="memcg-sanitized-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    Path(directory).chmod(0o755)
    return Path(directory)


def directory_or_skip() -> Path:
    """Where to build; without sanitizers the test is skipped, or fails where all has to be there."""
    directory = _directory()
    if isinstance(directory, Path):
        return directory
    if os.environ.get("CI"):
        pytest.fail(directory)
    pytest.skip(directory)


@functools.cache
def _guard(directory: Path) -> Sanitized:
    return compile_sanitized(directory, "memcg-guard", *build_of_setup().sources)


def sanitized_guard() -> Sanitized:
    """The sanitized guard, built once."""
    return _guard(directory_or_skip())


if __name__ == "__main__":
    print(_guard(Path(sys.argv[1]).absolute()).program)
