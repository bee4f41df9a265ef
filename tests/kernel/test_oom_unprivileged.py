"""OOM handling without root, on cgroup v1: what is refused, and what a group that was given away allows."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.events import kills, kinds, origins
from support.forked import NOBODY, as_nobody, give_away
from support.processes import exit_status, finish, start_hog, start_own_hog, state, wait_until
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLING = ("cgroup.procs", "memory.oom_control", "memory.limit_in_bytes", "cgroup.event_control")
"""The files that one has to own to handle OOMs."""


def subscribed(group: memcg.CgroupV1) -> memcg.Subscription:
    """A subscription that has looked around: a first look amid an OOM can take the traces of that for old ones."""
    events = group.oom.subscribe()
    assert events.wait(0) is None
    return events


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """All of this is of cgroup v1."""
    return group_v1


def test_reading_takes_no_privilege(group: memcg.CgroupV1) -> None:
    """Usage, limits, statistics, the state of the killer and the tree can be read by anyone."""
    hog = start_hog(group, 64)
    assert finish(hog) == -9

    def read() -> tuple[int | None, bool, bool, int, int, tuple[int, ...], bool]:
        assert os.geteuid() == NOBODY
        assert group.usage >= 0
        assert group.stat.rss >= 0
        assert group.peak <= 32 * MiB
        return (
            group.limit,
            group.oom.killer_enabled,
            group.oom.under_oom,
            group.oom.kills,
            group.oom_control.oom_kill or 0,
            group.processes(),
            group.exists,
        )

    assert as_nobody(read) == (32 * MiB, True, False, 1, 1, (), True)


def subscribe(group: memcg.CgroupV1) -> None:
    group.oom.subscribe().close()


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (lambda group: group.oom.disable(), "memory.oom_control"),
        (lambda group: group.oom.enable(), "memory.oom_control"),
        (subscribe, "cgroup.event_control"),
    ],
    ids=["disable", "enable", "subscribe"],
)
def test_handling_takes_one(group: memcg.CgroupV1, change: Callable[[memcg.CgroupV1], object], file: str) -> None:
    """Without the right to, each is refused with the file and the remedy, and changes nothing."""
    before = settings(group)
    with pytest.raises(memcg.AccessDeniedError, match=r"run as root \(sudo\), or have root chown") as caught:
        as_nobody(partial(change, group))
    assert isinstance(caught.value, PermissionError)
    assert caught.value.filename == str(group.path / file)
    assert settings(group) == before


@pytest.mark.parametrize("files", [HANDLING, ()], ids=["four files", "the whole directory"])
def test_the_owner_of_a_group_can_handle_its_oom(group: memcg.CgroupV1, files: tuple[str, ...]) -> None:
    """With these files its own, a user saves a process; the origin is known though no ancestor can be watched."""
    give_away(group.path, ".", *files) if files else give_away(group.path)

    def handle() -> tuple[list[bool], int]:
        group.oom.disable()
        with subscribed(group) as events:
            hog = start_own_hog(group, 64)
            own = []
            for event in events.until(hog):
                assert isinstance(event, memcg.OomEvent)
                assert event.under_oom
                own.append(event.origin == group)
                group.limit = 128 * MiB
            return own, exit_status(hog)

    assert as_nobody(handle) == ([True], 0)
    assert group.limit == 128 * MiB
    assert not group.oom.killer_enabled
    assert group.oom.kills == 0


def test_the_owner_of_a_group_hears_of_kills(group: memcg.CgroupV1) -> None:
    """Left to the kernel, each OOM and kill is told to the owner too, own limit after own limit."""
    give_away(group.path)

    def listen() -> None:
        with subscribed(group) as events:
            for _ in range(5):
                hog = start_own_hog(group, 64)
                told = list(events.until(hog))
                assert exit_status(hog) == -signal.SIGKILL
                assert set(origins(told)) == {group}
                assert kills(told) == 1

    as_nobody(listen)
    assert group.oom.kills == 5


def test_the_limit_of_an_ancestor_that_cannot_be_watched_is_of_unknown_origin(group: memcg.CgroupV1) -> None:
    """An OOM above what the user owns is told as well; its origin is None, not a guess."""
    child = group.create("child", limit=16 * MiB)
    give_away(child.path)

    def listen() -> None:
        with subscribed(child) as events:
            for limit, origin in ((None, None), (16 * MiB, child), (None, None)):
                child.limit = limit
                hog = start_own_hog(child, 64)
                told = list(events.until(hog))
                assert exit_status(hog) == -signal.SIGKILL
                assert set(origins(told)) == {origin}
                assert kills(told) == 1

    as_nobody(listen)
    assert child.oom.kills == 3


def test_the_highest_owned_ancestor_is_told_apart_from_what_is_above(group: memcg.CgroupV1) -> None:
    """Of the groups that the user owns, it is known whose limit was hit."""
    top = group.create("top", limit=16 * MiB)
    bottom = top.create("bottom")
    give_away(top.path, ".", *(each.name for each in top.path.iterdir() if each.is_file()))
    give_away(bottom.path)

    def listen() -> None:
        with subscribed(bottom) as events:
            for limit, origin in ((16 * MiB, top), (None, None)):
                top.limit = limit
                hog = start_own_hog(bottom, 64)
                told = list(events.until(hog))
                assert exit_status(hog) == -signal.SIGKILL
                assert set(origins(told)) == {origin}

    as_nobody(listen)


def test_the_owner_can_make_groups_below(group: memcg.CgroupV1) -> None:
    """A group that was given away is a place for temporary groups, whose OOMs their maker handles."""
    give_away(group.path)

    def use() -> None:
        with memcg.temporary(parent=group, limit=8 * MiB) as own, own.oom.subscribe() as events:
            own.oom.disable()
            hog = start_own_hog(own, 16)
            for event in events.until(hog):
                assert isinstance(event, memcg.OomEvent)
                assert event.origin == own
                wait_until(lambda: state(hog) == "D", "the process is stopped")
                own.oom.enable()
                break
            assert kinds(events.until(hog)) == [memcg.OomEvent, memcg.KernelKill]
            assert exit_status(hog) == -signal.SIGKILL

    as_nobody(use)
    assert group.children() == ()
