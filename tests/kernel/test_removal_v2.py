"""The removal of cgroup v2 groups, of which most kernels do not tell those who wait for the group's files."""

from __future__ import annotations

import ctypes
import os
import select
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import Empty, Event, HighLimit, MiB, Oom, Stall
from support.events import hogged, kills, kinds
from support.forked import in_child
from support.processes import finish, start_hog, start_waiting, wait_until

if TYPE_CHECKING:
    from memcg import Trigger


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


TRIGGERS = {
    "Oom": Oom(),
    "Empty": Empty(),
    "HighLimit": HighLimit(),
    "Stall": Stall("some", stall=2, window=2),
}


@pytest.mark.parametrize("trigger", TRIGGERS.values(), ids=TRIGGERS)
@pytest.mark.parametrize("state", ["never populated", "once populated"])
@pytest.mark.parametrize("waiting", [False, True], ids=["nobody waits", "a thread waits"])
def test_a_removal_is_told_in_every_state(
    group: memcg.CgroupV2, trigger: Trigger, state: str, waiting: bool
) -> None:
    """Whatever is subscribed to, whoever waits, and whether or not there ever was a process: Removed is told."""
    child = group.create("child")
    with child.subscribe(trigger) as events, ThreadPoolExecutor(1) as pool:
        told: list[Event] = []
        if state == "once populated":
            assert finish(start_hog(child, 1)) == 0
            wait_until(lambda: not child.populated, "it is empty")
        while (event := events.wait(0.05)) is not None:
            told.append(event)
        if waiting:
            looping = start_waiting(pool, lambda: list(events))
            child.remove()
            told += looping.result(timeout=30)
        else:
            child.remove()
            told += list(events)
    expected = [memcg.Emptied] if state == "once populated" and trigger == Empty() else []
    assert kinds(told)[-1] == memcg.Removed
    assert set(kinds(told)[:-1]) == set(expected)
    removed = told[-1]
    assert isinstance(removed, memcg.Removed)
    assert removed.counts_final
    assert removed.cgroup == child


def test_a_group_that_was_made_again_is_another(group: memcg.CgroupV2) -> None:
    """Whoever looks only after there is a new group of the name is told that the old one is gone."""
    old = group.create("child")
    with old.oom.subscribe() as events:
        old.remove()
        new = group.create("child")
        with new.oom.subscribe() as others:
            assert kinds(events) == [memcg.Removed]
            assert others.wait(0.05) is None
            new.remove()
            assert kinds(others) == [memcg.Removed]


def test_groups_above_that_go_as_well(group: memcg.CgroupV2) -> None:
    """Where a whole branch is removed, each of its groups is told."""
    branch = [group.create("a")]
    for name in ("b", "c"):
        branch.append(branch[-1].create(name))
    with ExitStack() as stack:
        subscriptions = [stack.enter_context(each.oom.subscribe()) for each in branch]
        for each in reversed(branch):
            each.remove()
        for events, each in zip(subscriptions, branch, strict=True):
            told = list(events)
            assert kinds(told) == [memcg.Removed]
            assert told[0].cgroup == each


