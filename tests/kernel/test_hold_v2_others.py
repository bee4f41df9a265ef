"""What others do to a held group of cgroup v2: they write to its files, move the guard into it, or remove it."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, KernelKill, MiB, OomEvent, OomResolved, Overridden, Removed
from support.holds import assert_nothing_left, guard_is_gone, held, kinds, take, wait_stopped, with_worker
from support.marks import is_held, marks
from support.processes import Worker, finish, start_hog, wait_until

if TYPE_CHECKING:
    from memcg import CgroupV2

LIMIT = 32 * MiB


@pytest.fixture
def group(group_v2: CgroupV2) -> CgroupV2:
    """A group of cgroup v2, with a limit of 32 MiB."""
    return group_v2


# memory.max.


@pytest.mark.parametrize(("limit", "high"), [(256 * MiB, 224 * MiB), (24 * MiB, 12 * MiB), (None, None)])
def test_a_max_that_somebody_writes(group: CgroupV2, limit: int | None, high: int | None) -> None:
    """The line moves with it, up and down, and goes where there is no limit; it is theirs in the end."""
    with held(group, 60) as hold:
        assert group.high == 16 * MiB
        group.max = limit
        wait_until(lambda: group.high == high, "the line has moved")
        assert hold.state == "armed"
        assert hold.wait(0) is None
        group.max = LIMIT
        wait_until(lambda: group.high == 16 * MiB, "the line is back")
        group.max = limit
    assert group.max == limit


def test_a_max_that_somebody_takes_away_amid_an_oom(group: CgroupV2) -> None:
    """Without a limit there is no OOM."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        group.max = None
        take(hold, OomResolved)
        assert finish(hog) == 0
    assert group.max is None


# memory.high.


@pytest.mark.parametrize("amid", [False, True], ids=["armed", "amid an OOM"])
def test_a_high_that_somebody_lowers(group: CgroupV2, amid: bool) -> None:
    """Below the line there is no hold: it is over, the value stays, and nobody is frozen."""
    with group.oom.hold(60) as hold:
        pids = with_worker(hold.guard_pids)
        hog = start_hog(group, 64) if amid else None
        if hog:
            take(hold, OomEvent)
            wait_stopped(hog)
        group.high = 12 * MiB
        over, _ = take(hold, Overridden)
        assert over.reason == "somebody else has lowered the group's memory.high below the line of the hold"
        assert hold.state == "ended"
        assert group.high == 12 * MiB
        if hog:
            wait_until(lambda: not group.cgroup_events.frozen, "the group is thawed")
            hog.kill()
            finish(hog)
    assert_nothing_left(group, pids, high=12 * MiB)


def test_a_high_that_somebody_raises(group: CgroupV2) -> None:
    """It is what ``high`` is to be in the end; the hold goes on."""
    group.high = 30 * MiB
    with group.oom.hold(60) as hold:
        pids = with_worker(hold.guard_pids)
        group.high = 31 * MiB
        wait_until(lambda: (group.high or 0) < 31 * MiB, "the line is there again")
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0
    assert_nothing_left(group, pids, high=31 * MiB)


# cgroup.freeze.


def test_a_group_that_somebody_freezes(group: CgroupV2) -> None:
    """It is no OOM, and stays frozen in the end, until who has frozen it thaws it."""
    with Worker(group) as worker:
        with group.oom.hold(60) as hold:
            pids = with_worker(hold.guard_pids)
            group.freeze()
            wait_until(lambda: hold.frozen, "the guard has seen it")
            assert (hold.state, hold.wait(0)) == ("armed", None)
        wait_until(lambda: guard_is_gone(pids), "the guard is gone")
        assert group.cgroup_freeze
        assert (group.high, marks(group)) == (None, [])
        group.thaw()
        assert worker.do("touch 1") == "done"
    assert_nothing_left(group, pids)


def test_a_group_that_somebody_thaws_during_a_hold(group: CgroupV2) -> None:
    """After a foreign freeze, the hold goes on where it was."""
    with held(group, 60) as hold, Worker(group) as worker:
        group.freeze()
        worker.order("touch 64")
        wait_until(lambda: hold.frozen, "the guard has seen it")
        group.thaw()
        take(hold, OomEvent)
        wait_stopped(worker)
        assert hold.raise_limit(by="64M")
        assert worker.answer() == "done"


