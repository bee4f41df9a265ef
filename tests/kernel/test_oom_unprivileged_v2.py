"""Events without root, on cgroup v2: in a group that was given to a user, as systemd does it, all of them work."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import Empty, HighLimit, MiB, Oom
from support.events import kills, kinds, origins
from support.forked import as_nobody, give_away
from support.processes import exit_status, start_own_hog

if TYPE_CHECKING:
    from memcg import Event

DELEGATED = (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
"""What systemd hands over."""


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """A group that belongs to nobody."""
    give_away(group_v2.path, *DELEGATED)
    return group_v2


@pytest.fixture
def inside(group: memcg.CgroupV2) -> memcg.CgroupV2:
    """A group in it, for the process that listens: on v2, only inside can one start processes there."""
    inside = group.create("inside")
    give_away(inside.path)
    return inside


def test_the_owner_of_a_group_hears_of_ooms_in_groups_below(group: memcg.CgroupV2, inside: memcg.CgroupV2) -> None:
    """Own limits and that of the group itself, which only root could set: each OOM has its origin."""

    def listen() -> None:
        with memcg.temporary(parent=group, limit=16 * MiB) as own, own.oom.subscribe() as events:
            for limit, origin in ((16 * MiB, own), (None, group), (16 * MiB, own)):
                own.limit = limit
                hog = start_own_hog(own, 64)
                told = list(events.until(hog))
                assert exit_status(hog) == -signal.SIGKILL
                assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
                assert origins(told) == [origin]
                assert kills(told) == 1
            own.remove()
            assert kinds(events) == [memcg.Removed]

    as_nobody(listen, inside)
    assert group.events.oom_kill == 3


def test_anyone_hears_of_any_group(group: memcg.CgroupV2, inside: memcg.CgroupV2) -> None:
    """The files of the kernel's counts can be read by all: to listen, one need not own the group."""
    below = group.create("below", limit=8 * MiB)
    their_own = below.create("their own")
    give_away(their_own.path)

    def listen() -> tuple[list[type[Event]], bool]:
        with below.subscribe(Oom()) as events:
            hog = start_own_hog(their_own, 16)
            told = list(events.until(hog))
            assert exit_status(hog) == -signal.SIGKILL
            return kinds(told), origins(told) == [below]

    assert as_nobody(listen, inside) == ([memcg.OomEvent, memcg.KernelKill], True)


def test_all_triggers_of_an_own_group(group: memcg.CgroupV2, inside: memcg.CgroupV2) -> None:
    """Empty and HighLimit take no privilege either."""

    def listen() -> list[type[Event]]:
        with memcg.temporary(parent=group, limit=24 * MiB) as own:
            assert isinstance(own, memcg.CgroupV2)
            own.high = 12 * MiB
            with own.subscribe(Oom(), Empty(), HighLimit()) as events:
                hog = start_own_hog(own, 13)
                told = list(events.until(hog))
                assert exit_status(hog) == 0
                while memcg.Emptied not in kinds(told):
                    event = events.wait(30)
                    assert event is not None
                    told.append(event)
                return kinds(told)

    told = as_nobody(listen, inside)
    assert set(told) == {memcg.HighExceeded, memcg.Emptied}
    assert told[-1] == memcg.Emptied
