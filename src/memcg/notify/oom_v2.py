"""Hearing of OOMs and kills on cgroup v2.

The kernel counts an OOM in the group whose limit was hit, in ``memory.events.local``, and a kill in the group of
the victim and in all above, in ``memory.events``. The groups below a limit are not told that it was hit, so the
ancestors' files are watched too.

A file that changes wakes who waits for it at once only where it last did so 10 ms ago or more. By the time of an
OOM, it mostly has: for the limit that was hit, a millisecond earlier. So after that, the files are read again and
again for a short while, and what the kernel would tell 10 ms later is found.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from ..controls.stat_v2 import count_killed
from ..controls.v2 import ControlFilesV2
from ..errors import ControlFileMissingError, MemcgError
from .events import KernelKill, OomEvent
from .watches import CHANGED, Counters, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cgroup import CgroupV2
    from .events import Event
    from .triggers import Oom
    from .watches import Counts

LOOK_AGAIN: Final = (0.0003, 0.0003, 0.0004, *(0.001,) * 11)
"""After a limit was hit, the pauses between looks, in seconds; in all, as long as the kernel may keep silent."""
IN_VAIN: Final = 4
"""After so many wake-ups in a row for a limit that was hit without an OOM, the looks are left to the kernel. There
are groups that are at their limit all the time, and live by reclaim."""
QUIET: Final = 0.1
"""What interrupts such a row, in seconds."""
EXPLAINED: Final = 1.0
"""For how long after an OOM a kill is taken to belong to it, in seconds."""
LONG_AGO: Final = -1e9


@dataclass
class _Limit:
    """A group by whose limit there can be an OOM."""

    group: CgroupV2
    told: int
    """How many of its OOMs have been told."""
    told_lately: bool = False
    """Whether one has, since the kernel last signalled."""


@final
class OomWatch(Watch):
    """OOMs by the limit of *group* or of one above, and kills in it and below."""

    def __init__(self, group: CgroupV2, trigger: Oom) -> None:
        self.trigger: Oom = trigger
        self.due: float | None = None
        self._group = group
        self._above = _parent_with_counters(group)
        around = self._kills_around()
        with contextlib.ExitStack() as files:
            counters = files.enter_context(contextlib.closing(Counters(group, ControlFilesV2.events)))
            own_and_above, self._sees_all = _counters_above(group, files)
            self._files = files.pop_all()
        # memory.events, then the memory.events.local of the group and its ancestors: the kills first, so that of
        # each that is seen, the OOM is seen as well.
        self._counters = [counters, *own_and_above]
        self._fds = [each.fd for each in self._counters]
        self._texts = [each.text for each in self._counters]
        self._limits = [_Limit(each.group, each.now["oom"]) for each in own_and_above]
        self._told, self._groups_told = _kills(counters.now), counters.now.get("oom_group_kill", 0)
        self._agreed = around, counters.now.get("oom_kill", 0)
        self._withheld = False  # whether an OOM has been seen and not told
        self._looks = len(LOOK_AGAIN)  # how many of LOOK_AGAIN have been taken
        self._in_vain = 0
        self._hit = self._oom_seen = LONG_AGO

    def files(self) -> list[tuple[int, int]]:
        return [(fd, CHANGED) for fd in self._fds]

    def close(self) -> None:
        self._files.close()

    def look(self, ready: Sequence[int] | None, now: float) -> Sequence[Event]:
        signalled = ready is None or not set(ready).isdisjoint(self._fds)
        if not (signalled or (self.due is not None and now >= self.due)):
            return ()
        around = self._kills_around() if ready is None else None
        texts = [os.pread(fd, 4096, 0) for fd in self._fds]
        events: list[Event] = []
        hit = False
        if texts != self._texts or (signalled and self._withheld):
            hit = self._take(texts, signalled, now, events)
        if around is not None:
            self._agreed = around, self._counters[0].now.get("oom_kill", 0)
        self._plan(signalled and hit, any(isinstance(event, KernelKill) for event in events), now)
        return events

    def counted_all(self) -> bool:
        # What is counted in a group is counted in its parent too, which is still there.
        (then, counted_then), now = self._agreed, self._kills_around()
        counted = self._counters[0].now.get("oom_kill", 0)
        return then is not None and now is not None and now - then == counted - counted_then

    def _take(self, texts: list[bytes], signalled: bool, now: float, events: list[Event]) -> bool:
        """Adds to *events* what the *texts* have news of; whether a limit was hit."""
        self._texts = texts
        changes = [counters.take(text) for counters, text in zip(self._counters, texts, strict=True)]
        hit = any(before["max"] != after["max"] for before, after in changes)
        oom = any(before["oom"] != after["oom"] for before, after in changes)
        after = changes[0][1]
        kills = max(0, _kills(after) - self._told)
        origins: list[CgroupV2 | None] = []
        self._withheld = False
        for limit, (_, counts) in zip(self._limits, changes[1:], strict=True):
            told_lately = limit.told_lately and not signalled
            if counts["oom"] != limit.told:
                # Whoever fails to get memory tries again, and is counted again: that can wait for the kernel.
                if told_lately and not kills:
                    self._withheld = True
                    continue
                limit.told, told_lately = counts["oom"], True
                origins.append(limit.group)
            limit.told_lately = told_lately
        if kills and not (oom or origins or self._sees_all) and now - self._oom_seen > EXPLAINED:
            origins.append(None)
        if oom:
            self._oom_seen = now
        events += [OomEvent(cgroup=self._group, time=now, under_oom=False, origin=origin) for origin in origins]
        if kills:
            groups = after.get("oom_group_kill", 0) - self._groups_told
            events.append(KernelKill(cgroup=self._group, time=now, count=kills, groups=groups))
            self._told += kills
            self._groups_told += groups
        if events:
            self._in_vain = 0
        return hit or oom

    def _plan(self, hit: bool, killed: bool, now: float) -> None:
        """Decides when to look again: where an OOM may follow, or its kill."""
        if hit:
            if now - self._hit > QUIET:
                self._in_vain = 0
            self._hit = now
            if self._in_vain < IN_VAIN:
                self._in_vain += 1
                self._looks = 0
        if killed:
            self._looks = len(LOOK_AGAIN)
        if self._looks < len(LOOK_AGAIN):
            self.due = now + LOOK_AGAIN[self._looks]
            self._looks += 1
        else:
            self.due = None

    def _kills_around(self) -> int | None:
        """How many kills there have been in the parent and all below it; None where that cannot be read."""
        try:
            if self._above is not None:
                with contextlib.closing(Counters(self._above, ControlFilesV2.events)) as counters:
                    return counters.now.get("oom_kill", 0)
            with open("/proc/vmstat", "rb") as file:
                return next(int(line[9:]) for line in file if line.startswith(b"oom_kill "))
        except (MemcgError, OSError, StopIteration):
            return None


def _kills(counts: Counts) -> int:
    return count_killed(counts.get("oom_kill"), counts.get("oom_group_kill"))


def _parent_with_counters(group: CgroupV2) -> CgroupV2 | None:
    """The parent, or None where that is the root, which has no counters, or cannot be seen, or where the hierarchy
    is mounted so that each group counts for itself."""
    parent = None if group._directory.mount.local_events else group.parent
    return parent if parent is not None and ControlFilesV2.events.exists(parent) else None


def _counters_above(group: CgroupV2, files: contextlib.ExitStack) -> tuple[list[Counters], bool]:
    """What is counted in the group and in its ancestors alone, and whether these are all that there are."""
    found: list[Counters] = []
    above: CgroupV2 | None = group
    while above is not None:
        try:
            found.append(files.enter_context(contextlib.closing(Counters(above, ControlFilesV2.events_local))))
        except ControlFileMissingError:
            if above == group:
                raise
            return found, True  # the root
        above = above.parent
    return found, False
