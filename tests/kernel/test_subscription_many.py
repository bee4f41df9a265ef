"""Subscriptions made and dropped a thousand times leave nothing."""

from __future__ import annotations

import os
import selectors

import memcg
from support.events import kills, kinds, next_kill
from support.processes import Worker

CYCLES = 1000


def what_there_is(group: memcg.Cgroup) -> set[str]:
    """What a subscription could leave: files and threads of this process, groups, and processes in the group."""
    return {
        *(f"file {name}" for name in os.listdir("/proc/self/fd")),
        *(f"thread {name}" for name in os.listdir("/proc/self/task")),
        *(f"group {child.name}" for child in group.children()),
        *(f"process {pid}" for pid in group.processes()),
    }


def test_create_subscribe_remove_a_thousand_times(group: memcg.Cgroup) -> None:
    """No file, no group and no thread is left, in whichever order a group goes and its subscription is closed."""
    group.oom.subscribe().close()  # opens what is opened once and for all
    before = what_there_is(group)
    for number in range(CYCLES):
        child = group.create("child")
        with child.oom.subscribe() as events:
            assert events.wait(0) is None
            if number % 2:
                child.remove()
        if not number % 2:
            child.remove()
    assert not what_there_is(group) - before


def test_a_thousand_removals_are_each_told(group: memcg.Cgroup) -> None:
    """Of many groups that go together, each is told as removed, once, and nothing is left of any."""
    group.oom.subscribe().close()
    before = what_there_is(group)
    for _ in range(CYCLES // 50):
        children = [group.create(f"child{number}") for number in range(50)]
        subscriptions = [child.oom.subscribe() for child in children]
        for child in children:
            child.remove()
        told: list[memcg.Event] = []
        with selectors.DefaultSelector() as selector:
            for events in subscriptions:
                selector.register(events, selectors.EVENT_READ, data=events)
            while selector.get_map():
                for key, _ in selector.select(30):
                    readable: memcg.Subscription = key.data
                    event = readable.wait(0)
                    if event is not None:
                        told.append(event)
                        selector.unregister(readable)
                        readable.close()
        assert kinds(told) == [memcg.Removed] * 50
        assert {event.cgroup for event in told} == set(children)
    assert not what_there_is(group) - before


def test_a_thousand_subscriptions_come_and_go_while_one_listens(group: memcg.Cgroup) -> None:
    """Others that subscribe to the same group and leave cost the one that stays no event."""
    with Worker(group) as worker, group.oom.subscribe() as events:
        group.oom.subscribe().close()
        before = what_there_is(group)
        for number in range(CYCLES):
            with group.oom.subscribe() as other:
                if number % 100 == 0:
                    assert worker.do("hogs 1 64") == "-9"
                    assert isinstance(other.wait(30), memcg.OomEvent)
                    assert isinstance(events.wait(30), memcg.OomEvent)
                    assert kills(next_kill(events)) == 1
        assert events.wait(0) is None
        assert not what_there_is(group) - before
    assert group.oom.kills == CYCLES // 100
