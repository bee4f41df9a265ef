"""What serves a trigger on a cgroup v2 group. That of `Oom` has a module of its own.

The files of a group say how often something has happened since it was made. What is told is the difference
between two looks.
"""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, TypeAlias, final

from ..cgroupfs.formats import parse_flat_keyed
from ..controls.stat_v2 import CgroupEvents
from ..controls.v2 import ControlFilesV2
from .events import Emptied, HighExceeded, Stalled
from .psi import PressureTrigger, psi_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cgroup import CgroupV2
    from ..cgroupfs.files import ControlFile
    from ..controls.stat_v2 import MemoryEvents
    from .events import Event
    from .triggers import Empty, HighLimit, Stall, Trigger

CHANGED: Final = select.EPOLLPRI
"""What a file of the kernel's counts and states is ready for when it has changed, until it is read."""


class Watch(ABC):
    """What serves one trigger on one group."""

    trigger: Trigger
    due: float | None = None
    """When to look though nothing is signalled, in seconds as `time.monotonic` has them."""

    @abstractmethod
    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""

    @abstractmethod
    def look(self, ready: Sequence[int] | None, now: float) -> Sequence[Event]:
        """The events behind the files that are *ready*; None stands for all, for a thorough look.

        Raises:
            OSError: ENODEV where its files are gone.
        """

    def last_words(self, now: float) -> Sequence[Event]:
        """What can still be told of a group that is gone."""
        return ()

    def counted_all(self) -> bool:
        """Whether, the group being gone, all kills that this was to tell are sure to have been told."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""


Counts: TypeAlias = "dict[str, int]"
"""What ``memory.events`` says, by its own keys."""


@final
class Counters:
    """A ``memory.events`` or ``memory.events.local`` that is kept open, and has been read."""

    def __init__(self, group: CgroupV2, file: ControlFile[MemoryEvents]) -> None:
        self.group = group
        self._file = file._open(group, os.O_RDONLY)
        self.fd: int = self._file.fileno()
        try:
            self.text: bytes = os.pread(self.fd, 4096, 0)
            self.now: Counts = parse_flat_keyed(self.text)
        except BaseException:
            self.close()
            raise

    def take(self, text: bytes) -> tuple[Counts, Counts]:
        """The counts of the last time, and those that are now read as *text*."""
        before = self.now
        if text != self.text:
            self.text, self.now = text, parse_flat_keyed(text)
        return before, self.now

    def close(self) -> None:
        """Closes it."""
        self._file.close()


@final
class HighWatch(Watch):
    """The group's own ``memory.high``."""

    def __init__(self, group: CgroupV2, trigger: HighLimit) -> None:
        self.trigger: HighLimit = trigger
        self._counters = Counters(group, ControlFilesV2.events_local)

    def files(self) -> list[tuple[int, int]]:
        return [(self._counters.fd, CHANGED)]

    def look(self, ready: Sequence[int] | None, now: float) -> Sequence[Event]:
        if ready is not None and self._counters.fd not in ready:
            return ()
        before, after = self._counters.take(os.pread(self._counters.fd, 4096, 0))
        count = after["high"] - before["high"]
        return [HighExceeded(cgroup=self._counters.group, time=now, count=count)] if count else ()

    def close(self) -> None:
        self._counters.close()


@final
class EmptyWatch(Watch):
    """Whether there are processes in the group or below."""

    def __init__(self, group: CgroupV2, trigger: Empty) -> None:
        self.trigger: Empty = trigger
        self._group = group
        self._file = ControlFilesV2.cgroup_events._open(group, os.O_RDONLY)
        self._fd = self._file.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI)
        try:
            self._state = self._read()
        except BaseException:
            self.close()
            raise

    def files(self) -> list[tuple[int, int]]:
        return [(self._fd, CHANGED)]

    def look(self, ready: Sequence[int] | None, now: float) -> Sequence[Event]:
        if not (self._poll.poll(0) if ready is None else self._fd in ready):
            return ()
        before, self._state = self._state, self._read()
        # Who came and went between two looks has left no trace but the signal.
        emptied = not self._state.populated and (before.populated or before == self._state)
        return [Emptied(cgroup=self._group, time=now)] if emptied else ()

    def last_words(self, now: float) -> Sequence[Event]:
        return [Emptied(cgroup=self._group, time=now)] if self._state.populated else ()

    def close(self) -> None:
        self._file.close()

    def _read(self) -> CgroupEvents:
        return CgroupEvents.parse(os.pread(self._fd, 4096, 0))


@final
class StallWatch(Watch):
    """How long processes of the group had to wait for memory."""

    def __init__(self, group: CgroupV2, trigger: Stall) -> None:
        self.trigger: Stall = trigger
        self._group = group
        file = ControlFilesV2.pressure
        path = f"{group.path}/{file.name}"
        with psi_errors(path):
            self._pressure = PressureTrigger(trigger, file._open(group, os.O_RDWR), path)

    def files(self) -> list[tuple[int, int]]:
        return self._pressure.files()

    def look(self, ready: Sequence[int] | None, now: float) -> Sequence[Event]:
        fired = self._pressure.fired(ready)
        return [Stalled(cgroup=self._group, time=now, trigger=self.trigger)] if fired else ()

    def close(self) -> None:
        self._pressure.close()
