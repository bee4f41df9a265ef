"""A group that is removed before, during and after an OOM."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.events import hogged, kills, kinds, origins
from support.processes import Worker, finish, start_hog, start_waiting, wait_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcg import Event


def test_a_removal_is_told_and_is_no_oom(group: memcg.Cgroup) -> None:
    """The kernel signals a removal as it signals an OOM; what is told is Removed alone, with all counted."""
    for _ in range(10):
        child = group.create("child")
        with child.oom.subscribe() as events:
            child.remove()
            told = list(events)
        assert kinds(told) == [memcg.Removed]
        assert isinstance(told[0], memcg.Removed)
        assert told[0].counts_final
        assert told[0].cgroup == child


def test_a_removal_wakes_who_waits(group: memcg.Cgroup) -> None:
    """A thread that blocks in wait() when the group goes is given Removed."""
    child = group.create("child")
    with ThreadPoolExecutor(1) as pool, child.oom.subscribe() as events:
        waiting = start_waiting(pool, events.wait)
        child.remove()
        assert isinstance(waiting.result(timeout=30), memcg.Removed)


def test_removed_is_the_last_event(group: memcg.Cgroup) -> None:
    """After Removed, wait() raises, saying why; iteration ends, and ends again; closing is still due."""
    child, other = group.create("child"), group.create("other")
    events = child.oom.subscribe()
    child.remove()
    assert isinstance(events.wait(30), memcg.Removed)
    for _ in range(2):
        with pytest.raises(memcg.ClosedError, match="was removed"):
            events.wait(0)
        with pytest.raises(memcg.ClosedError, match="was removed"):
            events.wait()
        assert list(events) == []
    assert not events.closed
    hog = start_hog(other, 1)
    assert list(events.until(hog)) == []
    assert finish(hog) == 0
    events.close()


def test_an_oom_that_was_told_then_a_removal(group: memcg.Cgroup) -> None:
    """With nothing pending when the group goes, the counts are final."""
    child = group.create("child", limit=8 * MiB)
    with child.oom.subscribe() as events:
        hog = start_hog(child, 16)
        told = list(events.until(hog))
        assert finish(hog) == -9
        child.remove()
        told += list(events)
    assert kinds(told) == [memcg.OomEvent, memcg.KernelKill, memcg.Removed]
    assert isinstance(told[-1], memcg.Removed)
    assert told[-1].counts_final


def test_an_oom_that_nobody_took_before_the_removal(group_v1: memcg.CgroupV1) -> None:
    """An OOM whose group goes before it is read is still told, and Removed owns up to the missing count."""
    group = group_v1
    for _ in range(5):
        child = group.create("child", limit=8 * MiB)
        with child.oom.subscribe() as events:
            hog = start_hog(child, 16)
            assert finish(hog) == -9
            child.remove()
            told = list(events)
        assert kinds(told) == [memcg.OomEvent, memcg.Removed]
        assert origins(told) == [child]
        assert isinstance(told[-1], memcg.Removed)
        assert not told[-1].counts_final


def test_a_removal_in_the_very_moment_of_an_oom(group: memcg.Cgroup) -> None:
    """Removed right behind the kill, while a thread reads: each kill is told once, or owned up to.

    On v1 the OOM is told in any case; on v2 its count may be gone before anybody can look."""
    for _ in range(10):
        child = group.create("child", limit=8 * MiB)
        with ThreadPoolExecutor(1) as pool, child.oom.subscribe() as events:
            reading: Future[list[Event]] = start_waiting(pool, partial(list, events))
            hog = start_hog(child, 16)
            assert finish(hog) == -9
            child.remove()
            told = reading.result(timeout=30)
        assert isinstance(told[-1], memcg.Removed)
        assert len(origins(told)) == 1 or isinstance(child, memcg.CgroupV2)
        assert set(origins(told)) <= {child}
        assert kills(told) == 1 or not told[-1].counts_final
        assert kills(told) <= 1


def test_a_stuck_group_that_is_ended_and_removed(group_v1: memcg.CgroupV1) -> None:
    """With the killer off: the OOM is told though its process and its group are gone."""
    group = group_v1
    group.oom.disable()
    child = group.create("child", limit=8 * MiB)
    with child.oom.subscribe() as events:
        hog = start_hog(child, 16)
        wait_blocked(hog)
        hog.kill()
        assert finish(hog) == -9
        child.remove()
        told = list(events)
    assert kinds(told) == [memcg.OomEvent, memcg.Removed]
    assert origins(told) == [child]


def test_an_oom_of_the_parent_then_a_removal(group_v1: memcg.CgroupV1) -> None:
    """The origin of an OOM that is read after its group went is right for an ancestor's limit too."""
    group = group_v1
    child = group.create("child")
    with child.oom.subscribe() as events:
        hog = start_hog(child, 64)
        assert finish(hog) == -9
        child.remove()
        told = list(events)
    assert kinds(told) == [memcg.OomEvent, memcg.Removed]
    assert origins(told) == [group]


