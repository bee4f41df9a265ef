"""Triggers on pressure stall information, of a group or of the whole machine."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
from typing import TYPE_CHECKING, final

from ..controls.pressure import Pressure
from ..epoll import READABLE
from ..errors import InvalidValueError, KernelError, NotSupportedError, kernel_errors
from ..kernelpoll import BROKEN, KernelPoll

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..fd import OwnedFd
    from .triggers import Stall

_RESOLUTION = 0.000_002
"""What rounding may hide of a total, in seconds."""


@final
class PressureTrigger:
    """A trigger of the kernel on one pressure file.

    Args:
        trigger: What to wait for.
        file: The pressure file, opened for reading and writing. From now on, closing it is up to this object.
        path: Its path.

    Raises:
        InvalidValueError: this kernel, or this user, cannot have such a window; the message says which it can be.
        NotSupportedError: the kernel does not account for pressure.
    """

    def __init__(self, trigger: Stall, file: OwnedFd, path: str) -> None:
        self.trigger = trigger
        self._file, self._path = file, path
        self._poll: KernelPoll | None = None
        try:
            with psi_errors(path):
                # Up to Linux 6.1, the first event may be of all stalls that there have ever been.
                self._total: float | None = self._read_total()
                self._arm()
            self._poll = KernelPoll(file.fileno(), select.POLLPRI)
        except BaseException:
            self.close()
            raise
        self._fd = self._poll.fileno()

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        return [(self._fd, READABLE)]

    def fired(self, ready: Sequence[int] | None) -> bool:
        """Whether it has, by what is *ready*; None stands for all files.

        Raises:
            OSError: ENODEV where the file is gone: with its group, or by 0 in ``cgroup.pressure``.
        """
        if self._poll is None or (ready is not None and self._fd not in ready):
            return False
        found = self._poll.take()
        if found & BROKEN:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), self._path)
        if not found or self._total is None:
            return bool(found)
        if self._read_total() - self._total + _RESOLUTION < self.trigger.stall:
            return False
        self._total = None
        return True

    def close(self) -> None:
        """Ends it."""
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.close()
        self._file.close()

    def _read_total(self) -> float:
        pressure = Pressure.parse(os.pread(self._file.fileno(), 4096, 0))
        return (pressure.some if self.trigger.kind == "some" else pressure.full).total

    def _arm(self) -> None:
        stall, window = (round(seconds * 1_000_000) for seconds in (self.trigger.stall, self.trigger.window))
        try:
            # The newline is needed: of /proc/pressure the kernel drops the last byte, whatever that is.
            os.write(self._file.fileno(), b"%s %d %d\n" % (self.trigger.kind.encode(), stall, window))
        except OSError as error:
            if error.errno == errno.EINVAL and window % 2_000_000:
                raise self._wrong_window() from error
            raise

    def _wrong_window(self) -> InvalidValueError:
        window = self.trigger.window
        return InvalidValueError(
            f"the kernel refuses a window of {window:g} s: without the capability CAP_SYS_RESOURCE it takes 2, 4, "
            f"6, 8 or 10 s, so window={2 * math.ceil(window / 2)} would do; and before Linux 6.4, 0.5 s or more"
        )


@contextlib.contextmanager
def psi_errors(path: str) -> Iterator[None]:
    """Turns an ``OSError`` of the body, about the pressure file *path*, into one of ours."""
    try:
        with kernel_errors("wait for stalls", path):
            yield
    except KernelError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOENT):
            raise
        raise NotSupportedError(
            "this kernel does not account for pressure: it takes Linux 5.2 (CONFIG_PSI), and where it is off by "
            "default, psi=1 on the kernel's command line"
        ) from error
