"""A hold that ends in the very moment of an OOM."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from support.processes import Worker, wait_until

if TYPE_CHECKING:
    from memcg import Cgroup


def fill_and_release(group: Cgroup, after: float) -> int:
    """A process runs into the limit, and the hold ends so many seconds later; how the process ended."""
    with group.oom.hold(60) as hold, Worker(group) as worker:
        assert worker.do("map 32") == "done"
        worker.order("touch")
        end = time.perf_counter() + after
        while time.perf_counter() < end:  # sleeping is not as exact
            pass
        hold.close()
        wait_until(lambda: worker.process.poll() is not None, "the process is killed by the kernel", 10)
        return worker.process.wait()


def test_a_release_while_a_process_runs_into_the_limit(nursery: memcg.Cgroup) -> None:
    """Whenever it comes, the kernel's killer takes the process, which does not sleep on with the killer on."""
    with memcg.temporary(parent=nursery, limit="16M") as group:
        assert fill_and_release(group, 0) == -signal.SIGKILL


@pytest.mark.slow
def test_releases_at_any_moment_of_an_oom(nursery: memcg.Cgroup) -> None:
    """The same 300 times, at random: also between the kernel's look at the switch and the process's going to
    sleep, when switching the killer on wakes nobody."""
    moments = random.Random(1)
    with memcg.temporary(parent=nursery, limit="64M") as other, other.oom.hold(60):  # so that the guard stays
        for _ in range(300):
            with memcg.temporary(parent=nursery, limit="16M") as group:
                assert fill_and_release(group, moments.random() * 0.01) == -signal.SIGKILL