def test_an_oom_that_somebody_thaws(group: CgroupV2) -> None:
    """Who thaws the group resolves its OOM; if there is no room, another begins."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        group.thaw()
        take(hold, OomResolved)
        group.max = None
        assert finish(hog) == 0


# The guard is moved inside.


@pytest.mark.parametrize("which", [0, 1, 2, 3], ids=["guard", "keeper", "warden", "worker"])
def test_a_guard_that_is_moved_inside(group: CgroupV2, which: int) -> None:
    """Freezing the group would freeze the guard for ever: the hold is over instead, and the kernel kills."""
    with group.oom.hold(60) as hold:
        pids = with_worker(hold.guard_pids)
        group.add(pids[which])
        hog = start_hog(group, 64)
        over, _ = take(hold, Overridden)
        assert "moved the guard into the group" in over.reason
        assert finish(hog) == -signal.SIGKILL
        assert group.high is None
        assert not group.cgroup_freeze
    assert_nothing_left(group, pids)


def test_a_guard_that_is_left_inside(group: CgroupV2) -> None:
    """A guard that is in the group already, when a hold begins, is moved out of it first."""
    other = group.parent
    assert other is not None
    with memcg.temporary(parent=other, limit="32M") as first, held(first, 60) as hold:
        for pid in with_worker(hold.guard_pids):
            group.add(pid)
        with group.oom.hold(60) as second:
            assert second.guard_pids == hold.guard_pids
            assert not set(hold.guard_pids) & set(group.processes())
            hog = start_hog(group, 64)
            take(second, OomEvent)
            assert second.raise_limit(by="64M")
            assert finish(hog) == 0


# Removal.


def test_removed_after_it_was_handed_over(group: CgroupV2) -> None:
    """With the killer left on, too, the hold ends with its group."""
    child = group.create("child", limit=LIMIT)
    group.limit = None
    with held(child, 0.05, rearm="once") as hold:
        hog = start_hog(child, 64)
        take(hold, DelayExpired)
        assert finish(hog) == -signal.SIGKILL
        wait_until(lambda: hold.state == "handed_over", "it is handed over")
        wait_until(lambda: not child.populated, "it is empty")
        child.remove()
        assert kinds(take(hold, Removed)[1]) in ([], ["KernelKill"])
        assert hold.state == "ended"


def test_removed_amid_an_oom(group: CgroupV2) -> None:
    """Killed and removed by somebody else, while it is frozen."""
    child = group.create("child", limit=LIMIT)
    group.limit = None
    with held(child, 60) as hold:
        hog = start_hog(child, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        child.kill()
        assert finish(hog) == -signal.SIGKILL
        with contextlib.suppress(memcg.CgroupNotFoundError):
            child.remove()
        take(hold, Removed)
        assert (hold.state, hold.kills) == ("ended", 0)


# Holds within holds.


def test_an_inner_oom_leaves_the_outer_group_alone(group: CgroupV2) -> None:
    """The inner group is frozen, and who is beside it goes on."""
    inner, beside = group.create("inner", limit=LIMIT), group.create("beside")
    group.limit = 128 * MiB
    with held(group, 60) as outer, inner.oom.hold(60) as hold, Worker(beside) as worker:
        hog = start_hog(inner, 48)
        take(hold, OomEvent)
        wait_stopped(hog)
        assert worker.do("touch 1") == "done"
        assert (outer.state, outer.frozen) == ("armed", False)
        assert hold.raise_limit(by="32M")
        assert finish(hog) == 0


def test_an_outer_oom_freezes_the_inner_group(group: CgroupV2) -> None:
    """The outer group is frozen with all that is below it, whose own hold has nothing to do with that."""
    inner, beside = group.create("inner", limit=LIMIT), group.create("beside")
    group.limit = 64 * MiB
    with held(group, 60) as outer, inner.oom.hold(0.05) as hold, Worker(inner) as idle:
        assert idle.do("touch 1") == "done"
        hog = start_hog(beside, 80)
        take(outer, OomEvent)
        wait_stopped(hog)
        wait_stopped(idle)
        assert hold.wait(0.2) is None
        assert (hold.state, hold.expirations) == ("armed", 0)
        assert outer.raise_limit(by="64M")
        assert finish(hog) == 0
        assert idle.do("touch 1") == "done"
        assert is_held(inner)


def test_a_kill_below_is_not_missed(group: CgroupV2) -> None:
    """A kill by the limit of a group below is no failure of this hold to come first."""
    child = group.create("child", limit=8 * MiB)
    with held(group, 60) as hold:
        assert finish(start_hog(child, 16)) == -signal.SIGKILL
        killed, _ = take(hold, KernelKill)
        assert (killed.count, killed.missed) == (1, False)
