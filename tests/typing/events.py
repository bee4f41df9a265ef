"""What type checkers see of subscriptions, events and eventfds. Checked by mypy, never run."""

import asyncio
import subprocess
from collections.abc import Iterable
from typing import Any

from typing_extensions import assert_never, assert_type

import memcg
from memcg import (
    Cgroup,
    CgroupV1,
    DelayExpired,
    Emptied,
    Empty,
    EventFD,
    HighExceeded,
    HighLimit,
    KernelKill,
    Oom,
    OomEvent,
    OomResolved,
    Overridden,
    OwnedFd,
    PidFD,
    Removed,
    Stall,
    Stalled,
    Subscription,
    Until,
    WatchFailed,
)


def every_event_is_known(events: Iterable[memcg.Event]) -> int:
    """Event is a closed union: after its seven classes nothing is left."""
    kills = 0
    for event in events:
        match event:
            case OomEvent(origin=origin, under_oom=under_oom):
                assert_type(origin, Cgroup | None)
                assert_type(under_oom, bool)
            case KernelKill(count=count):
                assert_type(count, int)
                kills += count
            case HighExceeded(count=times):
                assert_type(times, int)
            case Stalled(trigger=stall):
                assert_type(stall, Stall)
            case Emptied():
                pass
            case WatchFailed(trigger=trigger, error=error):
                assert_type(trigger, Oom | Empty | HighLimit | Stall)
                assert_type(error, memcg.MemcgError)
            case Removed():
                assert_type(event.counts_final, bool)
            case _:
                assert_never(event)
    return kills


def a_forgotten_event_is_an_error(event: memcg.Event) -> None:
    """Where a class is left out, something is left."""
    match event:
        case OomEvent() | KernelKill() | Emptied() | HighExceeded() | Stalled() | WatchFailed():
            pass
        case _:
            assert_type(event, Removed)
            assert_never(event)  # type: ignore[arg-type]


def every_event_of_a_hold_is_known(events: Iterable[memcg.HoldEvent]) -> int:
    """HoldEvent is a closed union: after its six classes nothing is left."""
    kills = 0
    for event in events:
        match event:
            case OomEvent() | OomResolved():
                pass
            case DelayExpired(kills=killed, count=count):
                assert_type(killed, int)
                assert_type(count, int)
                kills += killed
            case KernelKill(count=count):
                kills += count
            case Overridden() | Removed():
                pass
            case _:
                assert_never(event)
    return kills


def a_forgotten_event_of_a_hold_is_an_error(event: memcg.HoldEvent) -> None:
    """Who has matched all that a subscription yields has not matched all that a hold does."""
    match event:
        case OomEvent() | KernelKill() | Removed():
            pass
        case _:
            assert_type(event, OomResolved | DelayExpired | Overridden)
            assert_never(event)  # type: ignore[arg-type]


def every_event_has_its_group_and_time(event: memcg.Event | memcg.HoldEvent) -> None:
    """What all events have can be used without telling them apart."""
    assert_type(event.cgroup, Cgroup)
    assert_type(event.time, float)


def blocking(group: CgroupV1, process: subprocess.Popen[str]) -> None:
    """Waiting, iterating, and iterating until a process has exited."""
    with group.oom.subscribe() as events:
        assert_type(events, Subscription[memcg.Event])
        assert_type(events.wait(), memcg.Event | None)
        assert_type(events.wait(timeout=1), memcg.Event | None)
        for event in events:
            assert_type(event, memcg.Event)
        assert_type(events.until(process), Until[memcg.Event])
        for event in events.until(process):
            assert_type(event, memcg.Event)
        every_event_is_known(events.until(process.pid))
        with PidFD(process.pid) as held:
            assert_type(held, PidFD)
            every_event_is_known(events.until(held))
        assert_type(events.fileno(), int)


async def awaiting(group: CgroupV1, process: asyncio.subprocess.Process) -> None:
    """The same on an event loop."""
    with group.oom.subscribe() as events:
        assert_type(await events.next(), memcg.Event)
        async for event in events:
            assert_type(event, memcg.Event)
        async for event in events.until(process):
            assert_type(event, memcg.Event)


