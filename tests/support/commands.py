"""Running the command line, as root and as nobody."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import TYPE_CHECKING
from unittest import mock

import memcg.cli
from support.forked import as_nobody

if TYPE_CHECKING:
    from collections.abc import Sequence


MEMCG = (sys.executable, "-m", "memcg")


def run(*arguments: str, command: Sequence[str] = MEMCG, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    """The status, output and errors of ``memcg`` with these arguments."""
    ended = subprocess.run(
        [*command, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def run_here(*arguments: str) -> tuple[int, str, str]:
    """The same in this very process."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["memcg", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        return memcg.cli.main(), out.getvalue(), errors.getvalue()


def run_as_nobody(*arguments: str) -> tuple[int, str, str]:
    """The same for a user who may do nothing."""
    return as_nobody(lambda: run_here(*arguments))
