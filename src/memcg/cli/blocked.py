"""Who is stopped by an OOM, and for how long, as far as /proc tells."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .printing import printable

if TYPE_CHECKING:
    from ..cgroup import CgroupV1

_NAMED = 5
_EXEC_START = re.compile(rb"^se\.exec_start\s*:\s*([0-9]+\.[0-9]+)", re.MULTILINE)


@dataclass
class Blocked:
    """The processes that are stopped in some groups."""

    processes: dict[int, str] = field(default_factory=dict)
    """The PIDs, each with the name of the command."""
    perhaps: int = 0
    """How many more threads sleep so that no signal wakes them, while it cannot be seen where."""
    seconds: float | None = None
    """How long ago the first of them ran; None where the kernel does not tell."""

    def add(self, other: Blocked) -> None:
        """Counts those of *other* too."""
        self.processes.update(other.processes)
        self.perhaps += other.perhaps
        if other.seconds is not None:
            self.seconds = max(other.seconds, self.seconds or 0)

    def look(self, group: CgroupV1) -> None:
        """Looks at the threads of *group*, those below left out."""
        for thread in set(group.tasks) - {0}:  # 0 is of another PID namespace
            with contextlib.suppress(OSError):  # it has ended
                self._look(Path(f"/proc/{thread}"))

    def _look(self, thread: Path) -> None:
        status = dict(line.partition(":")[::2] for line in _read(thread / "status").split("\n"))
        if not status["State"].strip().startswith("D"):
            return
        place = _place(thread)
        if not place:
            self.perhaps += 1
        elif "mem_cgroup_oom" in place:
            self.processes[int(status["Tgid"])] = status["Name"].strip()
            seconds = _idle(thread)
            if seconds is not None:
                self.seconds = max(seconds, self.seconds or 0)

    def __str__(self) -> str:
        """For people: ``2 processes blocked for 3.1 s: 815 (python3), 816 (sh)``, or "" where there is none."""
        parts = []
        if self.processes:
            named = [f"{pid} ({printable(name)})" for pid, name in sorted(self.processes.items())[:_NAMED]]
            more = ["..."] if len(self.processes) > _NAMED else []
            duration = "" if self.seconds is None else f" for {self.seconds:.1f} s"
            parts.append(f"{_count(len(self.processes), 'process')} blocked{duration}: {', '.join(named + more)}")
        if self.perhaps:
            parts.append(f"{_count(self.perhaps, 'thread')} perhaps blocked (only root can see where they sleep)")
        return "; ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _place(thread: Path) -> str:
    """The kernel function, or functions, in which *thread* sleeps; "" where this user may not see that."""
    place = _read(thread / "wchan")
    if place in ("", "0"):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            return _read(thread / "stack")
        return ""
    return place


def _idle(thread: Path) -> float | None:
    """How many seconds ago *thread* ran, or None.

    The scheduler notes when it last did. Each CPU has a clock of its own for that, so "now" is asked for on the
    same one.
    """
    former = os.sched_getaffinity(0)
    try:
        cpu = int(_read(thread / "stat").rpartition(")")[2].split()[36])
        os.sched_setaffinity(0, {cpu})
        now, then = (_EXEC_START.search((place / "sched").read_bytes()) for place in (_SELF, thread))
    except OSError:  # no such file in this kernel, or a CPU that is not for this process
        return None
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, former)
    return max(0.0, float(now[1]) - float(then[1])) / 1000 if now and then else None


_SELF = Path("/proc/thread-self")


def _read(path: Path) -> str:
    return os.fsdecode(path.read_bytes())
