"""pidfd_open(2): a file descriptor that stands for one process, and never for another that got its number."""

from __future__ import annotations

import errno
import os
import select
import signal
from typing import final

from .errors import InvalidTypeError, InvalidValueError, kernel_error, kernel_errors, shown
from .fd import OwnedFd
from .units import check_int


def parse_pid(pid: int) -> int:
    """*pid*, having refused what the kernel would take for another process than was meant."""
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise InvalidTypeError(f"a process is named by its PID, an int, not {shown(pid)}")
    if pid <= 0:
        raise InvalidValueError(f"a PID is above 0, not {shown(pid)}; for this process, use os.getpid()")
    return check_int(pid, "a PID", 1, 2**31 - 1)


@final
class PidFD(OwnedFd):
    """A process, held by a file descriptor: readable, for poll and epoll, once the process has exited.

    Args:
        pid: A process, running or not yet waited for.

    Raises:
        ProcessNotFoundError: there is no such process.
        TooManyOpenFilesError: no file descriptor is left.

    See pidfd_open(2), Linux 5.3.
    """

    def __init__(self, pid: int) -> None:
        parse_pid(pid)
        with kernel_errors(f"open process {pid}", f"/proc/{pid}"):
            try:
                fd = os.pidfd_open(pid)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                hint = "that is the ID of a thread, not of a process"
                raise kernel_error(errno.ESRCH, f"open process {pid}", f"/proc/{pid}", hint) from error
        super().__init__(fd)
        self.pid = pid

    @property
    def exited(self) -> bool:
        """Whether the process has exited, waited for or not."""
        fd = self.pin()
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(0))
        finally:
            self.unpin()

    def send_signal(self, number: int) -> None:
        """Sends the signal to this very process (pidfd_send_signal(2), Linux 5.1).

        Raises:
            ProcessNotFoundError: it has exited and was waited for.
            AccessDeniedError: the caller may not signal it.
        """
        if check_int(number, "a signal", 0, signal.NSIG) and number not in signal.valid_signals():
            raise InvalidValueError(f"a signal is one of signal.Signals, or 0, not {shown(number)}")
        fd = self.pin()
        try:
            with kernel_errors(
                f"signal process {self.pid}", f"/proc/{self.pid}", {errno.EPERM: "it is another user's"}
            ):
                signal.pidfd_send_signal(fd, number)
        finally:
            self.unpin()
