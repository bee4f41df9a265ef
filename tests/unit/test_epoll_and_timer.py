"""The waiting underneath: epoll files that closing wakes, and timers."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from memcg import BusyError, ClosedError, EventFD
from memcg.epoll import Epoll
from memcg.timer import Timer
from memcg.units import Deadline
from support.processes import wait_until
from unit.helpers import SOON, in_child, start

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def epoll() -> Iterator[Epoll]:
    """An Epoll that waits for nothing yet."""
    with Epoll("subscription") as epoll:
        yield epoll


@pytest.fixture
def timer() -> Iterator[Timer]:
    """A timer that is not set."""
    with Timer() as timer:
        yield timer


def ready(file: Timer | Epoll, milliseconds: int = 0) -> bool:
    """Whether *file* is readable, within that time."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_wait_returns_the_files_that_are_ready(epoll: Epoll) -> None:
    """Of several files, wait() names those that are readable, as long as they are."""
    with EventFD() as one, EventFD() as other:
        epoll.add(one.fileno())
        epoll.add(other.fileno())
        assert epoll.wait(Deadline(0)) == []
        one.write()
        for _ in range(2):
            assert epoll.wait(Deadline(None)) == [one.fileno()]
        other.write()
        assert sorted(epoll.wait(Deadline(None))) == sorted([one.fileno(), other.fileno()])


def test_wait_returns_nothing_when_the_time_is_up(epoll: Epoll) -> None:
    """An empty list is the time being up, and it comes not before."""
    deadline = Deadline(0.02)
    assert epoll.wait(deadline) == []
    assert deadline.expired


def test_closing_wakes_the_thread_that_waits(epoll: Epoll) -> None:
    """A thread in wait() gets ClosedError, in the name of whom the Epoll serves."""
    waiter = start(epoll.wait, Deadline(None))
    wait_until(lambda: epoll._pins > 0, "it waits", SOON)
    epoll.close()
    with pytest.raises(ClosedError, match="this subscription is closed"):
        waiter.result(SOON)


def test_a_closed_epoll_is_an_error_at_once(epoll: Epoll) -> None:
    """wait() after close() does not wait."""
    epoll.close()
    with pytest.raises(ClosedError, match="this subscription is closed"):
        epoll.wait(Deadline(None))


def test_another_loop_can_watch_it(epoll: Epoll) -> None:
    """An Epoll is itself readable, for select, poll and epoll, when one of its files is."""
    with EventFD() as event:
        epoll.add(event.fileno())
        assert not ready(epoll)
        event.write()
        assert ready(epoll)


def test_a_childs_close_does_not_wake_the_parent(epoll: Epoll) -> None:
    """Closing it in a forked child leaves the parent's waiter waiting."""
    with EventFD() as event:
        epoll.add(event.fileno())
        waiter = start(epoll.wait, Deadline(None))
        wait_until(lambda: epoll._pins > 0, "it waits", SOON)
        in_child(epoll.close)
        assert not waiter.done()
        event.write()
        assert waiter.result(SOON) == [event.fileno()]


@pytest.mark.anyio
async def test_a_second_task_that_waits_on_the_same_epoll_is_refused(epoll: Epoll) -> None:
    """Only one task can wait on one Epoll: the second gets BusyError, the first its file."""
    found: list[int] = []

    async def wait() -> None:
        found.extend(await epoll.wait_async())

    with EventFD() as event, anyio.fail_after(SOON):
        epoll.add(event.fileno())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyError, match="another task"):
                await epoll.wait_async()
            event.write()
        assert found == [event.fileno()]


def test_a_timer_fires_at_its_moment_and_not_before(timer: Timer) -> None:
    """Set to a moment ahead, it becomes readable, and by then that moment has come."""
    at = time.monotonic() + 0.03
    timer.set(at)
    assert ready(timer, SOON * 1000)
    assert time.monotonic() >= at


@pytest.mark.parametrize("ago", [0, 0.001, 3600])
def test_a_timer_of_the_past_fires_at_once(timer: Timer, ago: float) -> None:
    """A moment that has passed, or is now, is not mistaken for never."""
    timer.set(time.monotonic() - ago)
    assert ready(timer, SOON * 1000)


def test_a_timer_that_is_not_set_never_fires(timer: Timer) -> None:
    """A new timer, and one that was set to None, are not readable."""
    assert not ready(timer)
    timer.set(time.monotonic())
    assert ready(timer, SOON * 1000)
    timer.set(None)
    assert not ready(timer)
    timer.set(None)
    assert not ready(timer)


def test_setting_a_timer_again_moves_it(timer: Timer) -> None:
    """The moment set last is the one that counts, earlier or later than the one before."""
    timer.set(time.monotonic() + 3600)
    assert not ready(timer)
    timer.set(time.monotonic())
    assert ready(timer, SOON * 1000)
    timer.set(time.monotonic() + 3600)
    assert not ready(timer)


def test_a_timer_is_close_on_exec_and_non_blocking(timer: Timer) -> None:
    """No child program gets it, and nothing blocks in it."""
    assert not os.get_inheritable(timer.fileno())
    assert not os.get_blocking(timer.fileno())


def test_a_closed_timer_cannot_be_set(timer: Timer) -> None:
    """set() after close() raises ClosedError."""
    timer.close()
    with pytest.raises(ClosedError, match="this Timer is closed"):
        timer.set(time.monotonic())


def test_closing_at_any_moment_wakes() -> None:
    """Wherever a thread is on its way into wait(), close() in another one gets it out again."""
    for turn in range(200):
        epoll = Epoll("subscription")
        waiter = start(epoll.wait, Deadline(None))
        for _ in range(turn % 10):
            os.sched_yield()
        epoll.close()
        with pytest.raises(ClosedError):
            waiter.result(SOON)
