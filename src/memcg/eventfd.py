"""eventfd(2): a 64-bit counter in the kernel, behind a file descriptor."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, final

from .epoll import READABLE, WRITABLE_AGAIN, Epoll
from .errors import WaitTimeoutError, kernel_errors
from .fd import OwnedFd, bookkeeping
from .units import Deadline, check_int

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_INITIAL = 2**32 - 1


@final
class EventFD(OwnedFd):
    """A counter that threads, processes and the kernel add to, and that a reader waits for.

    `read` takes the whole counter and leaves 0, or takes 1 with ``semaphore=True``. It is close-on-exec and
    non-blocking underneath; blocking is done by epoll, with a deadline, and signals do not break it
    (``os.eventfd_read`` raises InterruptedError there). Any thread or task may read, write or close at any time.
    After a fork, parent and child share the counter. Pass it to select, poll, epoll or selectors as it is: it is
    readable when the counter is above 0, writable when at least 1 can be added.

    ::

        with EventFD() as event:
            event.write(3)
            event.read()        # 3
            event.try_read()    # None

    Args:
        initial: What the counter starts with, from 0 to 2**32 - 1.
        semaphore: Let each read take 1 instead of everything (Linux 2.6.30).

    Raises:
        InvalidValueError: *initial* is out of range.
        TooManyOpenFilesError: no file descriptor is left.

    See eventfd(2), man-pages 6.
    """

    MAX_VALUE = 2**64 - 2
    """The largest value of the counter (eventfd(2))."""

    def __init__(self, initial: int = 0, *, semaphore: bool = False) -> None:
        check_int(initial, "initial", 0, _MAX_INITIAL, "0 to 2**32 - 1 (write() larger values)")
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK | (os.EFD_SEMAPHORE if semaphore else 0)
        with kernel_errors("create an eventfd", "eventfd"):
            super().__init__(os.eventfd(initial, flags))
        self.semaphore: bool = bool(semaphore)
        self._waits: set[Epoll] = set()

    def try_read(self) -> int | None:
        """The counter, as `read` takes it, or None where it is 0; never blocks.

        The kernel's own signals can bring the counter to 2**64 - 1, one more than `write` can.

        Raises:
            ClosedError: after ``close``.
        """
        fd = self.pin()
        try:
            return int.from_bytes(os.read(fd, 8), sys.byteorder)
        except BlockingIOError:
            return None
        finally:
            self.unpin()

    def read(self, timeout: float | None = None) -> int:
        """Waits until the counter is above 0, takes it, and returns what was taken.

        Args:
            timeout: Seconds to wait at most; 0 does not wait, None waits for ever.

        Raises:
            WaitTimeoutError: the time is up, and the counter still 0.
            ClosedError: closed, before or while waiting.
        """
        deadline = Deadline(timeout)
        if (value := self.try_read()) is not None:
            return value
        if timeout != 0:  # which must not need a file descriptor
            with self._waiting(READABLE) as epoll:
                while epoll.wait(deadline):
                    if (value := self.try_read()) is not None:
                        return value
        raise WaitTimeoutError(f"nothing was written within {timeout} s")

    async def aread(self) -> int:
        """As `read`, on the running asyncio or trio event loop. Cancelling it takes nothing from the counter.

        Raises:
            ClosedError: closed, before or while waiting.
        """
        with self._waiting(READABLE) as epoll:
            while True:
                await (
                    epoll.wait_async()
                )  # also where there is a value: an await that never yields starves the loop
                if (value := self.try_read()) is not None:
                    return value

    def write(self, value: int = 1, timeout: float | None = None) -> None:
        """Adds *value* to the counter, waiting while that would take it above ``MAX_VALUE``.

        Args:
            value: From 0, which wakes no one, to ``MAX_VALUE``.
            timeout: Seconds to wait at most; 0 does not wait, None waits for ever.

        Raises:
            InvalidValueError: *value* is out of range.
            WaitTimeoutError: the time is up, and nothing was added.
            ClosedError: closed, before or while waiting.
        """
        check_int(value, "value", 0, self.MAX_VALUE, "0 to 2**64 - 2")
        deadline = Deadline(timeout)
        if self._try_write(value):
            return
        if timeout != 0:
            # Edge-triggered: it counts as writable when 1 more fits, which may be too little for this value.
            with self._waiting(WRITABLE_AGAIN) as epoll:
                while not self._try_write(value):
                    if not epoll.wait(deadline):
                        break
                else:
                    return
        raise WaitTimeoutError(f"the counter had no room for {value} more within {timeout} s")

    def _try_write(self, value: int) -> bool:
        fd = self.pin()
        try:
            os.eventfd_write(fd, value)
        except BlockingIOError:
            return False
        finally:
            self.unpin()
        return True

    @contextlib.contextmanager
    def _waiting(self, events: int) -> Iterator[Epoll]:
        # Each wait has an Epoll of its own: any number of threads and tasks may wait, and no child shares it.
        fd = self.pin()
        try:
            with Epoll(type(self).__name__) as epoll:
                epoll.add(fd, events)
                with bookkeeping:
                    if self.closed:
                        raise self._closed_error()
                    self._waits.add(epoll)
                try:
                    yield epoll
                finally:
                    self._waits.discard(epoll)
        finally:
            self.unpin()

    def _wake(self) -> None:
        for epoll in list(self._waits):
            epoll.close()
