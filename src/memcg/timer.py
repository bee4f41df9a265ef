"""timerfd_create(2): a moment on the monotonic clock that poll and epoll can wait for."""

from __future__ import annotations

import os
import time
from typing import final

from ._ffi import lib
from .errors import kernel_error
from .fd import OwnedFd


@final
class Timer(OwnedFd):
    """Readable from the moment set last, until it is set again."""

    def __init__(self) -> None:
        fd = lib.memcg_timer_create()
        if fd < 0:
            raise kernel_error(-fd, "create a timer", "timerfd")
        super().__init__(fd)
        self._at: float | None = None

    def set(self, at: float | None) -> None:
        """Moves it to *at*, in seconds as `time.monotonic` has them, past or future; None is never."""
        if at is None and self._at is None:
            return
        # 0 would disarm it, where a moment that has passed is meant.
        nanoseconds = 0 if at is None else max(1, int((at - time.monotonic()) * 1e9))
        fd = self.pin()
        try:
            error = lib.memcg_timer_set(fd, nanoseconds)
        finally:
            self.unpin()
        if error:
            raise OSError(-error, os.strerror(-error))
        self._at = at
