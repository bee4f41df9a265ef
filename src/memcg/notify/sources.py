"""How the kernel's notifications become events.

A source owns the files that the kernel signals, and turns what is ready into events. All of cgroup v1's oddities
live here: an eventfd that counts wake-ups and not kills, a kill count that lags it, removal that signals like an
OOM, and an ancestor's OOM that signals every group below.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ..cgroupfs.directory import pread_whole
from ..controls.stat import OomControlV1
from ..controls.v1 import ControlFilesV1
from ..errors import AccessDeniedError, CgroupNotFoundError, NotSupportedError
from ..eventfd import EventFD
from .events import KernelKill, OomEvent, Removed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import CgroupV1
    from .events import Event

LOOK_AGAIN = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
"""After an OOM, the pauses between looks at the kill count, in seconds. It moves after 2 to 8 ms, without a
notification, and later on a busy machine."""

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
        self.due: float | None = None  # when to look again though nothing is signalled
        with contextlib.ExitStack() as files:
            self._control = files.enter_context(ControlFilesV1.oom_control._open(group, os.O_RDONLY))
            self._below = files.enter_context(EventFD())  # OOMs by the limits of groups below
            self._event = files.enter_context(EventFD())  # OOMs by this group's limit or an ancestor's
            self._witnesses, self._sees_all = self._call_witnesses(files)
            group.cgroup_event_control(self._event, ControlFilesV1.oom_control)
            # Armed: whatever comes after what is read from here on is signalled.
            self._top = self._witnesses[-1].group if self._witnesses else group
            self._top_failcnt = 0 if self._sees_all else self._top.failcnt
            control = self._look()
            if control is None:
                raise group._directory.removed_error()
            self._kills = control.oom_kill or 0
            self._kills_below: dict[CgroupV1, int] = {}
            self._kills_below = self._survey()
            self._files = files.pop_all()
        self._looks = 0  # how many of LOOK_AGAIN have been taken
        self._unmatched = 0  # signals that may still be followed by a kill
        self._removal_due: float | None = None
        self._signals_at_removal = 0

    def filenos(self) -> list[int]:
        """What to wait for."""
        return [
            self._event.fileno(),
            self._below.fileno(),
            *(witness.event.fileno() for witness in self._witnesses),
        ]

    def close(self) -> None:
        """Ends it; the kernel drops a registration with the last file descriptor of its eventfd."""
        self._files.close()

    def collect(self, ready: list[int] | None) -> Iterator[Event]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look."""
        signals = self._take(self._event, ready)
        for witness in self._witnesses:
            witness.signals += self._take(witness.event, ready)
        control = self._look()
        now = time.monotonic()
        if control is None:
            yield from self._removal(signals, now)
            return
        if signals:
            for origin in self._origins(signals):
                yield OomEvent(cgroup=self.group, time=now, under_oom=control.under_oom, origin=origin)
                if origin is not self.group or not control.oom_kill_disable:
                    self._looks = 0
            if self._looks == 0:
                self._unmatched += signals
        kills = (control.oom_kill or 0) - self._kills
        self._kills += kills
        # Groups below are looked at when there is time: at the first wake-up, every microsecond counts.
        if not signals or ready is None:
            kills += self._kills_below_since()
        if kills > 0:
            self._unmatched -= kills
            yield KernelKill(cgroup=self.group, time=now, count=kills)
        self._plan(now)

    def _take(self, event: EventFD, ready: list[int] | None) -> int:
        return (event.try_read() or 0) if ready is None or event.fileno() in ready else 0

    def _look(self) -> OomControlV1 | None:
        """``memory.oom_control`` through the file opened at the start, or None once the group is removed."""
        fd = self._control.pin()
        try:
            return OomControlV1.parse(pread_whole(fd))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        finally:
            self._control.unpin()

    def _plan(self, now: float) -> None:
        """Decides when to look again: a kill is counted late, and a witness hears of an OOM before we do."""
        if self._unmatched > 0 and self._looks < len(LOOK_AGAIN):
            self.due = now + LOOK_AGAIN[self._looks]
            self._looks += 1
            return
        self._unmatched = 0
        if self.due is None and any(witness.signals for witness in self._witnesses):
            self.due = now + LOOK_AGAIN[4]
        else:
            # An OOM above that never reached this group began before it was subscribed to.
            for witness in self._witnesses:
                witness.signals = 0
            self.due = None

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

    def _origins(self, signals: int) -> Iterator[CgroupV1 | None]:
        """The groups whose limits led to that many *signals*, each once, this group first."""
        group = self.group
        for witness in self._witnesses:
            shared = min(signals, witness.signals)
            if signals > shared:
                yield group
            witness.signals -= shared
            signals, group = shared, witness.group
        if signals:
            yield group if self._sees_all else self._top_or_unknown()

    def _top_or_unknown(self) -> CgroupV1 | None:
        """The highest group that can be watched, if its limit was hit since the last time, else None."""
        with contextlib.suppress(CgroupNotFoundError):
            former, self._top_failcnt = self._top_failcnt, self._top.failcnt
            if self._top_failcnt != former:
                return self._top
        return None

    # Kills in groups below: on v1, ``oom_kill`` counts in the victim's own group only.

    def _kills_below_since(self) -> int:
        """How many kills there were in the groups below since the last time."""
        former = self._kills_below
        try:
            self._kills_below = self._survey()
        except CgroupNotFoundError:  # removed just now, which the next look will find
            return 0
        return sum(kills - former.get(group, 0) for group, kills in self._kills_below.items())

    def _survey(self) -> dict[CgroupV1, int]:
        """The kills in each group below, so far; each that is new is subscribed to as well."""
        kills: dict[CgroupV1, int] = {}
        for group in self.group.walk():
            if group == self.group:
                continue
            with contextlib.suppress(CgroupNotFoundError):
                if group not in self._kills_below:
                    with contextlib.suppress(AccessDeniedError):
                        group.cgroup_event_control(self._below, ControlFilesV1.oom_control)
                kills[group] = group.oom_control.oom_kill or 0
        return kills

    # Removal.

    def _removal(self, signals: int, now: float) -> Iterator[Event]:
        """The group is gone, which adds 1 to its eventfd some time later; anything above that was an OOM."""
        self._signals_at_removal += signals
        if self._removal_due is None:
            self._removal_due = now + REMOVAL_SIGNAL
        if self._signals_at_removal < 2 and now < self._removal_due:
            self.due = self._removal_due
            return
        self.due = None
        ooms = max(0, self._signals_at_removal - 1)
        if ooms:
            for origin in self._origins(ooms):
                yield OomEvent(cgroup=self.group, time=now, under_oom=False, origin=origin)
        yield Removed(cgroup=self.group, time=now, counts_final=not ooms and self._unmatched <= 0)
