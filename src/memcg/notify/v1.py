"""How what cgroup v1 tells becomes events.

All of its oddities live here: an eventfd that counts wake-ups and not kills, a kill count that lags it, removal
that signals like an OOM, and an ancestor's OOM that signals every group below.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ..controls.stat import OomControlV1
from ..controls.v1 import ControlFilesV1
from ..epoll import READABLE
from ..errors import AccessDeniedError, CgroupNotFoundError, KernelError, NotSupportedError
from ..eventfd import EventFD
from .events import KernelKill, OomEvent, Removed
from .triggers import Empty, HighLimit, Oom, Stall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cgroup import CgroupV1
    from .events import OomNews
    from .triggers import Trigger

LOOK_AGAIN = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
"""After an OOM, the pauses between looks at the kill count, in seconds. It moves after 2 to 8 ms, without a
notification, and later on a busy machine."""

SETTLED = 7
"""After so many looks, 127 ms, a kill that has not been counted is taken not to have happened."""

REMOVAL_SIGNAL = 0.1
"""How long after a removal its signal may come, in seconds: it took 26 to 36 ms."""


@dataclass
class _Witness:
    """An ancestor, and an eventfd on its OOMs.

    The kernel signals an OOM to the group whose limit was hit and to all below it, the ancestors first. So of the
    signals that a group gets, those that its parent got too came from the parent or from above.
    """

    group: CgroupV1
    event: EventFD
    signals: int = 0


class _GroupsBelow:
    """The groups below a group, and the kernel's kills in them.

    On v1, ``oom_kill`` counts in the victim's own group only, and an OOM by a group's own limit is not signalled
    to the groups above. So each group below is subscribed to as well, once it is seen.
    """

    def __init__(self, group: CgroupV1, event: EventFD) -> None:
        self.event = event
        self.unmatched = 0  # signals that may still be followed by a kill
        self._group = group
        self._kills: dict[CgroupV1, int] = {}
        self._watched: set[CgroupV1] = set()
        self._kills = self._survey()

    def look(self, signals: int) -> int:
        """How many kills there were since the last look; *signals* came meanwhile."""
        self.unmatched += signals
        try:
            kills = self._survey()
        except KernelError:  # the group was removed, or no file can be opened now: left for the next look
            return 0
        new = sum(count - self._kills.get(group, 0) for group, count in kills.items())
        gone = self._watched - kills.keys()  # a removal signals too
        self._watched -= gone
        self._kills = kills
        self.unmatched = max(0, self.unmatched - new - len(gone))
        return new

    def all_told(self, signals: int) -> bool:
        """Whether, all being removed, that explains the *signals* that came since the last look."""
        return self.unmatched == 0 and signals <= len(self._watched)

    def _survey(self) -> dict[CgroupV1, int]:
        kills: dict[CgroupV1, int] = {}
        for group in self._group.walk():
            if group == self._group:
                continue
            with contextlib.suppress(CgroupNotFoundError):
                kills[group] = group.oom_control.oom_kill or 0
                if group not in self._watched:
                    with contextlib.suppress(AccessDeniedError):
                        group.cgroup_event_control(self.event, ControlFilesV1.oom_control)
                        self._watched.add(group)
        return kills


@final
class OomSourceV1:
    """OOMs, kernel kills and the removal of one cgroup v1 group."""

    def __init__(self, group: CgroupV1) -> None:
        if ControlFilesV1.cgroup_sane_behavior.exists(group):
            raise NotSupportedError(
                f"{group.path} is the root of the hierarchy: it has no limit, and the kernel never tells of an "
                f"OOM there; subscribe to a group below it"
            )
        self.group = group
        self.over: str | None = None
        """Once the removal has been told, the words for that."""
        self._looks = 0  # how many of LOOK_AGAIN have been taken
        self._unmatched = 0  # signals that may still be followed by a kill
        self._removal_due: float | None = None
        self._signals_at_removal = self._below_at_removal = 0
        self._heard_above = False  # whether a witness has signals that this group has not had yet
        self._text, self._parsed = b"", OomControlV1(False, False)
        with contextlib.ExitStack() as files:
            self._control = files.enter_context(ControlFilesV1.oom_control._open(group, os.O_RDONLY))
            self._control_fd = self._control.fileno()
            self._event = files.enter_context(EventFD())
            self._event_fd = self._event.fileno()
            # The counts first: a kill while this is being armed is then told, if only by the look at the end.
            control = self._look()
            if control is None:
                raise group._directory.removed_error()
            self._kills = control.oom_kill or 0
            self._below = _GroupsBelow(group, files.enter_context(EventFD()))
            self._witnesses, self._sees_all = self._call_witnesses(files)
            self._top = self._witnesses[-1].group if self._witnesses else group
            self._top_failcnt = 0
            self._remember_top()
            group.cgroup_event_control(self._event, ControlFilesV1.oom_control)
            self._files = files.pop_all()
        self.due: float | None = time.monotonic()
        """When to look though nothing is signalled."""

    @property
    def under_oom(self) -> bool:
        """Whether the group was under OOM at the last look."""
        return self._parsed.under_oom

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        events = [self._event, self._below.event, *(witness.event for witness in self._witnesses)]
        return [(event.fileno(), READABLE) for event in events]

    def close(self) -> None:
        """Ends it; the kernel drops a registration with the last file descriptor of its eventfd."""
        self._files.close()

    def collect(self, ready: list[int] | None) -> list[OomNews]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look.

        A handler waits for what this returns, so the usual case, one OOM by this group's own limit, comes first
        and is kept short.
        """
        signals = _drain(self._event_fd) if ready is None or self._event_fd in ready else 0
        below = 0
        if ready is None or len(ready) > 1 or not signals:
            below = self._take_others(ready)
        control = self._look()
        now = time.monotonic()
        if control is None:
            return self._removal(signals, below, now)
        own_kills = (control.oom_kill or 0) - self._kills
        self._kills += own_kills
        kills = own_kills
        # The groups below are for the looks that follow.
        thorough = bool(below or not signals or ready is None)
        if thorough:
            kills += self._below.look(below)
        if kills and not signals:
            # What woke us was something else, and the OOM came meanwhile. It was signalled before it was counted,
            # to the witnesses first, so they are asked after.
            signals = _drain(self._event_fd)
            late = self._take_others(None)
            self._below.unmatched += late
            below += late
        events: list[OomNews] = []
        if signals:
            under_oom, may_kill = control.under_oom, not control.oom_kill_disable
            for origin in self._origins(signals):
                may_kill = may_kill or origin is not self.group
                events.append(OomEvent(cgroup=self.group, time=now, under_oom=under_oom, origin=origin))
            if may_kill:
                self._unmatched += signals
                self._start_looking()
        self._unmatched = max(0, self._unmatched - own_kills)
        if below:
            self._start_looking()
        if thorough:
            self._remember_top()
        if kills:
            events.append(KernelKill(cgroup=self.group, time=now, count=kills))
        if self.due is not None or self._unmatched or self._heard_above or self._below.unmatched:
            self._plan(now)
        return events

    def _take_others(self, ready: list[int] | None) -> int:
        """Takes the signals of the witnesses, and returns those from below."""
        for witness in self._witnesses:
            fd = witness.event.fileno()
            if ready is None or fd in ready:
                witness.signals += _drain(fd)
                self._heard_above = self._heard_above or witness.signals > 0
        fd = self._below.event.fileno()
        return _drain(fd) if ready is None or fd in ready else 0

    def _look(self) -> OomControlV1 | None:
        """``memory.oom_control`` through the file opened at the start, or None once the group is removed."""
        try:
            text = os.pread(self._control_fd, 4096, 0)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        if text != self._text:  # mostly it reads as it did the last time
            self._text, self._parsed = text, OomControlV1.parse(text)
        return self._parsed

    def _start_looking(self) -> None:
        self._looks, self.due = 0, None

    def _plan(self, now: float) -> None:
        """Decides when to look again: a kill is counted late, and a witness hears of an OOM before we do."""
        if self.due is not None and now < self.due:
            return  # somebody looked earlier, which does not count
        if (self._unmatched or self._below.unmatched) and self._looks < len(LOOK_AGAIN):
            self.due = now + LOOK_AGAIN[self._looks]
            self._looks += 1
        elif self.due is None and self._heard_above:
            self.due = now + LOOK_AGAIN[4]
        else:
            self.due = None
            self._unmatched = self._below.unmatched = 0
            if self._heard_above:
                # An OOM above that never reached this group began before it was subscribed to.
                for witness in self._witnesses:
                    witness.signals = 0
                self._heard_above = False

    # Whose limit was hit.

    def _call_witnesses(self, files: contextlib.ExitStack) -> tuple[list[_Witness], bool]:
        """Ancestors up to where they end or may not be asked, and whether that is all of them."""
        witnesses: list[_Witness] = []
        ancestor = self.group.parent
        while ancestor is not None:
            if ControlFilesV1.cgroup_sane_behavior.exists(ancestor):
                return witnesses, True
            witness = _Witness(ancestor, files.enter_context(EventFD()))
            try:
                ancestor.cgroup_event_control(witness.event, ControlFilesV1.oom_control)
            except AccessDeniedError:
                return witnesses, False
            witnesses.append(witness)
            ancestor = ancestor.parent
        return witnesses, False

    def _origins(self, signals: int) -> list[CgroupV1 | None]:
        """The groups whose limits led to that many *signals*, each once, this group first."""
        if not self._heard_above and self._sees_all:
            return [self.group]
        origins: list[CgroupV1 | None] = []
        group = self.group
        for witness in self._witnesses:
            shared = min(signals, witness.signals)
            if signals > shared:
                origins.append(group)
            witness.signals -= shared
            signals, group = shared, witness.group
        if signals:
            origins.append(group if self._sees_all else self._top_or_unknown())
        self._heard_above = any(witness.signals for witness in self._witnesses)
        return origins

    def _top_or_unknown(self) -> CgroupV1 | None:
        """The highest group that can be watched, if its limit was hit since the last look, else None."""
        with contextlib.suppress(CgroupNotFoundError):
            former, self._top_failcnt = self._top_failcnt, self._top.failcnt
            if self._top_failcnt != former and self._top.limit is not None:
                return self._top
        return None

    def _remember_top(self) -> None:
        """For `_top_or_unknown`: a victim may go on hitting the limit for a moment after its OOM was told."""
        if not self._sees_all:
            with contextlib.suppress(CgroupNotFoundError):
                self._top_failcnt = self._top.failcnt

    # Removal.

    def _removal(self, signals: int, below: int, now: float) -> list[OomNews]:
        """The group is gone, which adds 1 to its eventfd some time later; anything above that was an OOM."""
        self._signals_at_removal += signals
        self._below_at_removal += below
        if self._removal_due is None:
            self._removal_due = now + REMOVAL_SIGNAL
        gone = [witness for witness in self._witnesses if not witness.group.exists]
        if (self._signals_at_removal < 2 or gone) and now < self._removal_due:
            self.due = self._removal_due
            return []
        self.due = None
        for witness in gone:
            witness.signals -= min(1, witness.signals)
        ooms = max(0, self._signals_at_removal - 1)
        events: list[OomNews] = [
            OomEvent(cgroup=self.group, time=now, under_oom=False, origin=origin)
            for origin in (self._origins(ooms) if ooms else [])
        ]
        told = self._looks >= SETTLED or (not self._unmatched and self._below.all_told(self._below_at_removal))
        events.append(Removed(cgroup=self.group, time=now, counts_final=told and not ooms))
        self.over = f"the cgroup {self.group.cgroup_path!r} was removed"
        return events


def source_v1(group: CgroupV1, triggers: Sequence[Trigger]) -> OomSourceV1:
    """What serves *triggers* on a cgroup v1 group.

    Raises:
        NotSupportedError: v1 has nothing for one of them; the message says what there is instead.
    """
    for trigger in triggers:
        instead = ""
        match trigger:
            case Empty():
                instead = "until(process) ends when a process has, and cg.populated says whether there is one"
            case HighLimit():
                instead = "it has no memory.high; Oom() tells when the limit is hit and nothing can be reclaimed"
            case Stall():
                instead = "memcg.system.subscribe() tells of stalls of the whole machine"
            case Oom():
                pass
        if instead:
            raise NotSupportedError(f"cgroup v1 does not tell of {type(trigger).__name__}() in a group: {instead}")
    return OomSourceV1(group)


def _drain(fd: int) -> int:
    """What a non-blocking eventfd has counted. The subscription, which has it pinned, keeps it open."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
