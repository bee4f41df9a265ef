"""Subscriptions on event loops: asyncio and trio."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import PidFD
from support.events import assert_told_as_counted, counted_ooms, kills, kinds, origins
from support.pace import at_most
from support.processes import HOG, Worker, finish, finished, start_hog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Event, Subscription

BOTH = [memcg.OomEvent, memcg.KernelKill]


@pytest.fixture
def events(group: memcg.Cgroup) -> Iterator[Subscription]:
    """A subscription to the group."""
    with group.oom.subscribe() as events:
        yield events


@pytest.fixture
def worker(group: memcg.Cgroup) -> Iterator[Worker]:
    """A process in the group."""
    with Worker(group) as worker:
        yield worker


async def take(events: Subscription, told: list[Event]) -> None:
    """Appends all events to *told*, until the loop ends."""
    told.extend([event async for event in events])


@pytest.mark.anyio
async def test_an_async_loop(group: memcg.Cgroup, events: Subscription) -> None:
    """async for gives the events while other tasks run."""
    told = []
    async with anyio.create_task_group() as tasks:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.001)
                ticks += 1

        tasks.start_soon(tick)
        hog = start_hog(group, 64)
        async for event in events:
            told.append(event)
            if isinstance(event, memcg.KernelKill):
                break
        tasks.cancel_scope.cancel()
    assert kinds(told) == BOTH
    assert ticks > 0
    assert finish(hog) == -9


@pytest.mark.anyio
async def test_next(events: Subscription, worker: Worker) -> None:
    """next() awaits one event, whether it is there already or comes later."""
    worker.order("hogs 1 64")
    with anyio.fail_after(30):
        assert kinds([await events.next(), await events.next()]) == BOTH
    assert worker.answer() == "-9"


@pytest.mark.anyio
async def test_next_lets_others_run_where_an_event_waits(events: Subscription, worker: Worker) -> None:
    """An await that has nothing to wait for still gives way once."""
    assert worker.do("hogs 1 64") == "-9"
    with anyio.fail_after(30):
        assert isinstance(await events.next(), memcg.OomEvent)
        ran = []

        async def run() -> None:
            ran.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            assert isinstance(await events.next(), memcg.KernelKill)
        assert ran


@pytest.mark.anyio
async def test_leaving_an_async_loop_loses_nothing(events: Subscription, worker: Worker) -> None:
    """A loop that is left and one that follows, in either style, share one position."""
    told: list[Event] = []
    assert worker.do("hogs 1 64") == "-9"
    with anyio.fail_after(30):
        for _ in BOTH:
            async for event in events:
                told.append(event)
                break
    assert kinds(told) == BOTH
    assert events.wait(0) is None


@pytest.mark.anyio
async def test_cancelling_loses_nothing(events: Subscription, worker: Worker) -> None:
    """A wait that is cancelled, before or after there was something, leaves it for the next one."""
    with anyio.move_on_after(0.01) as scope:
        await events.next()
    assert scope.cancelled_caught
    assert worker.do("hogs 1 64") == "-9"
    told: list[Event] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        told.append(await events.next())
    with anyio.fail_after(30):
        while len(told) < 2:
            told.append(await events.next())
    assert kinds(told) == BOTH


@pytest.mark.anyio
async def test_cancelling_again_and_again_loses_nothing(
    group: memcg.Cgroup, events: Subscription, worker: Worker
) -> None:
    """Waits given up at every possible moment still give each of ten OOMs, and each kill once."""
    told: list[Event] = []
    with counted_ooms(group) as count, anyio.fail_after(at_most(60)):
        for number in range(1, 11):
            worker.order("hogs 1 64")
            while kills(told) < number:
                event = None
                with anyio.move_on_after(at_most(0.0005)):
                    event = await events.next()
                if event is not None:
                    told.append(event)
            assert worker.answer() == "-9"
            assert len(origins(told)) >= number
        told += events.until(finished(worker))
        assert_told_as_counted(told, count)
    assert kills(told) == group.oom.kills == 10


@pytest.mark.anyio
async def test_a_second_waiter_is_refused(events: Subscription, worker: Worker) -> None:
    """While one task waits, another gets BusyError, and so does wait(); the first gets the event."""
    told: list[Event] = []

    async def wait() -> None:
        told.append(await events.next())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(memcg.BusyError, match="another thread or task"):
            await events.next()
        with pytest.raises(memcg.BusyError, match="another thread or task"):
            events.wait(0)
        assert worker.do("hogs 1 64") == "-9"
    assert kinds(told) == [memcg.OomEvent]


@pytest.mark.anyio
async def test_closing_ends_an_async_loop_quietly(events: Subscription) -> None:
    """close() by another task, or by a thread, ends an async loop without an error."""
    told: list[Event] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, events, told)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(events.close)
    assert told == []


@pytest.mark.anyio
async def test_closing_wakes_next(events: Subscription) -> None:
    """A task in next() gets ClosedError when another closes."""

    async def wait() -> None:
        with pytest.raises(memcg.ClosedError, match="this subscription is closed"):
            await events.next()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            events.close()


@pytest.mark.anyio
async def test_closing_inside_an_async_loop_ends_it(events: Subscription, worker: Worker) -> None:
    """close() in the body is the end."""
    assert worker.do("hogs 1 64") == "-9"
    told = []
    async for event in events:
        told.append(event)
        events.close()
    assert kinds(told) == [memcg.OomEvent]


@pytest.mark.anyio
async def test_use_after_close(group: memcg.Cgroup) -> None:
    """next() raises, a loop ends at once."""
    events = group.oom.subscribe()
    events.close()
    with pytest.raises(memcg.ClosedError, match="this subscription is closed"):
        await events.next()
    told: list[Event] = []
    await take(events, told)
    assert told == []


@pytest.mark.anyio
async def test_removal_ends_an_async_loop(group: memcg.Cgroup) -> None:
    """Removed is the last event; after that next() raises, and loops end at once."""
    child = group.create("child")
    with child.oom.subscribe() as events:
        told: list[Event] = []
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, events, told)
                await anyio.wait_all_tasks_blocked()
                child.remove()
        assert kinds(told) == [memcg.Removed]
        with pytest.raises(memcg.ClosedError, match="was removed"):
            await events.next()
        await take(events, told)
        assert len(told) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("named_by", ["Popen", "PID", "PidFD"])
async def test_until_in_an_async_loop(group: memcg.Cgroup, events: Subscription, named_by: str) -> None:
    """async for over until() gives all that a process caused, and ends with it."""
    hog = start_hog(group, 64)
    with PidFD(hog.pid) as process, anyio.fail_after(30):
        ways: dict[str, memcg.Process | PidFD | int] = {"Popen": hog, "PID": hog.pid, "PidFD": process}
        assert kinds([event async for event in events.until(ways[named_by])]) == BOTH
    assert finish(hog) == -9


@pytest.mark.anyio
async def test_until_a_process_that_was_waited_for(group: memcg.Cgroup, events: Subscription) -> None:
    """An exited process is no reason to wait: what it caused is given, and the loop ends."""
    hog = start_hog(group, 64)
    assert finish(hog) == -9
    with anyio.fail_after(30):
        for expected in (BOTH, []):
            assert kinds([event async for event in events.until(hog)]) == expected


@pytest.mark.anyio
async def test_until_left_early_or_cancelled(events: Subscription, worker: Worker) -> None:
    """Leaving the loop by break or by cancellation loses nothing, and later loops go on."""
    with anyio.fail_after(30):
        for _ in range(2):
            worker.order("hogs 1 64")
            for kind in BOTH:
                async for event in events.until(worker.process):
                    assert isinstance(event, kind)
                    break
            assert worker.answer() == "-9"
            with anyio.move_on_after(0.05) as scope:
                async for event in events.until(worker.process):
                    assert isinstance(event, memcg.OomEvent), "the kill was told already"
            assert scope.cancelled_caught
        worker.process.kill()
        assert kills([event async for event in events.until(worker.process)]) == 0


@pytest.mark.anyio
async def test_many_subscriptions_on_one_loop(nursery: memcg.Cgroup) -> None:
    """Tasks that each listen to a group of their own do not disturb one another."""

    async def listen(number: int) -> None:
        with memcg.temporary(parent=nursery, limit="16M") as group, group.oom.subscribe() as events:
            hog = start_hog(group, 24 + number)
            told = [event async for event in events.until(hog)]
            assert kinds(told) == BOTH
            assert origins(told) == [group]
            assert {event.cgroup for event in told} == {group}
            assert finish(hog) == -9
        heard.append(number)

    heard: list[int] = []
    with anyio.fail_after(at_most(60)):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(listen, number)
    assert sorted(heard) == list(range(6))


# What only asyncio has.


def test_add_reader(events: Subscription, worker: Worker) -> None:
    """A loop that knows nothing of memcg can carry the file: add_reader(), and wait(0) until that is None."""

    async def main() -> list[Event]:
        told: list[Event] = []
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def read() -> None:
            while (event := events.wait(0)) is not None:
                told.append(event)
                if isinstance(event, memcg.KernelKill):
                    done.set()

        loop.add_reader(events, read)
        worker.order("hogs 1 64")
        await asyncio.wait_for(done.wait(), 30)
        loop.remove_reader(events)
        return told

    assert kinds(asyncio.run(main())) == BOTH
    assert worker.answer() == "-9"


def test_until_an_asyncio_process(group: memcg.Cgroup, events: Subscription) -> None:
    """until() takes the Process of asyncio, which its loop waits for on its own."""

    async def main() -> list[Event]:
        hog = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(HOG), "64", "wait", stdin=asyncio.subprocess.PIPE
        )
        assert hog.stdin is not None
        group.add(hog.pid)
        hog.stdin.close()
        told = [event async for event in events.until(hog)]
        assert await hog.wait() == -9
        told += [event async for event in events.until(hog)]
        return told

    assert kinds(asyncio.run(main())) == BOTH


def test_tasks_of_asyncio_that_are_cancelled(events: Subscription, worker: Worker) -> None:
    """asyncio's own cancellation, by wait_for() and by Task.cancel(), loses nothing either."""

    async def main() -> None:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(events.next(), 0.01)
        waiting = asyncio.ensure_future(events.next())
        await asyncio.sleep(0)
        assert worker.do("hogs 1 64") == "-9"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert isinstance(await asyncio.wait_for(events.next(), 30), memcg.OomEvent)
        assert isinstance(await asyncio.wait_for(events.next(), 30), memcg.KernelKill)

    asyncio.run(main())


def test_one_subscription_on_several_loops_one_after_another(events: Subscription, worker: Worker) -> None:
    """A subscription is tied to no loop."""
    assert worker.do("hogs 1 64") == "-9"
    for expected in BOTH:
        assert isinstance(asyncio.run(asyncio.wait_for(events.next(), 30)), expected)
