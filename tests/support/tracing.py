"""Stopping another process at each of its system calls, by ptrace(2)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

SYSCALL, SEIZE, INTERRUPT = 24, 0x4206, 0x4207
TRACE_SYSCALLS_APART = 1
WALL = 0x40000000  # of waitid(2): any child, however it was made

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(what: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(what, pid, None, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Traced:
    """The process *pid*, stopped from now on. To be used in one thread only; it is killed with the ``with`` block.

    Its parent hears of its stops no more than of those under a debugger."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.dead = False
        _ptrace(SEIZE, pid, TRACE_SYSCALLS_APART)
        _ptrace(INTERRUPT, pid)
        self._wait()

    def step(self, seconds: float) -> bool:
        """Goes on until it enters or leaves a system call; False if it does not within *seconds*, as it waits."""
        _ptrace(SYSCALL, self.pid)
        deadline = time.monotonic() + seconds
        while not self._wait(os.WNOHANG):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0001)
        assert not self.dead, "it died by itself"
        return True

    def kill(self) -> None:
        """Kills it where it is: the system call that it was to enter does not happen."""
        if not self.dead:
            os.kill(self.pid, signal.SIGKILL)
            while not self.dead:
                self._wait()

    def _wait(self, flags: int = 0) -> bool:
        pid, status = os.waitpid(self.pid, WALL | flags)
        self.dead = pid != 0 and not os.WIFSTOPPED(status)
        return pid != 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
