"""EventFD: blocking while signals arrive."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from memcg import ClosedError, EventFD, WaitTimeoutError
from support.processes import wait_until
from unit.helpers import SOON, start, wait_for_waiters, when_waited_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

FULL = EventFD.MAX_VALUE


@pytest.fixture
def event() -> Iterator[EventFD]:
    """A counter of 0."""
    with EventFD() as event:
        yield event


@pytest.fixture
def full() -> Iterator[EventFD]:
    """A counter that takes no more."""
    with EventFD() as event:
        event.write(FULL)
        yield event


class HandlerError(Exception):
    """Raised by a signal handler."""


@contextlib.contextmanager
def handler(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles SIGUSR1 within the body."""
    former = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, former)


def interrupt() -> None:
    """Sends SIGUSR1 to the main thread, where Python's handlers run."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def test_a_read_goes_on_after_a_signal_handler(event: EventFD) -> None:
    """Signals that arrive while a read blocks are handled, and the read waits on for its value."""
    handled: list[int] = []

    def disturb_then_write() -> None:
        wait_for_waiters(event)
        for count in range(1, 4):
            interrupt()
            wait_until(lambda count=count: len(handled) == count, "it is handled", SOON)  # type: ignore[misc]
        event.write(5)

    with handler(lambda number, frame: handled.append(number)):
        disturbing = start(disturb_then_write)
        assert event.read() == 5
        disturbing.result(SOON)
    assert len(handled) == 3


def test_a_write_goes_on_after_a_signal_handler(full: EventFD) -> None:
    """Signals that arrive while a write blocks are handled, and the value is added once there is room."""
    handled: list[int] = []

    def disturb_then_read() -> int:
        wait_for_waiters(full)
        interrupt()
        wait_until(lambda: bool(handled), "it is handled", SOON)
        return full.read()

    with handler(lambda number, frame: handled.append(number)):
        disturbing = start(disturb_then_read)
        full.write(5)
        assert disturbing.result(SOON) == FULL
    assert full.read() == 5


def test_a_handler_that_raises_ends_the_read_and_loses_nothing(event: EventFD) -> None:
    """The handler's exception comes out of read(), and what is written later is there for the next read."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise HandlerError

    with handler(fail):
        disturbing = when_waited_for(event, interrupt)
        with pytest.raises(HandlerError):
            event.read()
        disturbing.result(SOON)
    assert not event._waits
    event.write(5)
    assert event.read(0) == 5


def test_a_handler_that_raises_ends_the_write_and_adds_nothing(full: EventFD) -> None:
    """The handler's exception comes out of write(), and the value was not added."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise HandlerError

    with handler(fail):
        disturbing = when_waited_for(full, interrupt)
        with pytest.raises(HandlerError):
            full.write(5)
        disturbing.result(SOON)
    assert full.read() == FULL
    assert full.try_read() is None


def test_a_handler_may_write_what_its_thread_waits_for(event: EventFD) -> None:
    """A signal handler that writes to the EventFD that its own thread reads ends that read."""
    with handler(lambda number, frame: event.write(5)):
        disturbing = when_waited_for(event, interrupt)
        assert event.read() == 5
        disturbing.result(SOON)


def test_a_handler_may_close_what_its_thread_waits_for() -> None:
    """A signal handler that closes the EventFD that its own thread reads ends that read with ClosedError."""
    event = EventFD()
    with handler(lambda number, frame: event.close()):
        disturbing = when_waited_for(event, interrupt)
        with pytest.raises(ClosedError):
            event.read()
        disturbing.result(SOON)


def test_signals_do_not_lengthen_a_timeout(event: EventFD) -> None:
    """However many signals arrive, a read with a timeout gives up when the time is up."""
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.002):
            interrupt()

    with handler(lambda number, frame: None):
        disturbing = start(disturb)
        try:
            with pytest.raises(WaitTimeoutError):
                event.read(0.1)
        finally:
            done.set()
            disturbing.result(SOON)
