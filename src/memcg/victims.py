"""Choosing whom to kill, where the kernel does not."""

from __future__ import annotations

import contextlib
import os
from mmap import PAGESIZE
from typing import TYPE_CHECKING

from .errors import CgroupNotFoundError, ProcessNotFoundError
from .pidfd import PidFD

if TYPE_CHECKING:
    from .cgroup import Cgroup


def open_largest(group: Cgroup) -> PidFD | None:
    """The process with the largest resident set, in *group* or below, or None where there is none but this one.

    It is the process that was in the group when it was opened, whoever may get its PID later.
    """
    sizes: list[tuple[int, int, Cgroup]] = []
    for each in group.walk():
        with contextlib.suppress(CgroupNotFoundError):
            sizes.extend((_resident(pid), pid, each) for pid in each.processes() if pid != os.getpid())
    for _, pid, each in sorted(sizes, key=lambda found: found[:2], reverse=True):
        with contextlib.suppress(ProcessNotFoundError, CgroupNotFoundError):
            process = PidFD(pid)
            if not process.exited and pid in each.processes():
                return process
            process.close()
    return None


def _resident(pid: int) -> int:
    """In bytes; 0 where it has gone, or cannot be seen."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGESIZE
    except (OSError, IndexError, ValueError):
        return 0
