"""What else happens to a held group: others set its limit, or remove it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB, OomEvent, OomResolved, Removed
from support.holds import Owner, assert_nothing_left, guard_is_gone, held, is_locked, kinds, take, wait_stopped
from support.marks import is_held
from support.processes import finish, start_hog, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Cgroup


@pytest.fixture(autouse=True)
def trial(request: pytest.FixtureRequest) -> int:
    """Which trial this is."""
    return getattr(request, "param", 1)


repeated = pytest.mark.parametrize(
    "trial", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 51))], indirect=True
)
"""Made once, and fifty times in the long run."""


@pytest.fixture
def outer(nursery: memcg.Cgroup) -> Iterator[Cgroup]:
    """A group with a limit of 64 MiB, to put others in."""
    with memcg.temporary(parent=nursery, limit="64M") as outer:
        yield outer


def test_a_child_is_a_group_of_its_own(group: Cgroup) -> None:
    """A group made during a hold can be held at once, by the same process and by another one."""
    with held(group, 10):
        for number in range(10):
            with group.create(f"c{number}", limit=16 * MiB).oom.hold(10) as hold:
                assert hold.state == "armed"
        child = group.create("another", limit=16 * MiB)
        with Owner(child, 10) as owner:
            assert is_held(child)
            assert owner.do("hold.state") == "armed"


# Limits.


@repeated
def test_a_limit_that_somebody_raises(group: Cgroup) -> None:
    """Room that another makes ends the OOM, in time, and is theirs for good."""
    with held(group, 10) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        group.limit = 100 * MiB
        assert finish(hog) == 0
        take(hold, OomResolved)
        assert (hold.state, hold.expirations) == ("armed", 0)
    assert group.limit == 100 * MiB


def test_a_limit_that_somebody_lowers_or_takes_away(group: Cgroup) -> None:
    """The hold is for whatever limit there is when it is hit."""
    with held(group, 10) as hold:
        for limit, mib in ((None, 64), (24 * MiB, 48)):
            group.limit = limit
            hog = start_hog(group, mib)
            if limit is None:
                assert finish(hog) == 0
                assert hold.wait(0) is None
            else:
                took, _ = take(hold, OomEvent)
                assert took.origin == group
                assert hold.raise_limit(by="64M")
                assert finish(hog) == 0


# Removal.


def test_the_group_is_removed(outer: Cgroup) -> None:
    """Removed is the last event, the hold is over, and its guard forgets it; another hold of it goes on."""
    child = outer.create("child", limit=16 * MiB)
    with held(outer, 10) as other, child.oom.hold(10) as hold:
        child.remove()
        removed, before = take(hold, Removed)
        assert (removed.cgroup, removed.counts_final, kinds(before)) == (child, True, [])
        assert (hold.state, hold.delay, hold.deadline) == ("ended", 10, None)
        with pytest.raises(memcg.ClosedError, match="was removed"):
            hold.wait(0)
        with pytest.raises(memcg.ClosedError, match="was removed"):
            hold.expire()
        assert other.state == "armed"


def test_a_group_of_the_same_name_is_another_one(outer: Cgroup) -> None:
    """After a removal, a new group can be held though the hold of the former is not closed."""
    child = outer.create("child", limit=16 * MiB)
    with child.oom.hold(10) as former:
        child.remove()
        again = outer.create("child", limit=16 * MiB)
        assert not is_held(again)
        with again.oom.hold(10) as hold:
            take(former, Removed)
            assert hold.state == "armed"
            assert is_held(again)
    wait_until(lambda: not is_locked(again), "the guard is done")
    assert_nothing_left(outer)


def test_removed_after_a_process_was_killed(nursery: memcg.Cgroup) -> None:
    """temporary() kills who is stopped and removes the group, with the hold still there: all is told, and over."""
    with memcg.temporary(parent=nursery, limit="32M") as group:
        hold = group.oom.hold(10)
        pids = hold.guard_pids
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
    assert finish(hog) == -signal.SIGKILL
    removed, _ = take(hold, Removed)
    assert removed.cgroup == group
    hold.close()
    wait_until(lambda: guard_is_gone(pids), "the guard is gone")


@repeated
def test_leaving_both_at_once(nursery: memcg.Cgroup) -> None:
    """One ``with`` statement for the group and the hold, left amid an OOM: the process is gone, and the group."""
    with memcg.temporary(parent=nursery, limit="32M") as group, group.oom.hold(10) as hold:
        pids = hold.guard_pids
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
    assert finish(hog) == -signal.SIGKILL
    assert not group.exists
    wait_until(lambda: guard_is_gone(pids), "the guard is gone")
