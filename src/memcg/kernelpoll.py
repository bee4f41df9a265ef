"""poll(2), done by the kernel on one's behalf, for files where polling them oneself loses what is found.

The event of a pressure trigger is gone with the first poll that finds it. An epoll file that waits for one, and
that is itself watched by an event loop, is polled by that loop first, and then has nothing left to report. So the
kernel is asked to poll the trigger, and to count on an eventfd, which stays readable until it is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import Final, final

from ._ffi import lib
from .errors import NotSupportedError, kernel_error, kernel_errors
from .fd import OwnedFd

BROKEN: Final = select.POLLERR
"""Found on a file that will never be ready again."""


@final
class KernelPoll(OwnedFd):
    """Readable once the kernel has found *events*, or `BROKEN`, on the file *fd*.

    Closing it takes the kernel some 30 ms.

    Raises:
        NotSupportedError: this kernel has no asynchronous I/O, or it is forbidden here.
    """

    def __init__(self, fd: int, events: int) -> None:
        self._context = -1
        with kernel_errors("create an eventfd", "eventfd"):
            super().__init__(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._file, self._events = fd, events
        try:
            self._context = _new_context()
            self._begin()
        except BaseException:
            self.close()
            raise

    def take(self) -> int:
        """What was found since the last time, 0 where nothing was. It goes on waiting, unless that is `BROKEN`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fileno())
        found = lib.memcg_poll_found(self._context)
        if found <= 0:
            return 0
        if not found & BROKEN:
            self._begin()
        return found & (self._events | BROKEN)

    def _begin(self) -> None:
        error = lib.memcg_poll_begin(self._context, self._file, self._events, self.fileno())
        if error:
            raise kernel_error(-error, "have the kernel poll a file", "aio")

    def _destroy(self, fd: int) -> None:
        if self._context != -1 and not self.inherited:  # a child does not have the context
            lib.memcg_poll_destroy(self._context)
        super()._destroy(fd)


def _new_context() -> int:
    context = lib.memcg_poll_create()
    if context in (-errno.ENOSYS, -errno.EPERM):
        raise NotSupportedError(
            "stalls cannot be waited for here: this kernel has no asynchronous I/O (CONFIG_AIO), or this process "
            "is forbidden to use it (seccomp)"
        )
    if context < 0:
        hint = "raise fs.aio-max-nr" if context == -errno.EAGAIN else ""
        raise kernel_error(-context, "set up asynchronous I/O", "aio", hint)
    return context
