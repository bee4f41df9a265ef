"""A subscription as an object: waiting, iterating, closing; from several threads, after a fork, with signals."""

from __future__ import annotations

import os
import resource
import select
import selectors
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.events import assert_told_as_counted, counted_ooms, hogged, kills, kinds, next_kill, origins, take_all
from support.forked import in_child
from support.processes import Worker, finish, sleeps_in, start_hog, start_waiting, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcg import Event, Subscription


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


def oom(worker: Worker) -> None:
    """Causes one OOM and one kill."""
    assert worker.do("hogs 1 64") == "-9"


# Waiting.


def test_wait_without_waiting(events: Subscription, worker: Worker) -> None:
    """wait(0) gives what is there, and None where there is nothing."""
    assert events.wait(0) is None
    oom(worker)
    assert isinstance(events.wait(0), memcg.OomEvent)


def test_wait_gives_none_only_when_the_time_is_up(group: memcg.Cgroup, events: Subscription) -> None:
    """Wake-ups that come to nothing, such as for a group beside or below that goes, do not end the wait early."""
    parent = group.parent
    assert parent is not None
    stays = group.create("stays")
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, lambda: events.wait(60))
        for above in (group, parent):
            above.create("child").remove()
        assert not waiting.done()
        hog = start_hog(stays, 64)
        assert isinstance(waiting.result(timeout=30), memcg.OomEvent)
        assert finish(hog) == -9


def test_looking_often_does_not_make_it_miss_a_kill(events: Subscription, worker: Worker) -> None:
    """The kernel counts a kill late: who calls wait(0) in between, however often, is told of it all the same."""
    for _ in range(30):
        worker.order("hogs 1 64")
        assert isinstance(events.wait(30), memcg.OomEvent)
        told = [event for event in (events.wait(0) for _ in range(20)) if event]
        while not kills(told):
            assert select.select([events], [], [], 30)[0], "nothing announces the kill"
            told += take_all(events)
        assert worker.answer() == "-9"
        assert kills(told) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_timeout_that_is_none(events: Subscription, timeout: float) -> None:
    """What is no duration is refused, and the subscription is none the worse."""
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError), match="timeout"):
        events.wait(timeout)
    assert events.wait(0) is None


@pytest.mark.parametrize("timeout", [3e6, 1e10, float("inf")])
def test_a_very_long_timeout(events: Subscription, worker: Worker, timeout: float) -> None:
    """A month, and what is longer than any clock can tell, wait like wait()."""
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, lambda: events.wait(timeout))
        oom(worker)
        assert isinstance(waiting.result(timeout=30), memcg.OomEvent)


# Iterating.


def test_leaving_a_loop_and_coming_back_loses_nothing(events: Subscription, worker: Worker) -> None:
    """What came while nobody was in a loop is given in the next one, or by wait()."""
    oom(worker)
    for event in events:
        assert isinstance(event, memcg.OomEvent)
        break
    assert isinstance(events.wait(30), memcg.KernelKill)
    oom(worker)
    assert isinstance(next(events), memcg.OomEvent)
    told = []
    for event in events:
        told.append(event)
        if isinstance(event, memcg.KernelKill):
            break
    assert kills(told) == 1


def test_a_subscription_is_its_own_iterator(events: Subscription) -> None:
    """iter() and aiter() give the subscription itself, so loops share one position."""
    assert iter(events) is events
    assert aiter(events) is events


# Closing.


def test_closing_in_another_thread_ends_a_loop_quietly(events: Subscription) -> None:
    """A thread in a for loop sees it end, without an error."""
    with ThreadPoolExecutor(1) as pool, events:
        looping = start_waiting(pool, lambda: list(events))
        events.close()
        assert looping.result(timeout=30) == []


def test_closing_in_another_thread_wakes_wait(events: Subscription) -> None:
    """A thread in wait() gets ClosedError at once."""
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, events.wait)
        events.close()
        with pytest.raises(memcg.ClosedError, match="this subscription is closed"):
            waiting.result(timeout=30)


def test_closing_inside_the_loop_ends_it(events: Subscription, worker: Worker) -> None:
    """close() in the body is the end, also where more had come; what nobody took is dropped."""
    oom(worker)
    told = []
    for event in events:
        told.append(event)
        events.close()
    assert kinds(told) == [memcg.OomEvent]


def test_use_after_close(group: memcg.Cgroup) -> None:
    """Every use of a closed subscription says that it is closed; loops end at once, closing again does nothing."""
    events = group.oom.subscribe()
    assert not events.closed
    events.close()
    events.close()
    assert events.closed
    assert list(events) == []
    for use in (events.wait, lambda: events.wait(0), events.fileno, lambda: events.until(os.getpid())):
        with pytest.raises(memcg.ClosedError, match="this subscription is closed"):
            use()


