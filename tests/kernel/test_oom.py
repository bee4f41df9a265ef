"""Real OOMs: what a subscription tells of them."""

from __future__ import annotations

import time
from functools import partial

import pytest

import memcg
from support.events import (
    assert_told_as_counted,
    counted_ooms,
    kills,
    kinds,
    next_kill,
    origins,
    take_all,
)
from support.processes import Worker, finish, finished, start_hog


def test_an_oom_with_the_killer_on_is_told_once_and_its_kill_once(group: memcg.Cgroup) -> None:
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


def test_the_root_is_refused() -> None:
    """The root never tells of an OOM, so subscribing says so."""
    root = memcg.root()
    for subscribe in (root.oom.subscribe, partial(root.subscribe, memcg.Oom())):
        with pytest.raises(memcg.NotSupportedError, match=r"root of the hierarchy.*subscribe to a group below"):
            subscribe()


def test_eight_hogs_at_once_are_eight_kills(group: memcg.Cgroup) -> None:
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


def test_kills_that_nobody_took_one_by_one_add_up(group: memcg.Cgroup) -> None:
    """OOMs that come between two reads are told as one, their kills in one sum."""
    with Worker(group) as worker, group.oom.subscribe() as events:
        for _ in range(10):
            assert worker.do("hogs 1 64") == "-9"
        told = list(events.until(finished(worker)))
        assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
        assert origins(told) == [group]
        assert kills(told) == group.oom.kills == 10


def test_two_hundred_ooms_in_a_row_with_the_killer_on(group: memcg.Cgroup) -> None:
    """Each is told at once and exactly once, and so is its kill."""
    with Worker(group) as worker, counted_ooms(group) as count, group.oom.subscribe() as events:
        for number in range(1, 201):
            worker.order("hogs 1 64")
            told = next_kill(events)
            assert worker.answer() == "-9"
            told += take_all(events)
            assert isinstance(told[0], memcg.OomEvent)
            assert_told_as_counted(told, count)
            assert kills(told) == 1, (number, told)
            assert group.oom.kills == number
        assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 200


def test_two_subscribers_hear_the_same(group: memcg.Cgroup) -> None:
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


def test_what_happened_before_subscribing_is_not_told(group: memcg.Cgroup) -> None:
    """A subscription begins when it is made: former kills are not in it."""
    with Worker(group) as worker:
        assert worker.do("hogs 2 64") == "-9 -9"
        with group.oom.subscribe() as events:
            assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 2
