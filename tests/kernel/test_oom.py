"""Real OOMs: what a subscription tells of them."""

from __future__ import annotations

import signal
import time
from contextlib import closing

import pytest

import memcg
from memcg import MiB
from memcg.notify.sources import OomSourceV1
from support.events import (
    assert_told_as_signalled,
    bare_eventfd,
    kills,
    kinds,
    next_kill,
    origins,
    settle,
    take_all,
)
from support.processes import Worker, finish, start_hog, wait_blocked


def test_an_oom_with_the_killer_on_is_told_once_and_its_kill_once(group: memcg.CgroupV1) -> None:
    """One hog, one OOM, one kill: one OomEvent with this group as its origin, then one KernelKill of one."""
    before = time.monotonic()
    with group.oom.subscribe() as events:
        hog = start_hog(group, 64)
        told = list(events.until(hog))
        assert finish(hog) == -9
    match told:
        case [memcg.OomEvent(origin=origin), memcg.KernelKill(count=1)]:
            assert origin == group
        case _:
            raise AssertionError(told)
    assert {event.cgroup for event in told} == {group}
    assert before <= told[0].time <= told[1].time <= time.monotonic()


def test_a_handler_that_raises_the_limit_saves_the_process(group: memcg.CgroupV1) -> None:
    """With the killer off the hog blocks; raising the limit in the handler lets it finish."""
    group.oom.disable()
    with group.oom.subscribe() as events:
        hog = start_hog(group, 64)
        for event in events.until(hog):
            assert isinstance(event, memcg.OomEvent)
            assert event.under_oom
            wait_blocked(hog)
            group.limit = 128 * MiB
        assert finish(hog) == 0
    assert group.oom.kills == 0


def test_switching_the_killer(group: memcg.CgroupV1) -> None:
    """disable() and enable() are what the kernel then shows, and may be repeated."""
    assert group.oom.killer_enabled
    for _ in range(2):
        group.oom.disable()
        assert not group.oom.killer_enabled
        assert group.oom_control.oom_kill_disable
    for _ in range(2):
        group.oom.enable()
        assert group.oom.killer_enabled


def test_a_new_child_inherits_the_switch_and_does_not_follow_it_later(group: memcg.CgroupV1) -> None:
    """The switch is copied at creation only; temporary() switches the killer on whatever the parent has."""
    group.oom.disable()
    child = group.create("child")
    assert not child.oom.killer_enabled
    group.oom.enable()
    assert not child.oom.killer_enabled
    with memcg.temporary(parent=child) as grandchild:
        assert grandchild.oom.killer_enabled


def test_what_is_known_of_a_group_before_and_during_and_after_an_oom(group: memcg.CgroupV1) -> None:
    """under_oom is True exactly while the group is stuck; kills counts what the kernel killed."""
    group.oom.disable()
    with group.oom.subscribe() as events:
        assert not group.oom.under_oom
        hog = start_hog(group, 64)
        event = events.wait(30)
        assert isinstance(event, memcg.OomEvent)
        wait_blocked(hog)
        assert group.oom.under_oom
        assert group.oom.kills == 0
        group.oom.enable()
        assert finish(hog) == -9
        assert not group.oom.under_oom
        assert group.oom.kills == 1


def test_the_root_is_refused() -> None:
    """The root never tells of an OOM, so subscribing says so, and its killer cannot be switched off."""
    root = memcg.root()
    with pytest.raises(memcg.NotSupportedError, match=r"root of the hierarchy.*subscribe to a group below"):
        root.oom.subscribe()
    with pytest.raises(memcg.KernelError, match="cannot be switched off"):
        root.oom.disable()
    assert root.oom.killer_enabled


def test_eight_hogs_at_once_are_eight_kills(group: memcg.CgroupV1) -> None:
    """Many processes at the limit make the kernel signal far more often than it kills: the kills are exact."""
    with Worker(group) as worker, group.oom.subscribe() as events:
        worker.order("hogs 8 64")
        told: list[memcg.Event] = []
        while kills(told) < 8:
            told += next_kill(events)
        assert worker.answer().split() == ["-9"] * 8
        assert isinstance(told[0], memcg.OomEvent)
        assert kills(told) == group.oom.kills == 8
        # Nothing else is to come; an OOM that was signalled after the last kill may still be told.
        assert kills(events.until(finished(worker))) == 0


def test_an_oom_after_the_wait_is_told_before_its_kill(group: memcg.CgroupV1) -> None:
    """Who was woken by something else, and finds the kill of an OOM since then, tells the OOM first, and whose."""
    child = group.create("child")
    with (
        closing(OomSourceV1(group)) as source,
        closing(OomSourceV1(child)) as below,
        Worker(child) as worker,
    ):
        source.collect(None)
        below.collect(None)
        assert worker.do("hogs 1 64") == "-9"
        for each in (source, below):
            told = each.collect([])
            assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
            assert origins(told) == [group]
            assert kills(told) == 1
            assert kinds(each.collect(None)) in (
                [],
                [memcg.OomEvent],
            )  # whoever tried once more was signalled again


