"""The kernel's OOM killer switched off and on, which only cgroup v1 can."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest

import memcg
from memcg import MiB
from memcg.notify.v1 import OomSourceV1
from support.events import (
    assert_told_as_counted,
    counted_ooms,
    kills,
    kinds,
    origins,
    settle,
    take_all,
)
from support.processes import Worker, finish, finished, start_hog, wait_blocked


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """All of this is of cgroup v1."""
    return group_v1


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


def test_two_hundred_ooms_in_a_row_with_the_killer_off(group: memcg.CgroupV1) -> None:
    """One process gets stuck 200 times, and each time it is told, until there is no limit."""
    group.oom.disable()
    with counted_ooms(group) as count, group.oom.subscribe() as events:
        hog = start_hog(group, 200)
        for number in range(1, 201):
            told = [next(events)]
            wait_blocked(hog)
            told += take_all(events)
            assert set(kinds(told)) == {memcg.OomEvent}, (number, told)
            assert set(origins(told)) == {group}
            assert_told_as_counted(told, count)
            assert group.limit is not None
            group.limit = group.limit + MiB // 2 if number < 200 else None
        assert kills(events.until(hog)) == 0
        assert finish(hog) == 0
    assert group.oom.kills == 0


def test_two_hundred_stuck_processes_ended_one_after_another(group: memcg.CgroupV1) -> None:
    """With the killer off, a handler that kills is told of each OOM, and never of a kill by the kernel."""
    group.oom.disable()
    with Worker(group) as worker, counted_ooms(group) as count, group.oom.subscribe() as events:
        for number in range(1, 201):
            worker.order("hogs 1 64")
            told = [next(events)]
            (victim,) = set(group.processes()) - {worker.pid}
            with memcg.PidFD(victim) as process:
                process.send_signal(signal.SIGKILL)
            assert worker.answer() == "-9"
            told += take_all(events)
            assert set(kinds(told)) == {memcg.OomEvent}, (number, told)
            assert_told_as_counted(told, count)
        assert list(events.until(finished(worker))) == []
    assert group.oom.kills == 0


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


def test_the_killer_of_the_root_cannot_be_switched_off(group: memcg.CgroupV1) -> None:
    """The root has no limit, and its killer stays on."""
    root = memcg.root()
    with pytest.raises(memcg.KernelError, match="cannot be switched off"):
        root.oom.disable()
    assert root.oom.killer_enabled


def test_on_v2_there_is_no_switch(group_v2: memcg.CgroupV2) -> None:
    """disable() says what to use instead, enable() has nothing to do, and nobody is ever stopped."""
    with pytest.raises(memcg.NotSupportedError, match=r"use hold\(\)"):
        group_v2.oom.disable()
    group_v2.oom.enable()
    assert group_v2.oom.killer_enabled
    with pytest.raises(memcg.NotSupportedError, match=r"subscribe\(\) tells of each OOM"):
        _ = group_v2.oom.under_oom
