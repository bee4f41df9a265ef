"""What a hold is on cgroup v2: a line below the limit, at which the group is frozen; and what it refuses there."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, MiB, OomEvent, OomResolved
from support.holds import Herd, held, is_stopped, mark_of, take, wait_stopped
from support.marks import marks
from support.pace import at_most
from support.processes import Worker, finish, start_hog, wait_until
from support.settings import settings

if TYPE_CHECKING:
    from memcg import CgroupV2

LIMIT = 32 * MiB


@pytest.fixture
def group(group_v2: CgroupV2) -> CgroupV2:
    """A group of cgroup v2, with a limit of 32 MiB."""
    return group_v2


# Frozen.


def test_frozen_while_an_oom_lasts(group: CgroupV2) -> None:
    """From the OOM to its end all of the group stands still, and nothing before or after."""
    with held(group, 60) as hold, Worker(group) as idle:
        assert not hold.frozen
        with Worker(group) as worker:
            worker.order("touch 64")
            take(hold, OomEvent)
            wait_until(lambda: hold.frozen, "the group is frozen")
            assert group.cgroup_events.frozen
            assert " frozen=1" in mark_of(group)
            assert is_stopped(worker.pid)
            assert is_stopped(idle.pid)
            assert hold.raise_limit(by="64M")
            take(hold, OomResolved)
            assert worker.answer() == "done"
            wait_until(lambda: not hold.frozen, "the group is thawed")
            assert not group.cgroup_freeze
            assert " frozen=1" not in mark_of(group)
            assert idle.do("touch 1") == "done"
    assert not hold.frozen


def test_frozen_before_the_limit(group: CgroupV2) -> None:
    """The group stops between the line and its limit, where the kernel has not killed nor failed anything."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        assert LIMIT - hold.headroom < group.current < LIMIT
        assert (group.events_local.max, group.events_local.oom, group.oom.kills) == (0, 0, 0)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


def test_frozen_again_after_a_kill(group: CgroupV2) -> None:
    """The kernel's killer is let in for one process; who is left does not move until its memory has come free."""
    with held(group, 0.1) as hold, Worker(group) as small:
        assert small.do("touch 8") == "done"
        hog = start_hog(group, 64)
        assert take(hold, DelayExpired)[0].kills == 1
        assert finish(hog) == -signal.SIGKILL
        wait_until(lambda: hold.state == "armed" and not hold.frozen, "it is over")
        assert small.do("touch 1") == "done"
        assert group.oom.kills == 1


# The line.


def line(limit: int, headroom: int) -> int:
    """Where ``high`` stands near the limit."""
    return limit - headroom


