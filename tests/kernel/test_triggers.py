"""What cg.subscribe() takes besides Oom(): several triggers at once, and those that only cgroup v2 has."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import Empty, HighLimit, MiB, Oom, Stall
from support.events import kills, kinds, origins, take_all
from support.processes import Worker, finish, start_hog, start_waiting, wait_until

if TYPE_CHECKING:
    from memcg import Trigger


# Both versions.


def test_oom_is_what_cg_oom_subscribes_to(group: memcg.Cgroup) -> None:
    """subscribe(Oom()) and oom.subscribe() tell the same."""
    with group.subscribe(Oom()) as one, group.oom.subscribe() as other, group.subscribe(Oom(), Oom()) as twice:
        hog = start_hog(group, 64)
        for events in (one, other, twice):
            told = list(events.until(hog))
            assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
            assert origins(told) == [group]
        assert finish(hog) == -9


def test_what_is_refused_leaves_nothing(group: memcg.Cgroup) -> None:
    """Nothing to wait for, and what is no trigger, are refused before anything is opened."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(memcg.InvalidValueError, match="say what to wait for"):
        group.subscribe()
    with pytest.raises(memcg.InvalidTypeError, match="not 'oom'"):
        group.subscribe(Oom(), "oom")  # type: ignore[arg-type]
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("trigger", "instead"),
    [
        (Empty(), r"until\(process\)"),
        (HighLimit(), r"no memory\.high; Oom\(\)"),
        (Stall("some"), r"memcg\.system\.subscribe\(\)"),
    ],
    ids=["Empty", "HighLimit", "Stall"],
)
def test_what_v1_does_not_tell(group_v1: memcg.CgroupV1, trigger: Trigger, instead: str) -> None:
    """On v1 the error says what to use instead, and nothing is armed."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(memcg.NotSupportedError, match=instead):
        group_v1.subscribe(Oom(), trigger)
    assert set(os.listdir("/proc/self/fd")) == before


# Empty, on v2.


def test_a_group_that_empties_is_told_once(group_v2: memcg.CgroupV2) -> None:
    """Emptied comes when the last process is gone, and not before."""
    with group_v2.subscribe(Empty()) as events, ThreadPoolExecutor(1) as pool:
        first, second = (start_hog(group_v2, 1, stay=True) for _ in range(2))
        waiting = start_waiting(pool, events.wait)
        assert finish(first) == 0
        assert group_v2.populated
        assert not waiting.done()
        assert finish(second) == 0
        event = waiting.result(timeout=30)
        assert isinstance(event, memcg.Emptied)
        assert event.cgroup == group_v2
        assert not group_v2.populated
        assert events.wait(0.1) is None


def test_a_group_that_is_empty_is_not_emptied(group_v2: memcg.CgroupV2) -> None:
    """Where nobody was in the group since subscribing, nothing is told, though it be frozen and thawed."""
    with group_v2.subscribe(Empty()) as events:
        assert events.wait(0.1) is None
        group_v2.cgroup_freeze = True
        assert events.wait(0.1) is None
        assert group_v2.cgroup_events.frozen
        group_v2.cgroup_freeze = False
        assert events.wait(0.1) is None


def test_a_group_that_was_populated_when_subscribing(group_v2: memcg.CgroupV2) -> None:
    """Who was there already counts too."""
    hog = start_hog(group_v2, 1, stay=True)
    with group_v2.subscribe(Empty()) as events:
        assert events.wait(0) is None
        assert finish(hog) == 0
        assert isinstance(events.wait(30), memcg.Emptied)


def test_who_comes_and_goes_unseen_is_told(group_v2: memcg.CgroupV2) -> None:
    """Where nobody looked in between, the group is as it was: it was emptied all the same."""
    with group_v2.subscribe(Empty()) as events:
        for _ in range(5):
            assert finish(start_hog(group_v2, 1)) == 0
            wait_until(lambda: not group_v2.populated, "it is empty")
            assert isinstance(events.wait(30), memcg.Emptied)
            while events.wait(0.1) is not None:  # each of two signals of the kernel's can be told
                pass


def test_groups_below_count_too(group_v2: memcg.CgroupV2) -> None:
    """A group is emptied when all below it are."""
    one, other = group_v2.create("one"), group_v2.create("other")
    with group_v2.subscribe(Empty()) as above, one.subscribe(Empty()) as below:
        first, second = start_hog(one, 1, stay=True), start_hog(other, 1, stay=True)
        assert finish(first) == 0
        assert isinstance(below.wait(30), memcg.Emptied)
        assert above.wait(0.1) is None
        assert finish(second) == 0
        assert isinstance(above.wait(30), memcg.Emptied)
        assert below.wait(0) is None


def test_emptied_then_removed(group_v2: memcg.CgroupV2) -> None:
    """Of a group that empties and goes before anybody looks, both are told, in this order."""
    child = group_v2.create("child")
    hog = start_hog(child, 1, stay=True)
    with child.subscribe(Empty()) as events:
        assert finish(hog) == 0
        child.remove()
        assert kinds(events) == [memcg.Emptied, memcg.Removed]


@pytest.mark.anyio
async def test_emptied_on_an_event_loop(group_v2: memcg.CgroupV2) -> None:
    """asyncio and trio are told as well."""
    with group_v2.subscribe(Empty()) as events, anyio.fail_after(30):
        hog = start_hog(group_v2, 1, stay=True)
        with anyio.move_on_after(0.1) as scope:
            await events.next()
        assert scope.cancelled_caught
        assert finish(hog) == 0
        assert isinstance(await events.next(), memcg.Emptied)


# HighLimit, on v2.


def test_usage_above_high_is_told(group_v2: memcg.CgroupV2) -> None:
    """HighExceeded comes when a process is held back, with how often, which adds up to what the kernel counts."""
    group_v2.high = 16 * MiB
    with group_v2.subscribe(HighLimit()) as events, Worker(group_v2) as worker:
        assert events.wait(0) is None
        worker.order("touch 20")
        told = [events.wait(30)]
        while (event := events.wait(0.1)) is not None:
            told.append(event)
        count = 0
        for event in told:
            assert isinstance(event, memcg.HighExceeded)
            assert event.cgroup == group_v2
            assert event.count > 0
            count += event.count
        assert count <= group_v2.events_local.high


def test_high_of_other_groups_is_not_told(group_v2: memcg.CgroupV2) -> None:
    """What a child does at its own limit, or a parent at its, is none of the group's; a child's usage is."""
    middle = group_v2.create("middle")
    bottom = middle.create("bottom")
    for limited, heard in ((bottom, False), (group_v2, False), (middle, True)):
        limited.high = 16 * MiB
        with middle.subscribe(HighLimit()) as events, limited.subscribe(HighLimit()) as own:
            with Worker(bottom) as worker:
                worker.order("touch 20")
                assert isinstance(own.wait(30), memcg.HighExceeded)
            assert bool(take_all(events)) == heard
        limited.high = None


# Several at once, on v2.


def test_each_event_says_which_trigger_it_is_of(group_v2: memcg.CgroupV2) -> None:
    """One subscription tells of all that was asked for, in the order in which it happened."""
    group_v2.high = 16 * MiB
    triggers = (Stall("some", stall=0.1, window=2), Empty(), HighLimit(), Oom())
    with group_v2.subscribe(*triggers) as events:
        hog = start_hog(group_v2, 64)
        seen: set[object] = set()
        while not {memcg.HighExceeded, memcg.Stalled} <= seen:
            seen.add(type(events.wait(30)))
        group_v2.high = None  # now it runs into its limit
        told: list[memcg.Event] = []
        while memcg.Emptied not in kinds(told):
            event = events.wait(60)
            assert event is not None
            told.append(event)
        assert finish(hog) == -9
    rest = [event for event in told if not isinstance(event, (memcg.Stalled, memcg.HighExceeded))]
    assert kinds(rest) == [memcg.OomEvent, memcg.KernelKill, memcg.Emptied]
    assert kills(rest) == 1
    assert origins(rest) == [group_v2]


def test_without_the_memory_controller(group_v2: memcg.CgroupV2) -> None:
    """Where the controller is taken away, what needs it fails, with the reason; the rest goes on."""
    child = group_v2.create("child")
    with child.subscribe(Oom(), HighLimit(), Empty()) as events:
        group_v2.cgroup_subtree_control = "-memory"
        failed = [events.wait(0), events.wait(30), events.wait(30)]
        triggers = set()
        for event in filter(None, failed):
            assert isinstance(event, memcg.WatchFailed)
            with pytest.raises(memcg.ControlFileMissingError, match="does not enable the memory controller"):
                raise event.error
            triggers.add(event.trigger)
        assert triggers == {Oom(), HighLimit()}
        assert finish(start_hog(child, 1)) == 0
        assert isinstance(events.wait(30), memcg.Emptied)
        child.remove()
        assert kinds(events)[-1] == memcg.Removed


def test_subscribing_without_the_memory_controller(group_v2: memcg.CgroupV2) -> None:
    """What needs the controller is refused, with the reason; the rest is not."""
    child = group_v2.create("child")
    group_v2.cgroup_subtree_control = "-memory"
    for trigger in (Oom(), HighLimit()):
        with pytest.raises(memcg.ControlFileMissingError, match="does not enable the memory controller"):
            child.subscribe(trigger)
    with child.subscribe(Empty()) as events:
        child.remove()
        assert kinds(events) == [memcg.Removed]
