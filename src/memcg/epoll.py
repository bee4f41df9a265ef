"""Waiting: the one place where memcg blocks, or awaits.

Whatever waits does so on an `Epoll`: an epoll file is itself a file that any event loop can watch, and one that
can be woken from any thread, by adding a file to it that is always readable.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, final

from .errors import BusyError, ClosedError, kernel_errors
from .fd import OwnedFd, bookkeeping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .units import Deadline

READABLE = select.EPOLLIN
WRITABLE_AGAIN = select.EPOLLOUT | select.EPOLLET

_bell = -1


def _always_readable() -> int:
    """The file that wakes waiters, opened with the first `Epoll`: closing must not fail for want of a number."""
    global _bell
    with bookkeeping:
        if _bell == -1:
            _bell = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return _bell


@final
class Epoll(OwnedFd):
    """An epoll(7) file whose waiters, in any thread or event loop, are woken when it is closed.

    Args:
        owner: What the waiters know it as, for the messages.
    """

    def __init__(self, owner: str) -> None:
        with kernel_errors("create an epoll file", "epoll"):
            _always_readable()
            self._epoll = select.epoll()
        super().__init__(self._epoll.fileno())
        self._owner = owner

    def add(self, fd: int, events: int = READABLE) -> None:
        """Waits for *fd* too, from now on."""
        with kernel_errors("wait for a file descriptor", "epoll"):
            self._epoll.register(fd, events)

    @contextlib.contextmanager
    def also(self, file: OwnedFd) -> Iterator[None]:
        """Waits for *file* too, within the body."""
        fd = file.pin()
        try:
            self.add(fd)
            try:
                yield
            finally:
                with contextlib.suppress(ClosedError):
                    self._remove(fd)
        finally:
            file.unpin()

    def _remove(self, fd: int) -> None:
        self.pin()
        try:
            self._epoll.unregister(fd)
        finally:
            self.unpin()

    def wait(self, deadline: Deadline) -> list[int]:
        """Blocks until files are ready, and returns them; an empty list when the time is up.

        Python's signal handlers run meanwhile, and the wait goes on after them (PEP 475).

        Raises:
            ClosedError: this Epoll was closed, before or meanwhile.
        """
        self.pin()
        try:
            ready = self._epoll.poll(_at_most_a_day(deadline), 16)
            while not ready and not self.closed and not deadline.expired:
                ready = self._epoll.poll(_at_most_a_day(deadline), 16)
        finally:
            self.unpin()
        if self.closed:
            raise self._closed_error()
        return [fd for fd, _ in ready]

    async def wait_async(self) -> list[int]:
        """As `wait` without a deadline, on the running asyncio or trio event loop.

        Raises:
            ClosedError: this Epoll was closed, before or meanwhile.
            BusyError: another task waits on it.
        """
        import anyio  # the only place, and late: most programs never await

        fd = self.pin()
        try:
            await anyio.wait_readable(fd)
            ready = self._epoll.poll(0, 16)
        except anyio.BusyResourceError as error:
            raise BusyError("another task is waiting here already") from error
        finally:
            self.unpin()
        if self.closed:
            raise self._closed_error()
        return [fd for fd, _ in ready]

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this {self._owner} is closed")

    def _wake(self) -> None:
        self._epoll.register(_bell, READABLE)

    def _destroy(self, fd: int) -> None:
        self._epoll.close()


def _at_most_a_day(deadline: Deadline) -> float | None:
    """The seconds left, as far as epoll_wait(2) can count them: in an int of milliseconds."""
    remaining = deadline.remaining()
    return None if remaining is None else min(remaining, 86_400)


async def checkpoint() -> None:
    """Lets the event loop run others, for an await that has nothing to wait for."""
    import anyio.lowlevel

    await anyio.lowlevel.checkpoint()
