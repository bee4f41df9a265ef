"""What a list of events comes to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import memcg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


@contextmanager
def bare_eventfd(group: CgroupV1) -> Iterator[EventFD]:
    """An eventfd that the kernel signals at each OOM of the group."""
    with memcg.EventFD() as bare:
        group.cgroup_event_control(bare, memcg.CgroupV1.oom_control)
        yield bare


def assert_told_as_signalled(told: Iterable[Event], bare: EventFD) -> None:
    """Proves that no OOM was told twice: *bare* was signalled as often as memcg's own eventfd.

    Signals that came between two reads are told as one."""
    assert 1 <= len(origins(told)) <= (bare.try_read() or 0)
