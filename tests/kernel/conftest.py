"""Real groups for the tests that cause real OOMs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg.oom import guard

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _group(nursery: memcg.Cgroup) -> Iterator[memcg.Cgroup]:
    with memcg.temporary(parent=nursery, limit="32M") as group:
        yield group


@pytest.fixture
def group(_group: memcg.Cgroup) -> memcg.Cgroup:
    """A group with a limit of 32 MiB, which is gone after the test, with all that is in it.

    It is of the version that has the memory controller here. On v2 it has either processes or children.
    """
    return _group


@pytest.fixture
def group_v1(_group: memcg.Cgroup) -> memcg.CgroupV1:
    """The same, for a test of what only cgroup v1 has; a module of such tests names it ``group``."""
    if not isinstance(_group, memcg.CgroupV1):
        pytest.skip("only cgroup v1 has this, and here the memory controller is on v2")
    return _group


@pytest.fixture
def group_v2(_group: memcg.Cgroup) -> memcg.CgroupV2:
    """The same, for a test of what only cgroup v2 has."""
    if not isinstance(_group, memcg.CgroupV2):
        pytest.skip("only cgroup v2 has this, and here the memory controller is on v1")
    return _group


@pytest.fixture(scope="session", autouse=True)
def _other_guard() -> None:
    """MEMCG_TEST_GUARD names a guard that was built in another way; owners that tests start take it as well."""
    if other := os.environ.get("MEMCG_TEST_GUARD"):
        guard.PROGRAM = Path(other)


@pytest.fixture(autouse=True)
def _leaves_nothing_open() -> Iterator[None]:
    """No test leaves a file descriptor behind, but for the bounded cache of control files."""
    from memcg.cgroupfs import directory

    directory._kept.clear()
    before = set(os.listdir("/proc/self/fd"))
    yield
    directory._kept.clear()
    after = set(os.listdir("/proc/self/fd"))
    # The file that wakes waiters, and that which tells of removals on v2, stay open from the first use on; event
    # loops of other tests may have gone.
    assert len(after - before) <= 2, f"left open: {after - before}"


@pytest.fixture(autouse=True)
def _popen_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared with subprocess.Popen is its usual way: with posix_spawn(), which Python 3.13 takes at
    times, signals 32 and 33 are ignored in the child, and errors name the program otherwise."""
    monkeypatch.setattr(subprocess, "_USE_POSIX_SPAWN", False)