def test_whoever_is_woken_first_takes_nothing_from_others(group: memcg.CgroupV2) -> None:
    """All of a process share one inotify instance: each of many threads is told of its own group."""
    children = [group.create(f"child{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool, ExitStack() as stack:
        subscriptions = [stack.enter_context(child.oom.subscribe()) for child in children]
        loops = [start_waiting(pool, partial(list[Event], events)) for events in subscriptions]
        for child, loop in zip(children, loops, strict=True):
            assert not loop.done()
            child.remove()
            told = loop.result(timeout=30)
            assert kinds(told) == [memcg.Removed]
            assert told[0].cgroup == child


def test_one_that_nobody_reads_does_not_keep_others_from_being_told(group: memcg.CgroupV2) -> None:
    """A subscription that lies idle, to a group that is gone, costs the others nothing, and tells in the end."""
    idle, busy = group.create("idle"), group.create("busy")
    with idle.oom.subscribe() as left, busy.oom.subscribe() as events:
        idle.remove()
        assert events.wait(0.05) is None
        assert select.select([left], [], [], 30)[0]
        busy.remove()
        assert kinds(events) == [memcg.Removed]
        assert kinds(left) == [memcg.Removed]


@pytest.mark.anyio
async def test_many_removals_on_one_event_loop(group: memcg.CgroupV2) -> None:
    """Tasks that each wait for a group of their own are each told, and of nothing else."""
    children = [group.create(f"child{number}") for number in range(20)]
    gone: list[memcg.Cgroup] = []

    async def listen(child: memcg.CgroupV2) -> None:
        with child.subscribe(Empty()) as events:
            async for event in events:
                assert isinstance(event, memcg.Removed)
                gone.append(event.cgroup)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for child in children:
                tasks.start_soon(listen, child)
            await anyio.wait_all_tasks_blocked()
            for child in children:
                child.remove()
    assert set(gone) == set(children)
    assert len(gone) == len(children)


# The inotify instance.


def instances() -> int:
    """How many inotify instances this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify"
        except FileNotFoundError:  # the directory that is being listed
            continue
    return found


def watched() -> int:
    """How many directories are watched by them."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify":
                found += Path(f"/proc/self/fdinfo/{name}").read_text().count("inotify wd:")
        except FileNotFoundError:
            continue
    return found


def test_one_instance_and_one_watch_for_each_parent(group: memcg.CgroupV2) -> None:
    """However many groups are subscribed to, there is one instance, and in it one watch for each parent; when
    nobody is left, the watches are gone."""
    before = watched()
    parents = [group.create(f"parent{number}") for number in range(3)]
    with ExitStack() as stack:
        for parent in parents:
            for number in range(10):
                child = parent.create(f"child{number}")
                for _ in range(2):
                    stack.enter_context(child.subscribe(Empty()))
        assert instances() == 1
        assert watched() == before + 3
    assert instances() == 1
    assert watched() == before


def test_a_forked_child_has_an_instance_of_its_own(group: memcg.CgroupV2) -> None:
    """What a child hears, and what it removes, is not taken from its parent's ears."""
    ours, theirs = group.create("ours"), group.create("theirs")
    with ours.oom.subscribe() as events:

        def remove() -> list[type[Event]]:
            with theirs.oom.subscribe() as own:
                ours.remove()
                theirs.remove()
                told = kinds(own)
            events.close()
            return told

        assert in_child(remove) == [memcg.Removed]
        assert kinds(events) == [memcg.Removed]


def test_without_an_instance(group: memcg.CgroupV2) -> None:
    """Where the user has too many instances, the error says what to raise, and nothing is left open."""

    def use_up() -> tuple[str, int]:
        inotify_init = ctypes.CDLL(None).inotify_init
        most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        if most > 500 or not any(inotify_init() < 0 for _ in range(most + 1)):
            return "", 0
        before = len(os.listdir("/proc/self/fd"))
        try:
            group.oom.subscribe()
        except memcg.TooManyOpenFilesError as error:
            return str(error), len(os.listdir("/proc/self/fd")) - before
        return "no error", 0

    message, left = in_child(use_up)
    if not message:
        pytest.skip("a user may have very many inotify instances here")
    assert "fs.inotify.max_user_instances" in message
    assert left == 0


# What can be known in the end.


def test_kills_that_nobody_saw_before_the_removal(group: memcg.CgroupV2) -> None:
    """The counters are gone with the group: what was not read before is owned up to."""
    child = group.create("child", limit=8 * MiB)
    with child.oom.subscribe() as events:
        hog = start_hog(child, 16)
        assert finish(hog) == -9
        child.remove()
        told = list(events)
    assert kinds(told) == [memcg.Removed]
    assert isinstance(told[0], memcg.Removed)
    assert not told[0].counts_final


def test_kills_beside_it_make_a_group_uncertain_until_it_looks(group: memcg.CgroupV2) -> None:
    """The parent's counter is what tells: a kill in a sibling may have been one here, if nobody looked since."""
    for look in (False, True):
        child, sibling = group.create("child"), group.create("sibling", limit=8 * MiB)
        with child.oom.subscribe() as events:
            with sibling.oom.subscribe() as others:
                assert kills(hogged(sibling, 16, others)) == 1
            if look:
                assert events.wait(0) is None
            child.remove()
            (told,) = events
            assert isinstance(told, memcg.Removed)
            assert told.counts_final == look
        sibling.remove()
