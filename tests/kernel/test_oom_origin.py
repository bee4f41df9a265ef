"""Whose limit was hit, and in whose group the kernel killed."""

from __future__ import annotations

import pytest

import memcg
from memcg import MiB
from support.events import hogged, kills, kinds, next_kill, origins, settle
from support.processes import Worker, finish, start_hog, wait_blocked


def test_the_limit_of_the_parent(group: memcg.Cgroup) -> None:
    """An OOM by the parent's limit is told in the child, with the parent as its origin."""
    child = group.create("child")
    with child.oom.subscribe() as events:
        hog = start_hog(child, 64)
        told = list(events.until(hog))
        assert finish(hog) == -9
    assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
    assert origins(told) == [group]
    assert kills(told) == 1


@pytest.mark.parametrize("depth", [2, 4])
def test_the_limit_of_an_ancestor_further_up(group: memcg.Cgroup, depth: int) -> None:
    """However far up the limit is, every group below is told, with the group of the limit as the origin."""
    groups = [group]
    for _ in range(depth):
        groups.append(groups[-1].create("child"))
    subscriptions = [each.oom.subscribe() for each in groups]
    hog = start_hog(groups[-1], 64)
    for events in subscriptions:
        with events:
            told = list(events.until(hog))
            assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
            assert origins(told) == [group]
            assert kills(told) == 1
    assert finish(hog) == -9


def test_a_limit_in_the_middle(group: memcg.Cgroup) -> None:
    """An OOM goes to the group of the limit and those below; above it, only the kill is told."""
    middle = group.create("middle", limit=8 * MiB)
    bottom = middle.create("bottom")
    with group.oom.subscribe() as above, middle.oom.subscribe() as own, bottom.oom.subscribe() as below:
        hog = start_hog(bottom, 16)
        assert kinds(told := list(above.until(hog))) == [memcg.KernelKill]
        assert kills(told) == 1
        for events in (own, below):
            told = list(events.until(hog))
            assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
            assert origins(told) == [middle]
            assert kills(told) == 1
        assert finish(hog) == -9
    assert [each.oom.kills for each in (group, middle, bottom)] == [1, 1, 1]


def test_own_limit_and_the_parents_in_turn_with_the_killer_on(group: memcg.Cgroup) -> None:
    """The origin is right however it changes from one OOM to the next."""
    child = group.create("child")
    with Worker(child) as worker, child.oom.subscribe() as events:
        for origin, limit in [(child, 16 * MiB), (group, None)] * 5:
            child.limit = limit
            worker.order("hogs 1 64")
            told = next_kill(events)
            assert set(origins(told)) == {origin}
            assert kills(told) == 1
            assert worker.answer() == "-9"


def test_own_limit_then_the_parents_with_the_killer_off(group_v1: memcg.CgroupV1) -> None:
    """A process that its own group lets go on, and that its parent stops next, is two OOMs of two origins."""
    group = group_v1
    group.oom.disable()
    child = group.create("child", limit=8 * MiB)
    with child.oom.subscribe() as events:
        hog = start_hog(child, 64)
        event = events.wait(30)
        assert isinstance(event, memcg.OomEvent)
        assert event.origin == child
        settle(events)
        assert not group.oom.under_oom
        child.limit = None
        event = events.wait(30)
        assert isinstance(event, memcg.OomEvent)
        assert event.origin == group
        settle(events)
        assert child.oom.under_oom
        assert group.oom.under_oom
        group.limit = None
        assert list(events.until(hog)) == []
        assert finish(hog) == 0


def test_both_limits_between_two_reads(group: memcg.Cgroup) -> None:
    """OOMs that come between two reads are told once for each limit that was hit."""
    child = group.create("child", limit=16 * MiB)
    with Worker(child) as worker, child.oom.subscribe() as events:
        assert worker.do("hogs 1 64") == "-9"
        child.limit = None
        assert worker.do("hogs 1 64") == "-9"
        told = next_kill(events)
        assert origins(told) == [child, group]
        assert kills(told) == 2


def test_a_victim_in_a_sibling(group: memcg.Cgroup) -> None:
    """The parent's limit is everyone's OOM, and the kill is told where the victim was, and above."""
    victims, others = group.create("victims"), group.create("others")
    # A process that dies gives back its first 40 MiB before the kernel would look for another victim.
    group.limit = 128 * MiB
    with Worker(victims) as victim, Worker(others) as other:
        assert victim.do("touch 100") == "done"
        with group.oom.subscribe() as above, victims.oom.subscribe() as here, others.oom.subscribe() as there:
            assert other.do("touch 32") == "done"
            assert victim.process.wait(timeout=30) == -9
            for events, expected in ((above, 1), (here, 1), (there, 0)):
                told = list(events.until(victim.process))
                assert origins(told) == [group]
                assert kills(told) == expected