def test_the_with_statement_closes(group: memcg.Cgroup) -> None:
    """Leaving the with block closes, also by an error."""
    with pytest.raises(ZeroDivisionError):
        with group.oom.subscribe() as events:
            raise ZeroDivisionError
    assert events.closed


def test_a_forgotten_subscription_warns(group: memcg.Cgroup) -> None:
    """One that is dropped without close() gives a ResourceWarning, and its files are closed all the same."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match="unclosed <memcg.Subscription armed"):
        group.oom.subscribe()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_repr_says_what_and_how(group: memcg.Cgroup) -> None:
    """repr() names the group, and whether the subscription is armed, over or closed."""
    child = group.create("child")
    events = child.oom.subscribe()
    assert repr(events) == f"<memcg.Subscription armed {child.cgroup_path!r}>"
    child.remove()
    assert isinstance(events.wait(30), memcg.Removed)
    assert repr(events) == f"<memcg.Subscription over {child.cgroup_path!r}>"
    events.close()
    assert repr(events) == f"<memcg.Subscription closed {child.cgroup_path!r}>"


# Several threads.


def test_a_second_waiter_is_refused(events: Subscription, worker: Worker) -> None:
    """While one thread waits, another gets BusyError, and the first gets the event."""
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, events.wait)
        uses: list[Callable[[], object]] = [events.wait, lambda: events.wait(0), lambda: next(events)]
        for use in uses:
            with pytest.raises(memcg.BusyError, match="another thread or task"):
                use()
        oom(worker)
        assert isinstance(waiting.result(timeout=30), memcg.OomEvent)
        assert isinstance(events.wait(30), memcg.KernelKill)


def test_threads_that_take_turns_get_each_event_once(
    group: memcg.Cgroup, events: Subscription, worker: Worker
) -> None:
    """Whichever of several threads waits, no event is given twice, and none is lost."""
    told: list[Event] = []

    def take() -> None:
        while True:
            try:
                told.append(next(events))
            except memcg.BusyError:
                os.sched_yield()
            except StopIteration:
                return

    with ThreadPoolExecutor(3) as pool, counted_ooms(group) as count, events:
        for _ in range(3):
            pool.submit(take)
        for number in range(1, 21):
            oom(worker)
            wait_until(lambda: kills(told) == group.oom.kills, "the kill is taken")
            assert group.oom.kills == number
            assert len(origins(told)) >= number
        assert_told_as_counted(told, count)


# Signals.


@contextmanager
def handling(number: int, handler: object) -> Iterator[None]:
    """Has Python call *handler* on a signal, within the body."""
    former = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, former)


def signal_main_thread_and_then(worker: Worker, handled: list[int] | None = None) -> None:
    """Waits until the main thread waits, signals it, and, once it has *handled* that, causes an OOM."""
    wait_until(lambda: sleeps_in(f"/proc/self/task/{os.getpid()}", "poll"), "the main thread waits")
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    if handled is not None:
        wait_until(lambda: bool(handled), "the handler has run")
        oom(worker)


def test_signal_handlers_run_during_a_wait_which_goes_on(events: Subscription, worker: Worker) -> None:
    """A Python handler runs at once, in the middle of wait(), which then still gives the event."""
    handled: list[int] = []
    with handling(signal.SIGUSR1, lambda number, frame: handled.append(number)), ThreadPoolExecutor(1) as pool:
        signalling = pool.submit(signal_main_thread_and_then, worker, handled)
        assert isinstance(events.wait(60), memcg.OomEvent)
        signalling.result(timeout=30)
    assert handled == [signal.SIGUSR1]


def test_an_error_of_a_signal_handler_ends_the_wait_and_nothing_else(events: Subscription, worker: Worker) -> None:
    """What a handler raises, such as KeyboardInterrupt, comes out of wait(); the subscription goes on."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with handling(signal.SIGUSR1, interrupt), ThreadPoolExecutor(1) as pool:
        signalling = pool.submit(signal_main_thread_and_then, worker)
        with pytest.raises(KeyboardInterrupt):
            events.wait(60)
        signalling.result(timeout=30)
    oom(worker)
    assert isinstance(events.wait(30), memcg.OomEvent)


# Forks.