def test_kills_that_nobody_took_one_by_one_add_up(group: memcg.CgroupV1) -> None:
    """OOMs that come between two reads are told as one, their kills in one sum."""
    with Worker(group) as worker, group.oom.subscribe() as events:
        for _ in range(10):
            assert worker.do("hogs 1 64") == "-9"
        told = list(events.until(finished(worker)))
        assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
        assert origins(told) == [group]
        assert kills(told) == group.oom.kills == 10


def finished(worker: Worker) -> int:
    """The PID of a worker that has ended."""
    worker.process.kill()
    worker.process.wait()
    return worker.pid


def test_two_hundred_ooms_in_a_row_with_the_killer_on(group: memcg.CgroupV1) -> None:
    """Each is told at once and exactly once, and so is its kill."""
    with Worker(group) as worker, bare_eventfd(group) as bare, group.oom.subscribe() as events:
        for number in range(1, 201):
            worker.order("hogs 1 64")
            told = next_kill(events)
            assert worker.answer() == "-9"
            told += take_all(events)
            assert isinstance(told[0], memcg.OomEvent)
            assert_told_as_signalled(told, bare)
            assert kills(told) == 1, (number, told)
            assert group.oom_control.oom_kill == number
        assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 200


def test_two_hundred_ooms_in_a_row_with_the_killer_off(group: memcg.CgroupV1) -> None:
    """One process gets stuck 200 times, and each time it is told, until there is no limit."""
    group.oom.disable()
    with bare_eventfd(group) as bare, group.oom.subscribe() as events:
        hog = start_hog(group, 200)
        for number in range(1, 201):
            told = [next(events)]
            wait_blocked(hog)
            told += take_all(events)
            assert set(kinds(told)) == {memcg.OomEvent}, (number, told)
            assert set(origins(told)) == {group}
            assert_told_as_signalled(told, bare)
            assert group.limit is not None
            group.limit = group.limit + MiB // 2 if number < 200 else None
        assert kills(events.until(hog)) == 0
        assert finish(hog) == 0
    assert group.oom.kills == 0


def test_two_hundred_stuck_processes_ended_one_after_another(group: memcg.CgroupV1) -> None:
    """With the killer off, a handler that kills is told of each OOM, and never of a kill by the kernel."""
    group.oom.disable()
    with Worker(group) as worker, bare_eventfd(group) as bare, group.oom.subscribe() as events:
        for number in range(1, 201):
            worker.order("hogs 1 64")
            told = [next(events)]
            (victim,) = set(group.processes()) - {worker.pid}
            with memcg.PidFD(victim) as process:
                process.send_signal(signal.SIGKILL)
            assert worker.answer() == "-9"
            told += take_all(events)
            assert set(kinds(told)) == {memcg.OomEvent}, (number, told)
            assert_told_as_signalled(told, bare)
        assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 0


def test_two_subscribers_hear_the_same(group: memcg.CgroupV1) -> None:
    """Each subscription gets every event, whenever it is read; one made later gets what comes after."""
    with group.oom.subscribe() as first, Worker(group) as worker:
        assert worker.do("hogs 1 64") == "-9"
        with group.oom.subscribe() as second:
            worker.order("hogs 1 64")
            assert isinstance(second.wait(30), memcg.OomEvent)
            assert kills(next_kill(second)) == 1
            assert worker.answer() == "-9"
            assert worker.do("hogs 1 64") == "-9"
            done = finished(worker)
            assert kills(first.until(done)) == 3
            assert kills(second.until(done)) == 1


def test_subscribing_to_a_stuck_group_is_told_at_once(group: memcg.CgroupV1) -> None:
    """Who comes late still hears that the group is out of memory, once for each subscription."""
    group.oom.disable()
    with group.oom.subscribe() as events:
        hog = start_hog(group, 64)
        assert isinstance(next(events), memcg.OomEvent)
        settle(events)
    for _ in range(3):
        with group.oom.subscribe() as events:
            event = events.wait(0)
            assert isinstance(event, memcg.OomEvent)
            assert event.under_oom
            assert event.origin == group
            assert events.wait(0) is None
    group.limit = None
    assert finish(hog) == 0


def test_what_happened_before_subscribing_is_not_told(group: memcg.CgroupV1) -> None:
    """A subscription begins when it is made: former kills are not in it."""
    with Worker(group) as worker:
        assert worker.do("hogs 2 64") == "-9 -9"
        with group.oom.subscribe() as events:
            assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 2
