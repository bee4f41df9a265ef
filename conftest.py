"""The group below which all groups of a test run live, and the examples of the documentation as tests."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

import memcg

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"], fixtures=["nursery"]
).pytest()


# Ctrl-C is tested too: a shell that runs this in the background has it ignored, which children would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _why_not() -> str:
    """Why no real OOM can be caused on this machine, or "" where it can."""
    try:
        with memcg.temporary():
            return ""
    except memcg.MemcgError as error:
        return str(error)


@pytest.fixture(scope="session")
def nursery() -> Iterator[memcg.Cgroup]:
    """The one group below which all groups of this test run live."""
    why_not = _why_not()
    if why_not and os.environ.get("CI"):
        pytest.fail(f"no real OOM can be caused here: {why_not}")
    if why_not:
        pytest.skip(f"no real OOM can be caused here: {why_not}")
    with memcg.temporary(name=f"memcg-test-{os.getpid()}-{secrets.token_hex(4)}") as group:
        yield group
