"""Ending a command by signal, at a moment when it can clean up."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Protocol

from ..errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Closable(Protocol):
    """What a signal can end the wait for."""

    def close(self) -> None:
        """Ends iteration."""


class Stopper:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the wait for events, instead of breaking in at any instruction: so what
    was begun is finished, and cleaned up."""

    signal: int = 0
    """The signal that came, the first if there were several; 0 for none."""
    _events: Closable | None = None

    def __enter__(self) -> Stopper:
        self._former = [(number, signal.signal(number, self._stop)) for number in _ENDINGS]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former:
            signal.signal(number, handler)

    @contextlib.contextmanager
    def ends(self, events: Closable) -> Iterator[None]:
        """Within the body, a signal closes *events*."""
        self._events = events
        self.check()
        try:
            yield
        finally:
            self._events = None

    def check(self) -> None:
        """Raises `ClosedError`, as the events do that a signal has closed, if there was a signal."""
        if self.signal:
            raise ClosedError

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._events is not None:
            self._events.close()
