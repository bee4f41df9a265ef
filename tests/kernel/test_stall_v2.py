"""Stalls of a group, which cgroup v2 has."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import Empty, Oom, Stall
from support.events import kinds
from support.forked import as_nobody, give_away
from support.pace import at_most
from support.processes import Worker, wait_until
from support.strain import strained

if TYPE_CHECKING:
    from typing import Literal

SOME = Stall("some", stall=0.1, window=2)


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


@pytest.mark.parametrize("kind", ["some", "full"])
def test_a_stall_is_told_with_its_trigger(group: memcg.CgroupV2, kind: Literal["some", "full"]) -> None:
    """It arrives while it lasts, again and again, once in a window at most."""
    trigger = Stall(kind, stall=0.1, window=2)
    with group.subscribe(trigger) as events, strained(group):
        first, second = events.wait(at_most(30)), events.wait(at_most(30))
    assert isinstance(first, memcg.Stalled)
    assert isinstance(second, memcg.Stalled)
    assert first.trigger == second.trigger == trigger
    assert first.cgroup == group
    assert first.time + 1 < second.time


def test_a_stall_below_is_told_and_one_beside_is_not(group: memcg.CgroupV2) -> None:
    """The pressure of a group is that of all groups below it."""
    below = group.create("above").create("below")
    beside = group.create("beside")
    with (group / "above").subscribe(SOME) as above, beside.subscribe(SOME) as other, strained(below):
        assert isinstance(above.wait(at_most(30)), memcg.Stalled)
        assert other.wait(0) is None


def test_what_stalled_before_is_no_stall(group: memcg.CgroupV2) -> None:
    """Up to Linux 6.1 the kernel's first event can be of the past, at the first little stall: it is not told."""
    much = Stall("some", stall=1.5, window=2)
    with strained(group):
        wait_until(lambda: group.pressure.some.total > 2, "it has stalled for long", at_most(30))
    past = group.pressure.some.total
    with group.subscribe(much) as events:
        with strained(group):
            wait_until(lambda: group.pressure.some.total > past, "it stalls again", at_most(30))
        group.high = None
        assert group.pressure.some.total - past < much.stall, "the test was too slow to prove anything"
        assert events.wait(3) is None
        with strained(group):
            assert isinstance(events.wait(at_most(30)), memcg.Stalled)


@pytest.mark.anyio
async def test_a_stall_on_an_event_loop(group: memcg.CgroupV2) -> None:
    """asyncio and trio get it, and what else is told."""
    with anyio.fail_after(at_most(30)), group.subscribe(SOME, Empty()) as events:
        with strained(group):
            assert kinds([await events.next()]) == [memcg.Stalled]
        while kinds([await events.next()]) != [memcg.Emptied]:
            pass


@pytest.mark.parametrize("taken", [False, True], ids=["before it fired", "after it fired"])
def test_a_removal_is_no_stall(group: memcg.CgroupV2, taken: bool) -> None:
    """A removal wakes whoever waits for the pressure, and is told as what it is."""
    child = group.create("child", limit="32M")
    with child.subscribe(SOME) as events:
        if taken:
            with strained(child):
                assert isinstance(events.wait(at_most(30)), memcg.Stalled)
        child.remove()
        told = list(events)
    assert kinds(told)[-1] == memcg.Removed
    assert set(kinds(told)[:-1]) <= {memcg.Stalled} if taken else not told[:-1]


def test_pressure_that_is_switched_off(group: memcg.CgroupV2) -> None:
    """0 in cgroup.pressure ends the trigger, with the reason; other triggers go on, and so does the removal."""
    child = group.create("child", limit="32M")
    with child.subscribe(SOME, Oom()) as events:
        child.cgroup_pressure = False
        failed = events.wait(30)
        assert isinstance(failed, memcg.WatchFailed)
        assert failed.trigger == SOME
        assert failed.cgroup == child
        with pytest.raises(memcg.NotSupportedError, match=r"write 1 to its cgroup\.pressure"):
            raise failed.error
        assert events.wait(0.1) is None
        with Worker(child) as worker:
            assert worker.do("hogs 1 64") == "-9"
            assert isinstance(events.wait(30), memcg.OomEvent)
            assert isinstance(events.wait(30), memcg.KernelKill)
        child.remove()
        assert isinstance(events.wait(30), memcg.Removed)


def test_pressure_that_was_switched_off_and_on(group: memcg.CgroupV2) -> None:
    """The kernel does not bring a trigger back: that is told, and a new subscription works."""
    with group.subscribe(SOME) as events:
        group.cgroup_pressure = False
        group.cgroup_pressure = True
        failed = events.wait(30)
        assert isinstance(failed, memcg.WatchFailed)
        assert "subscribe anew" in str(failed.error)
        with group.subscribe(SOME) as anew, strained(group):
            assert isinstance(anew.wait(at_most(30)), memcg.Stalled)


def test_subscribing_where_pressure_is_switched_off(group: memcg.CgroupV2) -> None:
    """The error says what to write where, and nothing is left open."""
    group.cgroup_pressure = False
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(memcg.NotSupportedError, match=r"write 1 to its cgroup\.pressure"):
        group.subscribe(Oom(), SOME)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 2  # what stays open once it was used


def test_the_root_can_stall(group: memcg.CgroupV2) -> None:
    """Stalls are all that the root tells."""
    with memcg.root().subscribe(SOME) as events, strained(group):
        stalled = events.wait(at_most(30))
    assert isinstance(stalled, memcg.Stalled)
    assert stalled.cgroup == memcg.root()
    for trigger in (Empty(), memcg.HighLimit(), Oom()):
        with pytest.raises(memcg.NotSupportedError, match="root of the hierarchy"):
            memcg.root().subscribe(SOME, trigger)


def test_without_privileges(group: memcg.CgroupV2) -> None:
    """The owner of a group may have windows of whole 2 seconds; whoever is not its owner may not have any."""
    mine, theirs = group.create("mine", limit="32M"), group.create("theirs")
    give_away(mine.path)

    def refused(cgroup: memcg.CgroupV2, window: float) -> str:
        try:
            cgroup.subscribe(Stall("some", stall=0.1, window=window)).close()
        except (memcg.InvalidValueError, memcg.AccessDeniedError) as error:
            return str(error)
        return ""

    assert as_nobody(lambda: refused(mine, 2)) == ""
    assert "window=2 would do" in as_nobody(lambda: refused(mine, 1))
    assert "memory.pressure" in as_nobody(lambda: refused(theirs, 2))

    def listen() -> float:
        with mine.subscribe(Stall("some", stall=0.1, window=2)) as events:
            started = time.monotonic()
            event = events.wait(at_most(30))
            assert isinstance(event, memcg.Stalled)
            return event.time - started

    with strained(mine):
        assert as_nobody(listen) >= 0


def test_triggers_that_come_and_go_leave_nothing(group: memcg.CgroupV2) -> None:
    """Triggers that come and go, fired or not, leave no file."""
    group.subscribe(SOME).close()
    before = len(os.listdir("/proc/self/fd"))
    with strained(group):
        for _ in range(20):
            with group.subscribe(SOME, Stall("full", stall=0.1, window=2)) as events:
                events.wait(0.01)
    assert len(os.listdir("/proc/self/fd")) == before
