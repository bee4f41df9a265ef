"""What a list of events comes to, and what the kernel had to say itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import memcg
from support.processes import finish, start_hog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcg import Cgroup, CgroupV1, Event, EventFD, Subscription


def origins(events: Iterable[Event]) -> list[Cgroup | None]:
    """Whose limit was hit, for each OOM that was told."""
    return [event.origin for event in events if isinstance(event, memcg.OomEvent)]


def kills(events: Iterable[Event]) -> int:
    """How many kills were told."""
    return sum(event.count for event in events if isinstance(event, memcg.KernelKill))


def kinds(events: Iterable[Event]) -> list[type[Event]]:
    """The classes of the events."""
    return [type(event) for event in events]


def take_all(events: Subscription) -> list[Event]:
    """What there is by now, without waiting."""
    told = []
    while (event := events.wait(0)) is not None:
        told.append(event)
    return told


def next_kill(events: Subscription) -> list[Event]:
    """Waits for the next kill; that, and what was told before it.

    An OOM at which memory of the past is given back, in the last moment, kills nobody, and another follows."""
    told: list[Event] = []
    while not kills(told):
        event = events.wait(30)
        assert event is not None, "no kill was told"
        told.append(event)
    return told


def settle(events: Subscription) -> None:
    """With a process stopped by an OOM: takes what more is told of it, until nothing is.

    The kernel gives some memory back late, of processes that are long gone. That wakes a blocked process, which
    blocks again."""
    while events.wait(0.05) is not None:
        pass


def hogged(group: Cgroup, mib: int, events: Subscription) -> list[Event]:
    """What is told of a hog that is killed."""
    hog = start_hog(group, mib)
    told = list(events.until(hog))
    assert finish(hog) == -9
    return told


@contextmanager
def bare_eventfd(group: CgroupV1) -> Iterator[EventFD]:
    """An eventfd that the kernel signals at each OOM of the group."""
    with memcg.EventFD() as bare:
        group.cgroup_event_control(bare, memcg.CgroupV1.oom_control)
        yield bare


@contextmanager
def counted_ooms(group: Cgroup) -> Iterator[Callable[[], int]]:
    """How often the kernel has told of OOMs by the limit of the group, since it was last asked for that.

    On v1 these are the signals of an eventfd, on v2 what it has counted."""
    if isinstance(group, memcg.CgroupV1):
        with bare_eventfd(group) as bare:
            yield lambda: bare.try_read() or 0
    else:
        assert isinstance(group, memcg.CgroupV2)
        former = group.events_local.oom

        def count() -> int:
            nonlocal former
            before, former = former, group.events_local.oom
            return former - before

        yield count


def assert_told_as_counted(told: Iterable[Event], count: Callable[[], int]) -> None:
    """Proves that no OOM was told twice: the kernel has told of at least as many. Those that came between two
    looks are told as one."""
    assert 1 <= len(origins(told)) <= count()