def far_line(limit: int, headroom: int) -> int:
    """Where it stands far from it."""
    return limit - min(max(4 * headroom, limit // 8), limit // 2)


def test_the_line_is_far_and_then_near(group: CgroupV2) -> None:
    """While there is much room ``high`` stands further off; who comes there has the line drawn anew."""
    limit = 256 * MiB
    group.limit = limit
    with held(group, 60) as hold, Worker(group) as worker:
        assert hold.headroom == 8 * MiB
        assert group.high == far_line(limit, 8 * MiB) == 224 * MiB
        assert worker.do("touch 228") == "done"
        wait_until(lambda: group.high == line(limit, hold.headroom), "the line is near")
        assert hold.state == "armed"
        worker.order("touch 32")
        take(hold, OomEvent)
        assert group.high == line(limit, 8 * MiB)
        assert hold.raise_limit(by="64M")
        assert worker.answer() == "done"
    assert group.high is None
    assert group.limit == limit + 64 * MiB


def test_the_line_moves_with_the_threads(group: CgroupV2) -> None:
    """Each thread may charge a batch before it stands still: the more there are, the more room is left."""
    group.limit = 128 * MiB
    with held(group, 60) as hold:
        assert hold.headroom == 8 * MiB
        with Herd(group, 40, 4) as herd:
            herd.start()
            take(hold, OomEvent)
            assert hold.headroom >= 40 * MiB // 2  # or more, with large pages
            assert group.current < 128 * MiB
            assert hold.raise_limit(to="512M")
            assert herd.statuses() == [0] * 40
        assert group.oom.kills == 0


def test_a_headroom_that_is_given(group: CgroupV2) -> None:
    """It is what it is, however many threads there are."""
    with held(group, 60, headroom="4M") as hold, Worker(group) as worker:
        assert hold.headroom == 4 * MiB
        worker.order("touch 64")
        take(hold, OomEvent)
        assert group.high == line(LIMIT, 4 * MiB)
        assert hold.raise_limit(by="64M")
        assert worker.answer() == "done"
        wait_until(lambda: group.high == far_line(96 * MiB, 4 * MiB), "the line is drawn anew")
        assert hold.headroom == 4 * MiB


@pytest.mark.parametrize("high", [None, 24 * MiB, 30 * MiB, 32 * MiB])
def test_a_memory_high_above_the_line(group: CgroupV2, high: int | None) -> None:
    """What ``high`` was before is what it is in the end, after an OOM and its expiry too."""
    group.high = high
    with held(group, 0.1) as hold:
        assert (group.high or 0) < LIMIT
        assert f" high={-1 if high is None else high}" in mark_of(group)
        hog = start_hog(group, 64)
        assert take(hold, DelayExpired)[0].kills == 1
        assert finish(hog) == -signal.SIGKILL
    assert group.high == high


# What is refused.


def refuse(group: CgroupV2, words: str, **options: object) -> None:
    """Proves that a hold is refused in these words, and that it changes nothing."""
    before = settings(group)
    with pytest.raises(memcg.HoldError, match=words):
        group.oom.hold(10, **options)  # type: ignore[arg-type]
    assert settings(group) == before
    assert marks(group) == []


def test_a_memory_high_below_the_line(group: CgroupV2) -> None:
    """The group would never get to the line: refused, naming the value."""
    group.high = 12 * MiB
    refuse(group, "memory.high of .* is 12 MiB, below the line")
    group.high = 24 * MiB - 4096
    refuse(group, "memory.high of .*below the line")


def test_too_much_headroom(group: CgroupV2) -> None:
    """Half of the limit is the most: given, and needed."""
    refuse(group, "limit of .* is too low: .*headroom of 17 MiB", headroom="17M")
    with held(group, 10, headroom="16M") as hold:
        assert hold.headroom == 16 * MiB
    small = group.create("small", limit=15 * MiB)
    refuse(small, "limit of .* is too low: .*headroom of 8 MiB")
    with Herd(group.create("many", limit=32 * MiB), 40, 1) as herd:
        refuse(group / "many", "limit of .* is too low: .*headroom of 2[0-9.]+ MiB")
        herd.start()
        assert herd.statuses() == [0] * 40


def test_a_frozen_group(group: CgroupV2) -> None:
    """Somebody wants it so: refused, and left frozen; with takeover=True it is taken, and left thawed."""
    with Worker(group) as worker:
        group.freeze()
        refuse(group, "is frozen already, .*takeover=True, which leaves it thawed in the end, or thaw it first")
        assert group.cgroup_freeze
        with held(group, 10, takeover=True) as hold:
            assert hold.state == "armed"
            assert worker.do("touch 1") == "done"
        assert not group.cgroup_freeze


def test_taking_over_a_group_that_is_frozen_above_the_line(group: CgroupV2) -> None:
    """What another hold, or somebody, has frozen near its limit is an OOM from now on, or not."""
    with Worker(group) as worker:
        assert worker.do("touch 22") == "done"
        group.freeze()
        with held(group, 60, takeover=True) as hold:
            worker.order("touch 40")
            began, _ = take(hold, OomEvent)
            assert began.time <= time.monotonic()
            assert hold.raise_limit(by="64M")
            assert worker.answer() == "done"


def test_what_v2_has_no_word_for(group: CgroupV2) -> None:
    """The kernel's killer is on all the time, and an OOM of a held group stops nobody in the kernel."""
    with held(group, 60) as hold:
        assert group.oom.killer_enabled
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        assert began.under_oom is False
        assert group.oom.killer_enabled
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


# An expiry.


def test_the_state_while_the_killer_is_let_in(group: CgroupV2) -> None:
    """From the expiry to the kill the group runs, with ``high`` as it was before the hold."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        assert hold.expire()
        expired, _ = take(hold, DelayExpired)
        assert (expired.kills, finish(hog)) == (1, -signal.SIGKILL)
        wait_until(lambda: group.high == far_line(LIMIT, 8 * MiB), "the line is there again", at_most(5))


def test_expiring_where_nothing_comes_of_it(group: CgroupV2) -> None:
    """Who was frozen at the line, and needs no more than the headroom, goes on: an expiry without a kill."""
    with held(group, 60) as hold, Worker(group) as worker:
        assert worker.do("touch 16") == "done"
        worker.order("touch 10")
        take(hold, OomEvent)
        assert hold.expire()
        assert worker.answer() == "done"
        assert worker.do("free") == "done"
        expired, _ = take(hold, DelayExpired)
        assert (expired.kills, group.oom.kills) == (0, 0)
        wait_until(lambda: hold.state == "armed", "it is armed again")
