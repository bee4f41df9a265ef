"""EventFD, awaited on asyncio and on trio."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from memcg import ClosedError, EventFD
from unit.helpers import SOON, run_python, start, wait_for_waiters, when_waited_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


class Outcomes(list[int | type[BaseException]]):
    """What several awaited calls came to."""

    async def of(self, call: Callable[[], Awaitable[int]]) -> None:
        """Awaits *call*, and keeps what it returns, or the class of the error of memcg's that it raises."""
        try:
            self.append(await call())
        except ClosedError as error:
            self.append(type(error))


async def test_awaiting_takes_the_whole_counter() -> None:
    """aread() returns what is there, and leaves 0."""
    with EventFD(3) as event:
        event.write(4)
        assert await event.aread() == 7
        assert event.try_read() is None


async def test_awaiting_a_semaphore_takes_1() -> None:
    """aread() of a semaphore returns 1 each time."""
    with EventFD(2, semaphore=True) as event:
        assert [await event.aread(), await event.aread()] == [1, 1]
        assert event.try_read() is None


async def test_awaiting_waits_for_a_write_of_another_task() -> None:
    """While one task awaits a value, others run, and one of them writes it."""
    outcomes = Outcomes()
    with EventFD() as event:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcomes.of, event.aread)
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            event.write(5)
        assert outcomes == [5]


async def test_awaiting_waits_for_a_write_of_a_thread() -> None:
    """A thread that writes wakes the event loop."""
    with EventFD() as event:
        writer = when_waited_for(event, lambda: event.write(5))
        assert await event.aread() == 5
        writer.result(SOON)


async def test_awaiting_what_is_there_lets_others_run() -> None:
    """A task that always finds a value does not keep the event loop from other tasks."""
    running = True

    async def drain() -> None:
        while running:
            event.write()
            await event.aread()

    with EventFD() as event:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            running = False


async def test_cancelling_takes_nothing() -> None:
    """A value that comes after a cancelled aread() is there for the next."""
    with EventFD() as event:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(event.aread)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert not event._waits
        event.write(5)
        assert await event.aread() == 5


@pytest.mark.parametrize("steps", range(6))
async def test_cancelling_at_any_moment_loses_nothing(steps: int) -> None:
    """Wherever on its way back a task is cancelled, it has the value, or the counter still has it."""
    outcomes = Outcomes()
    with EventFD() as event:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcomes.of, event.aread)
            await anyio.wait_all_tasks_blocked()
            event.write(5)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert outcomes == [5] or (outcomes == [] and event.try_read() == 5)


async def test_an_await_that_was_cancelled_before_takes_nothing() -> None:
    """In a scope that is cancelled already, aread() is cancelled, though there is a value."""
    with EventFD(5) as event:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await event.aread()
        assert scope.cancelled_caught
        assert event.try_read() == 5


async def test_a_timeout_of_the_event_loop_takes_nothing() -> None:
    """move_on_after() is the timeout of an aread(), and leaves the counter as it is."""
    with EventFD() as event:
        with anyio.move_on_after(0.01) as scope:
            await event.aread()
        assert scope.cancelled_caught
        event.write(5)
        assert await event.aread() == 5


async def test_two_tasks_can_await_at_once() -> None:
    """Each of two waiting tasks gets a value, whoever comes first."""
    outcomes = Outcomes()
    with EventFD() as event:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(outcomes.of, event.aread)
            await anyio.wait_all_tasks_blocked()
            event.write(5)
            while len(outcomes) < 1:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            event.write(6)
    assert outcomes == [5, 6]


async def test_a_task_and_a_thread_can_wait_at_once() -> None:
    """A blocking reader and an awaiting one each get a value."""
    outcomes = Outcomes()
    with EventFD() as event:
        reader = start(event.read)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcomes.of, event.aread)
            await anyio.wait_all_tasks_blocked()
            wait_for_waiters(event, 2)
            event.write(5)
            while not (outcomes or reader.done()):
                await anyio.lowlevel.checkpoint()
            event.write(6)
        assert {*outcomes, reader.result(SOON)} == {5, 6}


async def test_closing_from_another_task_wakes() -> None:
    """Tasks that await get ClosedError as soon as another task closes the EventFD."""
    outcomes = Outcomes()
    event = EventFD()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(outcomes.of, event.aread)
        await anyio.wait_all_tasks_blocked()
        event.close()
    assert outcomes == [ClosedError, ClosedError]


async def test_closing_from_a_thread_wakes() -> None:
    """A task that awaits gets ClosedError as soon as another thread closes the EventFD."""
    event = EventFD()
    closer = when_waited_for(event, event.close)
    with pytest.raises(ClosedError, match="this EventFD is closed"):
        await event.aread()
    closer.result(SOON)


async def test_awaiting_a_closed_one_is_an_error() -> None:
    """aread() after close() raises ClosedError at once."""
    event = EventFD(5)
    event.close()
    with pytest.raises(ClosedError, match="this EventFD is closed"):
        await event.aread()


async def test_closing_wins_over_a_value() -> None:
    """A task that was closed upon has taken the value, or gets ClosedError; it does not wait on."""
    outcomes = Outcomes()
    event = EventFD()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcomes.of, event.aread)
        await anyio.wait_all_tasks_blocked()
        event.write(5)
        event.close()
    assert outcomes == [ClosedError]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": True})], ids=["asyncio-debug"])
async def test_debug_mode_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    """In asyncio's debug mode, waiting, being woken and being cancelled is not told to be slow, or misused."""
    loop = asyncio.get_running_loop()
    assert loop.get_debug()
    loop.slow_callback_duration = 1  # a busy machine is slow too; an aread() that blocked would take SOON
    alive = threading.Event()
    with caplog.at_level(logging.DEBUG, "asyncio"), EventFD() as event:

        def write_when_alive() -> None:
            alive.wait(SOON)
            event.write(5)

        writer = start(write_when_alive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(event.aread)
            await anyio.wait_all_tasks_blocked()
            alive.set()
        writer.result(SOON)
        with anyio.move_on_after(0.01):
            await event.aread()
    assert [record.getMessage() for record in caplog.records] == []


async def test_two_event_loops_can_await_at_once() -> None:
    """Tasks in the loops of two threads each get a value of the same counter."""
    outcomes = Outcomes()
    with EventFD() as event:
        other = start(asyncio.run, event.aread())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcomes.of, event.aread)
            await anyio.wait_all_tasks_blocked()
            wait_for_waiters(event, 2)
            event.write(5)
            while not (outcomes or other.done()):
                await anyio.lowlevel.checkpoint()
            event.write(6)
        assert {*outcomes, other.result(SOON)} == {5, 6}


def test_without_file_descriptors_the_error_says_so() -> None:
    """Where RLIMIT_NOFILE is reached, aread() raises TooManyOpenFilesError, and works when there is room again."""
    run_python(
        """
        import asyncio, os, resource, anyio, memcg

        async def main():
            event = memcg.EventFD(5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            try:
                await event.aread()
            except memcg.TooManyOpenFilesError:
                pass
            else:
                raise SystemExit("no error")
            for fd in taken:
                os.close(fd)
            assert await event.aread() == 5
            event.close()

        asyncio.run(main())
        """
    )