@pytest.mark.parametrize("depth", [1, 2])
def test_a_kill_in_a_group_that_was_there_when_subscribing(group: memcg.Cgroup, depth: int) -> None:
    """A kill by a lower group's own limit is told above, at once and once, without an OomEvent."""
    below = group
    for _ in range(depth):
        below = below.create("below")
    below.limit = 8 * MiB
    with group.oom.subscribe() as events, Worker(below) as worker:
        for _ in range(3):
            worker.order("hogs 1 16")
            event = events.wait(30)
            assert isinstance(event, memcg.KernelKill)
            assert event.count == 1
            assert event.cgroup == group
            assert worker.answer() == "-9"
            assert events.wait(0) is None


@pytest.mark.parametrize("depth", [1, 2])
def test_a_kill_in_a_group_created_later(group: memcg.Cgroup, depth: int) -> None:
    """A kill in a group that was created after subscribing is told with what comes next, and once."""
    with group.oom.subscribe() as events:
        below = group
        for _ in range(depth):
            below = below.create("below")
        below.limit = 8 * MiB
        hog = start_hog(below, 16)
        told = list(events.until(hog))
        assert finish(hog) == -9
        assert kinds(told) == [memcg.KernelKill]
        assert kills(told) == 1
        # From now on, that group is known.
        with Worker(below) as worker:
            assert worker.do("hogs 1 16") == "-9"
            event = events.wait(30)
            assert isinstance(event, memcg.KernelKill)
            assert event.count == 1


def test_kills_all_over_a_tree_are_each_told_once(group: memcg.Cgroup) -> None:
    """By own limits and the top's, in groups old and new: what is told adds up to what the kernel counted."""
    leaf, old = group.create("leaf"), group.create("old", limit=8 * MiB)
    old_leaf, older = old.create("leaf"), old.create("below").create("below")
    with group.oom.subscribe() as events:
        new = group.create("new", limit=8 * MiB)
        new_leaf, newer = new.create("leaf"), new.create("below").create("below")
        told = []
        for each, mib in [(older, 16), (newer, 16), (leaf, 64), (old_leaf, 16), (new_leaf, 16), (newer, 16)]:
            told += hogged(each, mib, events)
        assert kills(told) == group.oom.kills == 6
        assert origins(told) == [group]
        told = hogged(leaf, 64, events)
        assert origins(told) == [group]
        assert kills(told) == 1


def test_kills_in_a_group_that_is_removed_later_are_not_told_again(group: memcg.Cgroup) -> None:
    """A group below goes, on v1 with its counter, and the sums of the others stay right."""
    first, second = (group.create(name, limit=8 * MiB) for name in ("first", "second"))
    with group.oom.subscribe() as events:
        for each in (first, second):
            assert kills(hogged(each, 16, events)) == 1
        first.remove()
        assert kills(hogged(second, 16, events)) == 1
        assert group.oom.kills == (2 if isinstance(group, memcg.CgroupV1) else 3)


def test_subscribing_while_the_parent_is_out_of_memory(group_v1: memcg.CgroupV1) -> None:
    """Who comes late to an OOM of the parent's limit is told the right origin too."""
    group = group_v1
    group.oom.disable()
    child = group.create("child")
    hog = start_hog(child, 64)
    wait_blocked(hog)
    with child.oom.subscribe() as events:
        event = events.wait(30)
        assert isinstance(event, memcg.OomEvent)
        assert event.under_oom
        assert event.origin == group
    group.limit = None
    assert finish(hog) == 0


def test_the_kernel_of_v1_counts_in_the_group_of_the_victim_alone(group_v1: memcg.CgroupV1) -> None:
    """What is told of groups above, and what their ``kills`` are, is the sum that the kernel does not have."""
    bottom = group_v1.create("middle").create("bottom", limit=8 * MiB)
    with group_v1.oom.subscribe() as events:
        assert kills(hogged(bottom, 16, events)) == 1
    assert group_v1.oom_control.oom_kill == 0
    assert bottom.oom_control.oom_kill == group_v1.oom.kills == 1
