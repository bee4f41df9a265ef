"""What type checkers see of subscriptions, events and eventfds. Checked by mypy, never run."""

import asyncio
import subprocess
from collections.abc import Iterable
from typing import Any

from typing_extensions import assert_never, assert_type

import memcg
from memcg import Cgroup, CgroupV1, EventFD, KernelKill, OomEvent, OwnedFd, PidFD, Removed, Subscription


def every_event_is_known(events: Iterable[memcg.Event]) -> int:
    """Event is a closed union: after its three classes nothing is left."""
    kills = 0
    for event in events:
        match event:
            case OomEvent(origin=origin, under_oom=under_oom):
                assert_type(origin, Cgroup | None)
                assert_type(under_oom, bool)
            case KernelKill(count=count):
                assert_type(count, int)
                kills += count
            case Removed():
                assert_type(event.counts_final, bool)
            case _:
                assert_never(event)
    return kills


def a_forgotten_event_is_an_error(event: memcg.Event) -> None:
    """Where a class is left out, something is left."""
    match event:
        case OomEvent() | KernelKill():
            pass
        case _:
            assert_type(event, Removed)
            assert_never(event)  # type: ignore[arg-type]


def every_event_has_its_group_and_time(event: memcg.Event) -> None:
    """What all events have can be used without telling them apart."""
    assert_type(event.cgroup, Cgroup)
    assert_type(event.time, float)


def blocking(group: CgroupV1, process: subprocess.Popen[str]) -> None:
    """Waiting, iterating, and iterating until a process has exited."""
    with group.oom.subscribe() as events:
        assert_type(events, Subscription)
        assert_type(events.wait(), memcg.Event | None)
        assert_type(events.wait(timeout=1), memcg.Event | None)
        for event in events:
            assert_type(event, OomEvent | KernelKill | Removed)
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
