"""Using a hold as a subscription: waiting, loops, event loops and closing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import DelayExpired, OomEvent, OomResolved, PidFD
from support.holds import assert_nothing_left, held, kinds
from support.marks import is_held, marks
from support.popen import has_children
from support.processes import finish, start_hog, start_waiting, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Cgroup, Hold, HoldEvent

EXPIRY = ["OomEvent", "DelayExpired"]


@pytest.fixture
def hold(group: Cgroup) -> Iterator[Hold]:
    """A hold of the group, with a short delay."""
    with held(group, 0.05) as hold:
        yield hold


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads to wait in."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


# Waiting and loops.


def test_wait(group: Cgroup, hold: Hold) -> None:
    """wait() gives one event at a time, and None when the time is up."""
    assert hold.wait(0) is None
    assert hold.wait(0.01) is None
    hog = start_hog(group, 64)
    assert isinstance(hold.wait(), OomEvent)
    assert isinstance(hold.wait(30), DelayExpired)
    assert finish(hog) == -signal.SIGKILL


def test_a_loop(group: Cgroup, hold: Hold) -> None:
    """for gives the events as they happen; leaving it loses nothing, and close() in it is the end."""
    hog = start_hog(group, 64)
    told: list[HoldEvent] = []
    for event in hold:
        told.append(event)
        break
    for event in hold:
        told.append(event)
        if isinstance(event, DelayExpired):
            hold.close()
    assert kinds(told) == EXPIRY
    assert list(hold) == []
    assert finish(hog) == -signal.SIGKILL


@pytest.mark.parametrize("named_by", ["Popen", "PID", "PidFD"])
def test_until(group: Cgroup, hold: Hold, named_by: str) -> None:
    """until() ends with the process, and tells what it caused, the kill of the expiry included."""
    for _ in range(3):
        hog = start_hog(group, 64)
        with PidFD(hog.pid) as process:
            ways: dict[str, memcg.Process | PidFD | int] = {"Popen": hog, "PID": hog.pid, "PidFD": process}
            told = list(hold.until(ways[named_by]))
        assert kinds(told) == EXPIRY
        assert [event.kills for event in told if isinstance(event, DelayExpired)] == [1]
        assert finish(hog) == -signal.SIGKILL
        assert kinds(hold.until(hog)) == []
    assert hold.kills == group.oom.kills == 3


def test_until_a_process_that_goes_on(group: Cgroup) -> None:
    """The handler of the documentation: each OOM is dealt with, and the process ends by itself."""
    with held(group, 30) as hold:
        hog = start_hog(group, 128)
        raised = 0
        for event in hold.until(hog):
            if isinstance(event, OomEvent):
                raised += hold.raise_limit(by="32M")
        assert finish(hog) == 0
        assert raised >= 3
        assert (hold.kills, hold.expirations, group.oom.kills) == (0, 0, 0)


def test_fileno(group: Cgroup, hold: Hold) -> None:
    """Any loop can carry it: readable when there is something, then wait(0) until that is None."""
    assert select.select([hold], [], [], 0)[0] == [] or hold.wait(0) is None
    hog = start_hog(group, 64)
    told: list[HoldEvent] = []
    deadline = time.monotonic() + 30
    while kinds(told) != EXPIRY and time.monotonic() < deadline:
        assert select.select([hold], [], [], 30)[0] == [hold]
        while (event := hold.wait(0)) is not None:
            told.append(event)
    assert kinds(told) == EXPIRY
    assert finish(hog) == -signal.SIGKILL


# On event loops.


@pytest.mark.anyio
async def test_an_async_loop(group: Cgroup, hold: Hold) -> None:
    """async for gives the events while other tasks run, and raise_limit() can be called in it."""
    told: list[HoldEvent] = []
    hold.delay = 30
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.001)
            ticks += 1

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            hog = start_hog(group, 64)
            async for event in hold:
                told.append(event)
                if isinstance(event, OomEvent):
                    hold.raise_limit(by="64M")
                if isinstance(event, OomResolved):
                    break
            tasks.cancel_scope.cancel()
    assert kinds(told) == ["OomEvent", "OomResolved"]
    assert ticks > 0
    assert finish(hog) == 0


@pytest.mark.anyio
async def test_next_and_until(group: Cgroup, hold: Hold) -> None:
    """next() awaits one event; async for over until() ends with the process."""
    with anyio.fail_after(30):
        hog = start_hog(group, 64)
        told: list[HoldEvent] = [await hold.next()]
        told += [event async for event in hold.until(hog)]
    assert kinds(told) == EXPIRY
    assert finish(hog) == -signal.SIGKILL


@pytest.mark.anyio
async def test_cancelling_loses_nothing(group: Cgroup, hold: Hold) -> None:
    """Waits that are given up again and again leave all for the next."""
    told: list[HoldEvent] = []
    with anyio.fail_after(60):
        hog = start_hog(group, 64)
        while kinds(told) != EXPIRY:
            with anyio.move_on_after(0.0005):
                told.append(await hold.next())
    assert finish(hog) == -signal.SIGKILL


@pytest.mark.anyio
async def test_closing_ends_an_async_loop(hold: Hold) -> None:
    """close() by a thread ends a loop quietly."""
    told: list[HoldEvent] = []

    async def loop() -> None:
        told.extend([event async for event in hold])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(hold.close)
    assert told == []


@pytest.mark.anyio
async def test_a_lost_guard_ends_an_async_wait(group: Cgroup) -> None:
    """A task in next() is told when the guard is killed."""
    with group.oom.hold(30) as hold, anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(memcg.GuardLostError):
                    await hold.next()

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            os.kill(hold.guard_pids[0], signal.SIGKILL)
    wait_until(lambda: not is_held(group) and not marks(group), "all is put back")


# Closing.


def test_closing_in_another_thread(hold: Hold, pool: ThreadPoolExecutor) -> None:
    """Whoever waits is woken: wait() raises, a loop ends."""
    waiting = start_waiting(pool, hold.wait)
    hold.close()
    with pytest.raises(memcg.ClosedError, match="this hold is closed"):
        waiting.result(30)


def test_closing_in_a_signal_handler(group: Cgroup) -> None:
    """A handler that closes the hold amid its own wait ends that, and the killer is on."""
    for use in (lambda hold: hold.wait(), lambda hold: list(hold)):
        hold = group.oom.hold(30)
        former = signal.signal(signal.SIGALRM, lambda number, frame: hold.close())  # noqa: B023
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with contextlib.suppress(memcg.ClosedError):
                assert use(hold) == []
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
        assert hold.closed
        assert_nothing_left(group, hold.guard_pids)


def test_closing_in_a_signal_handler_at_any_moment(group: Cgroup) -> None:
    """A handler that closes the hold while it is asked for something is never stuck, and nothing is left."""
    for number in range(30):
        hold = group.oom.hold(30)
        former = signal.signal(signal.SIGALRM, lambda number, frame: hold.close())  # noqa: B023
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.00005)
            with contextlib.suppress(memcg.ClosedError):
                while True:
                    hold.raise_limit(by="1M")
                    hold.delay = 30
                    assert hold.state in ("armed", "ended")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
        assert_nothing_left(group, hold.guard_pids)


def test_closing_twice_and_use_after_it(group: Cgroup) -> None:
    """A second close() does nothing; any use says that it is closed; what it was can be read."""
    hold = group.oom.hold(30)
    hold.close()
    hold.close()
    for use in (hold.wait, hold.expire, hold.kill_one, hold.fileno, partial(hold.until, os.getpid())):
        with pytest.raises(memcg.ClosedError, match="this hold is closed"):
            use()
    with pytest.raises(memcg.ClosedError, match="this hold is closed"):
        hold.delay = 5
    assert (hold.delay, hold.state, hold.kills, hold.expirations) == (30, "ended", 0, 0)
    assert_nothing_left(group, hold.guard_pids)


def test_a_second_waiter_is_refused(group: Cgroup, hold: Hold, pool: ThreadPoolExecutor) -> None:
    """One thread waits, another gets BusyError; but it may act."""
    hold.delay = 30
    waiting = start_waiting(pool, hold.wait)
    with pytest.raises(memcg.BusyError, match="another thread or task"):
        hold.wait(0)
    assert hold.raise_limit(by="1M") is False
    hog = start_hog(group, 64)
    assert isinstance(waiting.result(30), OomEvent)
    waiting = start_waiting(pool, hold.wait)
    assert hold.raise_limit(by="64M")
    assert isinstance(waiting.result(30), OomResolved)
    assert finish(hog) == 0


def test_forgotten(group: Cgroup) -> None:
    """A hold that was never closed is a ResourceWarning, and ends all the same."""
    holds = [group.oom.hold(30)]
    pids, text = holds[0].guard_pids, repr(holds[0])
    with pytest.warns(ResourceWarning, match=f"unclosed {text}"):
        holds.clear()
    assert_nothing_left(group, pids)


def test_repr(group: Cgroup) -> None:
    """It shows what it is, of which group, and whether it is over."""
    with held(group, 30) as hold:
        assert repr(hold) == f"<memcg.Hold armed '{group.cgroup_path}'>"
    assert repr(hold) == f"<memcg.Hold closed '{group.cgroup_path}'>"


def test_it_is_nobodys_child(hold: Hold) -> None:
    """The guard is no child of this process: there is nothing for its wait() to meet."""
    assert hold.state == "armed"
    assert not has_children()
