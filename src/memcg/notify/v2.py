"""How what cgroup v2 tells becomes events.

Each trigger has a watch, which owns the files that it needs; a source has those of one group, and notices when the
group, or one of the files, is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, final

from ..controls.v2 import ControlFilesV2
from ..errors import ControlFileMissingError, KernelError, MemcgError, NotSupportedError, kernel_error
from .events import KernelKill, OomEvent, Removed, WatchFailed
from .oom_v2 import OomWatch
from .removal import RemovalWatch
from .triggers import Empty, HighLimit, Oom, Stall
from .watches import EmptyWatch, HighWatch, StallWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cgroup import CgroupV2
    from ..cgroupfs.files import ControlFile
    from .events import Event, OomNews
    from .triggers import Trigger
    from .watches import Watch

GRACE: Final = 0.02
"""For how long the files of a group may be gone before it is, in seconds: a removal takes a moment."""


@final
class SourceV2:
    """What *triggers* want to know of one cgroup v2 group, and its removal."""

    def __init__(self, group: CgroupV2, triggers: Sequence[Trigger]) -> None:
        self.group = group
        self.over: str | None = None
        """Once the removal has been told, the words for that."""
        self._watches: list[Watch] = []
        self._lost: list[tuple[float, Watch]] = []  # those whose files are gone, and when to tell
        with contextlib.ExitStack() as files:
            self._removal = files.enter_context(contextlib.closing(RemovalWatch(group)))
            for trigger in triggers:
                self._watches.append(files.enter_context(contextlib.closing(_watch(group, trigger))))
            self._files = files.pop_all()

    @property
    def due(self) -> float | None:
        """When to look though nothing is signalled."""
        if len(self._watches) == 1 and not self._lost:  # the usual case, and its handler waits
            return self._watches[0].due
        times = [at for at, _ in self._lost] + [watch.due for watch in self._watches if watch.due is not None]
        return min(times, default=None)

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        return self._removal.files() + [file for watch in self._watches for file in watch.files()]

    def close(self) -> None:
        """Ends it."""
        self._files.close()

    def collect(self, ready: list[int] | None) -> list[Event]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look."""
        now = time.monotonic()
        events: list[Event] = []
        gone = self._removal.look(ready)
        for watch in () if gone else tuple(self._watches):
            try:
                events += watch.look(ready, now)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                self._watches.remove(watch)
                self._lost.append((now + GRACE, watch))
                watch.close()
        if self._lost:
            gone = gone or self._removal.is_gone()
            if not gone:
                events += self._failed(now)
        return events + self._end(now) if gone else events

    def _failed(self, now: float) -> list[Event]:
        """Of what has lost its files, that which no removal has explained."""
        failed = [watch.trigger for at, watch in self._lost if at <= now]
        self._lost = [(at, watch) for at, watch in self._lost if at > now]
        return [
            WatchFailed(cgroup=self.group, time=now, trigger=trigger, error=_what_is_wrong(self.group, trigger))
            for trigger in failed
        ]

    def _end(self, now: float) -> list[Event]:
        """The last events, as the group is gone."""
        watches = self._watches + [watch for _, watch in self._lost]
        events = [event for watch in watches for event in watch.last_words(now)]
        final = all(watch.counted_all() for watch in watches)
        self._lost.clear()
        self.over = f"the cgroup {self.group.cgroup_path!r} was removed"
        return [*events, Removed(cgroup=self.group, time=now, counts_final=final)]


@final
class OomSourceV2:
    """As `OomSourceV1`: OOMs, kernel kills and the removal of one cgroup v2 group."""

    under_oom: bool = False
    """Nobody is stopped by an OOM."""

    def __init__(self, group: CgroupV2) -> None:
        self.group = group
        self._source = SourceV2(group, [Oom()])

    @property
    def over(self) -> str | None:
        """Once the removal has been told, the words for that."""
        return self._source.over

    @property
    def due(self) -> float | None:
        """When to look though nothing is signalled."""
        return self._source.due

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        return self._source.files()

    def close(self) -> None:
        """Ends it."""
        self._source.close()

    def collect(self, ready: list[int] | None) -> list[OomNews]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look.

        Raises:
            ControlFileMissingError: the memory controller was taken away from the group.
        """
        news: list[OomNews] = []
        for event in self._source.collect(ready):
            if isinstance(event, WatchFailed):
                raise event.error
            if isinstance(event, (OomEvent, KernelKill, Removed)):
                news.append(event)
        return news


def _watch(group: CgroupV2, trigger: Trigger) -> Watch:
    try:
        match trigger:
            case Oom():
                return OomWatch(group, trigger)
            case HighLimit():
                return HighWatch(group, trigger)
            case Empty():
                return EmptyWatch(group, trigger)
            case Stall():
                return StallWatch(group, trigger)
    except ControlFileMissingError as error:
        if ControlFilesV2.cgroup_events.exists(group):
            raise
        raise NotSupportedError(
            f"{group.path} is the root of the hierarchy: it has no limit and is never empty, and the kernel never "
            f"tells of an OOM there; subscribe to a group below it"
        ) from error


_FILES: dict[type[Trigger], ControlFile[object]] = {
    Oom: ControlFilesV2.events,
    HighLimit: ControlFilesV2.events_local,
    Empty: ControlFilesV2.cgroup_events,
    Stall: ControlFilesV2.pressure,
}
"""What each trigger cannot do without."""


def _what_is_wrong(group: CgroupV2, trigger: Trigger) -> MemcgError:
    """Why the files of a watch are gone, though the group is there."""
    file = _FILES[type(trigger)]
    try:
        file._open(group, os.O_RDONLY).close()
    except MemcgError as error:
        return error
    hint = "it was taken away from the group, and is back: subscribe anew"
    return kernel_error(errno.ENODEV, f"go on with {file.name}", str(group.path), hint, KernelError)