async def other_subscriptions(events: Subscription[memcg.HoldEvent], process: subprocess.Popen[bytes]) -> None:
    """A subscription is generic in what it yields, in each way of taking it."""
    assert_type(events.wait(), memcg.HoldEvent | None)
    assert_type(await events.next(), memcg.HoldEvent)
    for event in events:
        assert_type(event, memcg.HoldEvent)
    async for event in events:
        assert_type(event, memcg.HoldEvent)
    for event in events.until(process):
        assert_type(event, memcg.HoldEvent)
    async for event in events.until(process):
        assert_type(event, memcg.HoldEvent)
    every_event_of_a_hold_is_known(events.until(process))
    with events as entered:
        assert_type(entered, Subscription[memcg.HoldEvent])


def what_yields_less_will_do(events: Subscription[memcg.Event], holding: Until[memcg.HoldEvent]) -> None:
    """Where all that a hold and any trigger yield is handled, both can be given."""
    wider: Subscription[memcg.Event | memcg.HoldEvent] = events
    assert_type(wider.wait(), memcg.Event | memcg.HoldEvent | None)
    longer: Until[memcg.Event | memcg.HoldEvent] = holding
    for event in longer:
        assert_type(event, memcg.Event | memcg.HoldEvent)


def triggers(group: Cgroup) -> None:
    """Several triggers on one subscription; of the machine there is one kind, and its events are of no group."""
    asked: memcg.Trigger = Stall("full", stall=0.5, window=2)
    with group.subscribe(Oom(), Empty(), HighLimit(), asked) as events:
        assert_type(events, Subscription[memcg.Event])
        every_event_is_known(events)
    with memcg.system.subscribe(Stall("some", window=2)) as stalls:
        assert_type(stalls, Subscription[memcg.SystemStalled])
        for event in stalls:
            assert_type(event.trigger, Stall)
    assert_type(memcg.system.pressure, memcg.Pressure)


def without_saying_of_what(events: Subscription, until: Until) -> None:
    """A subscription or an Until alone is one of Event."""
    assert_type(events, Subscription[memcg.Event])
    assert_type(until, Until[memcg.Event])


async def eventfds() -> None:
    """Reading gives numbers, trying may give none, and a with block yields the class itself."""
    with EventFD(3, semaphore=True) as event:
        assert_type(event, EventFD)
        assert_type(event.read(), int)
        assert_type(event.read(timeout=0.5), int)
        assert_type(event.try_read(), int | None)
        assert_type(await event.aread(), int)
        assert_type(event.semaphore, bool)
        event.write()
        event.write(5, timeout=1)
    owned: OwnedFd = event
    assert_type(owned.fileno(), int)
    assert_type(owned.closed, bool)


def errors(error: memcg.MemcgError) -> None:
    """Errors for an errno are also Python's own."""
    if isinstance(error, memcg.AccessDeniedError):
        denied: PermissionError = error
        assert_type(denied.errno, int | None)
    if isinstance(error, memcg.CgroupRemovedError):
        not_found: FileNotFoundError = error
        kernel: memcg.KernelError = error
        assert_type((not_found.filename, kernel.strerror)[1], str | None)
    if isinstance(error, memcg.AlreadyHeldError):
        held: memcg.HoldError = error
        assert_type((held.args, error.guard, error.owner)[1:], tuple[int | None, int | None])
    if isinstance(error, memcg.WaitTimeoutError):
        timeout: TimeoutError = error
        assert_type(timeout.args, tuple[Any, ...])
    if isinstance(error, memcg.InvalidValueError):
        value: ValueError = error
        assert_type(value.args, tuple[Any, ...])


def sizes() -> None:
    """Sizes are ints."""
    assert_type(memcg.parse_size("512M"), int)
    assert_type(memcg.format_size(None), str)
    limit: int = 4 * memcg.MiB + memcg.KiB - memcg.GiB
    assert_type(memcg.format_size(limit), str)
