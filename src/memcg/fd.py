"""File descriptors with one owner.

A number is closed once, by its owner, and never used after that: the kernel gives it to the next ``open`` of any
thread, and a late ``read`` or ``close`` would hit a stranger's file. So a call that uses the number *pins* it, and
``close()`` while it is pinned leaves the closing to the last one who lets go.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from typing import TYPE_CHECKING

from .errors import ClosedError
from .units import check_int

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self

_lock = threading.RLock()
bookkeeping: AbstractContextManager[object] = _lock
"""Guards the few instructions that pin, unpin and close; never held while anything blocks.

One lock for all, held across every fork, so that a child never inherits it locked by a thread that it does not
have. Reentrant, since a garbage collection inside may run ``__del__``.
"""

_forks = 0
"""How many forks lie between this process and the one that imported memcg."""


def _in_child() -> None:
    global _forks
    _forks += 1
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_in_child)


class OwnedFd:
    """A file descriptor that this object owns and closes.

    Use it as a context manager, or call `close`; one that is forgotten is closed by the garbage collector, with
    a `ResourceWarning`. A forked child owns its copies of the descriptors, and closing them there changes nothing
    in the parent.

    Args:
        fd: An open file descriptor that nobody else will close.
    """

    # Also what is left after close(), and where __init__ failed.
    _fd: int = -1
    _left_open: int = -1
    _pins: int = 0
    _forks: int = 0
    _pinned_in: int = 0
    _process: int = 0

    def __init__(self, fd: int) -> None:
        self._fd = check_int(fd, "a file descriptor", 0, 2**31 - 1)
        self._forks = self._pinned_in = _forks
        self._process = os.getpid()

    def fileno(self) -> int:
        """The number of the file descriptor.

        Raises:
            ClosedError: after `close`.
        """
        fd = self._fd
        if fd == -1:
            raise self._closed_error()
        return fd

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd == -1

    def close(self) -> None:
        """Closes the file descriptor; a second call does nothing.

        Safe while other threads use it: one that waits is woken and gets `ClosedError`.
        """
        with bookkeeping:
            if self._pinned_in != _forks:
                self._forget_pins_of_parent()
            fd: int = self.__dict__.pop("_fd", -1)  # in one step, which no signal handler can divide
            if fd == -1:
                return
            if self._pins:
                self._left_open = fd
                self._wake()
                return
        self._destroy(fd)

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child of the one that opened the file."""
        # A fork in C is not counted.
        return self._forks != _forks or self._process != os.getpid()

    def pin(self) -> int:
        """The number, which stays ours until `unpin`, whatever other threads close."""
        with bookkeeping:
            if self._pinned_in != _forks:
                self._forget_pins_of_parent()
            self._pins += 1  # before the look at _fd: a signal handler may close this in between
            fd = self._fd
        if fd == -1:
            self.unpin()
            raise self._closed_error()
        return fd

    def unpin(self) -> None:
        """Ends what `pin` began."""
        with bookkeeping:
            if self._pinned_in != _forks:
                self._forget_pins_of_parent()
            self._pins = max(0, self._pins - 1)
            fd: int = -1 if self._pins or self._left_open == -1 else self.__dict__.pop("_left_open", -1)
        if fd != -1:
            self._destroy(fd)

    def _forget_pins_of_parent(self) -> None:
        """In a forked child, the threads that pinned this are gone."""
        self._pinned_in = _forks
        self._pins = 0

    def _wake(self) -> None:
        """Wakes whoever blocks on this file; called with the bookkeeping lock held."""

    def _destroy(self, fd: int) -> None:
        os.close(fd)

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this {type(self).__name__} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            if self._fd != -1 and not self.inherited:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            with contextlib.suppress(OSError):
                self.close()
                if self._left_open != -1:  # by a user that never came back, such as a task of a loop that ended
                    self._destroy(self._left_open)

    def __repr__(self) -> str:
        state = "closed" if self._fd == -1 else f"fd={self._fd}"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"
