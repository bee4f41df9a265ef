"""Real groups for the tests that cause real OOMs."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import pytest

import memcg

if TYPE_CHECKING:
    from collections.abc import Iterator


def _why_not() -> str:
    """Why this machine cannot run these tests, or "" where it can."""
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


@pytest.fixture
def group(nursery: memcg.Cgroup) -> Iterator[memcg.CgroupV1]:
    """A group with a limit of 32 MiB, which is gone after the test, with all that is in it."""
    with memcg.temporary(parent=nursery, limit="32M") as group:
        assert isinstance(group, memcg.CgroupV1)
        yield group


@pytest.fixture(autouse=True)
def _leaves_nothing_open() -> Iterator[None]:
    """No test leaves a file descriptor behind, but for the bounded cache of control files."""
    from memcg.cgroupfs import directory

    directory._kept.clear()
    before = set(os.listdir("/proc/self/fd"))
    yield
    directory._kept.clear()
    after = set(os.listdir("/proc/self/fd"))
    # The file that wakes waiters stays open from the first wait on; event loops of other tests may have gone.
    assert len(after - before) <= 1, f"left open: {after - before}"