def test_a_forked_child_cannot_use_it_and_does_no_harm(events: Subscription, worker: Worker) -> None:
    """In a child every use raises ClosedError, and closing there changes nothing for the parent."""

    def use() -> None:
        assert not events.closed
        for each in (events.wait, lambda: events.wait(0), lambda: list(events), events.fileno):
            with pytest.raises(memcg.ClosedError, match="forked from"):
                each()
        with pytest.raises(memcg.ClosedError, match="forked from"):
            events.until(os.getpid())
        events.close()

    in_child(use)
    assert events.wait(0) is None
    oom(worker)
    assert isinstance(events.wait(30), memcg.OomEvent)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_a_thread_waits(group: memcg.Cgroup, events: Subscription, worker: Worker) -> None:
    """A child of a process whose thread waits can subscribe anew; the thread goes on waiting."""
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, events.wait)

        def subscribe_anew() -> bool:
            with group.oom.subscribe() as own:
                return own.wait(0) is None

        assert in_child(subscribe_anew)
        assert not waiting.done()
        oom(worker)
        assert isinstance(waiting.result(timeout=30), memcg.OomEvent)


# Carried by others.


def test_the_file_is_readable_when_there_is_an_event(events: Subscription, worker: Worker) -> None:
    """fileno() works in select, poll and epoll alike: readable exactly when wait(0) has something."""
    poll = select.poll()
    poll.register(events, select.POLLIN)
    with selectors.DefaultSelector() as selector, select.epoll() as epoll:
        selector.register(events, selectors.EVENT_READ)
        epoll.register(events, select.EPOLLIN)
        assert events.wait(0) is None  # a new subscription looks around once
        assert not selector.select(0)
        assert not poll.poll(0)
        assert not epoll.poll(0)
        oom(worker)
        assert selector.select(30)
        assert poll.poll(30_000)
        assert epoll.poll(30)
        assert select.select([events], [], [], 30)[0] == [events]
        told: list[Event] = []
        while not told or not isinstance(told[-1], memcg.KernelKill):
            # Also the kill, which the kernel does not notify of, makes the file readable.
            assert selector.select(30)
            while (event := events.wait(0)) is not None:
                told.append(event)
        assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]


def test_the_file_tells_of_a_removal(group: memcg.Cgroup) -> None:
    """A loop that carries the file hears of the removal as well."""
    child = group.create("child")
    with child.oom.subscribe() as events, selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        child.remove()
        while True:
            assert selector.select(30)
            event = events.wait(0)
            if event is not None:
                break
        assert isinstance(event, memcg.Removed)


# What it takes.


def descriptors() -> set[int]:
    """The open file descriptors."""
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {int(name) for name in os.listdir(listing)} - {listing}
    finally:
        os.close(listing)


@contextmanager
def only(free: int) -> Iterator[None]:
    """Leaves that many file descriptors to this process, within the body."""
    taken = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = 0
    while free or top in taken:
        free -= top not in taken
        top += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_file_descriptors_subscribing_fails_and_leaves_nothing(group: memcg.Cgroup) -> None:
    """However few are left, the error is TooManyOpenFilesError with a remedy, and nothing stays open."""
    group.oom.subscribe().close()  # what is opened once and for all
    before = descriptors()
    for free in range(40):
        with only(free):
            try:
                events = group.oom.subscribe()
            except memcg.TooManyOpenFilesError as caught:
                error = caught
            else:
                break
        assert "RLIMIT_NOFILE" in str(error)
        assert descriptors() == before, free
    with events:
        # Its own, and those that are open only on the way.
        assert len(descriptors() - before) <= free
        assert free >= 6
        assert kinds(hogged(group, 64, events)) == [memcg.OomEvent, memcg.KernelKill]
    assert descriptors() == before


def test_a_subscription_in_use_needs_no_more_file_descriptors(events: Subscription, worker: Worker) -> None:
    """Once made, it waits and tells of an OOM and its kill though not one file descriptor is left."""
    worker.order("hogs 1 64")
    with only(0):
        told = next_kill(events)
    assert worker.answer() == "-9"
    assert isinstance(told[0], memcg.OomEvent)
    assert kills(told) == 1


def test_kills_below_are_told_once_there_are_file_descriptors_again(group_v1: memcg.CgroupV1) -> None:
    """Counting the kills in groups below takes files: where none can be opened, it is put off, not dropped."""
    group = group_v1
    child = group.create("child", limit=8 * MiB)
    with group.oom.subscribe() as events, Worker(child) as worker:
        assert events.wait(0) is None
        oom(worker)
        with only(0):
            assert events.wait(0.05) is None
        event = events.wait(30)
        assert isinstance(event, memcg.KernelKill)
        assert event.count == 1