def test_the_removal_of_all_above_is_no_oom_of_theirs(group_v1: memcg.CgroupV1) -> None:
    """Where the groups above went as well, an OOM that nobody took is still of the limit that was hit."""
    group = group_v1
    above = group.create("above")
    middle = above.create("middle")
    child = middle.create("child", limit=8 * MiB)
    with child.oom.subscribe() as events, memcg.EventFD() as signal:
        hog = start_hog(child, 16)
        assert finish(hog) == -9
        above.cgroup_event_control(signal, memcg.CgroupV1.oom_control)
        for each in (child, middle, above):
            each.remove()
        signal.read(timeout=30)
        told = list(events)
    assert kinds(told) == [memcg.OomEvent, memcg.Removed]
    assert origins(told) == [child]


def test_the_removal_of_a_group_below_is_not_told(group: memcg.Cgroup) -> None:
    """Groups below come and go without a word, and kills are told as before."""
    children = [group.create(f"child{number}") for number in range(3)]
    stays = group.create("stays")
    with group.oom.subscribe() as events:
        for child in children:
            child.remove()
        late = group.create("late")
        late.remove()
        assert events.wait(0.3) is None
        assert kinds(hogged(stays, 64, events)) == [memcg.OomEvent, memcg.KernelKill]


def test_subscribing_to_a_removed_group(group: memcg.Cgroup) -> None:
    """A group that is gone cannot be subscribed to, and the error names it."""
    child = group.create("child")
    child.remove()
    with pytest.raises(memcg.CgroupRemovedError, match="has been removed") as caught:
        child.oom.subscribe()
    assert str(child.path) in str(caught.value.filename)


def test_a_group_created_again_under_the_same_name_is_another(group: memcg.Cgroup) -> None:
    """Neither equal to the old one nor reached through it, by reads, writes, subscriptions or removal."""
    old = group.create("child")
    with old.oom.subscribe() as events:
        assert old.usage >= 0  # also where the file was kept open
        old.remove()
        new = group.create("child", limit=8 * MiB)
        assert new.path == old.path
        assert new != old
        assert len({new, old, group / "child"}) == 2
        assert new == group / "child"
        assert new.exists
        assert not old.exists

        hog = start_hog(new, 16)
        assert finish(hog) == -9
        told = list(events)
        assert kinds(told) == [memcg.Removed]
        assert told[0].cgroup == old
        assert told[0].cgroup != new

    def add() -> None:
        old.add(worker.pid)

    def lower() -> None:
        old.limit = 4 * MiB

    uses: list[Callable[[], object]] = [
        lambda: old.usage,
        lambda: old.limit,
        lambda: old.stat,
        lambda: old.oom.kills,
        old.processes,
        old.children,
        old.oom.subscribe,
        old.remove,
        add,
        lower,
        lambda: old.create("below"),
        lambda: old.popen(["true"]),
    ]
    if isinstance(old, memcg.CgroupV1):
        uses += [lambda: old.oom.killer_enabled, old.oom.disable]
    with Worker(group.create("other")) as worker:
        for use in uses:
            with pytest.raises(memcg.CgroupRemovedError):
                use()
    assert new.exists
    assert new.limit == 8 * MiB
    assert new.oom.killer_enabled
    assert new.oom.kills == 1
    assert new.children() == ()
