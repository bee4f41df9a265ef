"""Waiting: the one place where memcg blocks, or awaits.

Whatever waits does so on an `Epoll`: an epoll file is itself a file that any event loop can watch, and one that
can be woken from any thread, by adding a file to it that is always readable.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, final

from .errors import BusyError, ClosedError, kernel_errors
from .fd import OwnedFd, bookkeeping
from .units import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

READABLE = select.EPOLLIN
READABLE_ONCE = select.EPOLLIN | select.EPOLLET
WRITABLE_AGAIN = select.EPOLLOUT | select.EPOLLET

_bell = -1


def _always_readable() -> int:
    """The file that wakes waiters, opened with the first `Epoll`: closing must not fail for want of a number."""
    global _bell
    with bookkeeping:
        if _bell == -1:
            _bell = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return _bell


def stand_in() -> int:
    """A file that stays open as long as this process, to take the place of one that must not."""
    with kernel_errors("create an eventfd", "eventfd"):
        return _always_readable()


@final
class Epoll(OwnedFd):
    """An epoll(7) file whose waiters, in any thread or event loop, are woken when it is closed.

    Args:
        owner: What the waiters know it as, for the messages.
        after: What to do once it is really closed, and nobody waits or has it pinned.
    """

    def __init__(self, owner: str, after: Callable[[], None] = lambda: None) -> None:
        with kernel_errors("create an epoll file", "epoll"):
            _always_readable()
            self._epoll = select.epoll()
            # Muted until it is needed: closing must not fail for want of memory, either.
            self._epoll.register(_bell, 0)
        super().__init__(self._epoll.fileno())
        self._owner = owner
        self._after = after

    def add(self, fd: int, events: int = READABLE) -> None:
        """Waits for *fd* too, from now on."""
        hints = {errno.ENOSPC: "raise fs.epoll.max_user_watches"}
        with kernel_errors("wait for a file descriptor", "epoll", hints):
            self._epoll.register(fd, events)

    def wait(self, deadline: Deadline) -> list[int]:
        """Blocks until files are ready, and returns them; an empty list when the time is up.

        Python's signal handlers run meanwhile, and the wait goes on after them (PEP 475).

        Raises:
            ClosedError: this Epoll was closed, before or meanwhile.
        """
        self.pin()
        try:
            return self.wait_pinned(deadline)
        finally:
            self.unpin()

    def wait_pinned(self, deadline: Deadline) -> list[int]:
        """As `wait`, for one who has it pinned for longer."""
        while True:
            remaining = deadline.remaining()
            # epoll_wait(2) counts in an int of milliseconds, some 24 days.
            ready = self._epoll.poll(None if remaining is None else min(remaining, 86_400), 16)
            if self._fd == -1:
                raise self._closed_error()
            if len(ready) == 1:  # the usual case, and its handler waits
                return [ready[0][0]]
            if ready or deadline.expired:
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
            return self.wait_pinned(Deadline(0))
        except anyio.BusyResourceError as error:
            raise BusyError("another task is waiting here already") from error
        finally:
            self.unpin()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this {self._owner} is closed")

    def _wake(self) -> None:
        self._epoll.modify(_bell, READABLE)

    def _destroy(self, fd: int) -> None:
        self._epoll.close()
        self._after()


async def checkpoint() -> None:
    """Lets the event loop run others, for an await that has nothing to wait for."""
    import anyio.lowlevel

    await anyio.lowlevel.checkpoint()
