"""Switching the kernel's OOM killer off and on, and hearing of OOMs."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn, final

from ..controls.stat_v2 import count_killed
from ..errors import CgroupNotFoundError, NotSupportedError
from ..notify.triggers import Oom
from ..notify.v1 import OomSourceV1
from ..notify.v2 import OomSourceV2
from .hold import Hold

if TYPE_CHECKING:
    from datetime import timedelta

    from ..cgroup import Cgroup, CgroupV1, CgroupV2
    from ..notify.events import Event
    from ..notify.sources import OomSource
    from ..notify.subscription import Subscription
    from .hold import Rearm


class OomController(ABC):
    """Out-of-memory handling of one group: ``cg.oom``.

    Out of memory is a group that is at its limit, or at an ancestor's, and whose memory cannot be reclaimed.
    """

    __slots__ = ("_group",)

    _group: Cgroup

    @property
    @abstractmethod
    def killer_enabled(self) -> bool:
        """Whether the kernel's OOM killer acts when this group's own limit is hit; on v2 it always does.

        It says nothing of an ancestor's limit: there, the ancestor's switch decides.
        """

    @abstractmethod
    def disable(self) -> None:
        """Switches the kernel's OOM killer off, for this group's own limit.

        From then on, who touches memory beyond the limit is stopped, in a page fault, until there is room. **If
        nobody raises the limit, ends a process or calls `enable`, that is for ever**, also after this program has
        ended: subscribe first, and be sure to act. System calls that need memory are not stopped but fail, with
        ENOMEM, EFAULT and others, and nothing is told of those. Children that are created later inherit the
        switch.

        Raises:
            NotSupportedError: on v2, which has no such switch; `hold` works on both versions.
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``.
            KernelError: EINVAL on the root, whose killer cannot be switched off.

        Kernel: memory.rst (cgroup v1), section 10.
        """

    @abstractmethod
    def enable(self) -> None:
        """Switches the kernel's OOM killer on again. Where the group is stuck, it kills at once.

        On v2, where it is never off, this does nothing.

        Raises:
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``.
        """

    @property
    @abstractmethod
    def under_oom(self) -> bool:
        """Whether tasks of the group are stopped now, by its own limit or an ancestor's.

        With the killer enabled it is True for moments only.

        Raises:
            NotSupportedError: on v2, where the kernel stops nobody.
        """

    @property
    @abstractmethod
    def kills(self) -> int:
        """How many processes of this group, and of those below, the kernel's OOM killer has killed so far.

        On v1 the library sums the groups below; kills in groups that were removed are not in it. On v2 they are,
        and with ``oom_group`` the kernel counts one more for each group that it kills. Before Linux 4.13 the
        kernel does not count, and this is 0.
        """

    def subscribe(self) -> Subscription[Event]:
        """Tells of each OOM, each kill by the kernel, and the removal of the group, from now on.

        It is the short form of ``cg.subscribe(memcg.Oom())``; see `Cgroup.subscribe`.
        """
        return self._group.subscribe(Oom())

    def hold(
        self,
        delay: float | timedelta | None,
        *,
        total: float | timedelta | None = None,
        rearm: Rearm = "episode",
        takeover: bool = False,
        headroom: int | str | None = None,
    ) -> Hold:
        """Keeps the kernel's killer away at each OOM of the group's own limit, for *delay* at most. ::

            with cg.oom.hold(10) as hold:
                for event in hold.until(process):
                    if isinstance(event, memcg.OomEvent):
                        hold.raise_limit(by="64M")

        A small program, the guard, sees to it, whatever becomes of this process: when the delay has run out, the
        killer is switched on until it has killed, and when this process is gone, everything is put back. The delay
        belongs to the OOM, however many processes it stops, and each OOM has a fresh one. OOMs of other groups'
        limits are told, and left to whoever they belong to.

        On cgroup v1 the killer is switched off, and who touches memory beyond the limit is stopped. Cgroup v2 has
        no such switch: there, the whole group is frozen a headroom below its limit, when it gets there and nothing
        can be reclaimed.

        Args:
            delay: Seconds, or a `datetime.timedelta`, from 1 ms to 24.8 days; None is no limit, which still ends
                with this process.
            total: The most that OOMs may last together, counted anew after each second without one. When that is
                used up, the killer stays on until there has been such a second.
            rearm: With "once", the killer stays on after the first expiry until ``hold.delay`` is set, as with the
                kernel patch of 2011.
            takeover: Hold the group though its killer is off, or it is frozen, already. In the end it will be on,
                and the group thawed.
            headroom: On cgroup v2, how far below the limit the group is stopped, in bytes or as text; it has to be
                enough for what all its threads can take before they stand still. By default 8 MiB, or 512 KiB for
                each thread, if that is more. On v1 it changes nothing.

        Raises:
            InvalidValueError: *delay* or *total* is 0, negative, NaN, too short or too long; the message says why.
            NoLimitError: the group has no limit.
            HoldError: on cgroup v2, the headroom is more than half of the limit, ``memory.high`` is lower than
                where the hold would stop the group, or it is frozen and *takeover* is not set.
            InsideHeldGroupError: this process is in the group, or below, and would be stopped itself.
            AlreadyHeldError: there is another hold; the message says whose.
            KillerDisabledError: its killer is off already, and *takeover* is not set.
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``,
                ``memory.limit_in_bytes`` or ``cgroup.event_control``; on v2, ``memory.max``, ``memory.high``,
                ``memory.reclaim`` or ``cgroup.freeze``.
            NotSupportedError: on cgroup v2 before Linux 5.19.
            TooManyOpenFilesError: no file descriptor is left; it takes seven and one for each ancestor here, and
                twelve in the guard.

        Warns:
            RuntimeWarning: an ancestor has a lower limit, whose OOMs come first, and are not the hold's.
        """
        return Hold(
            self._group,
            self._source,
            delay,
            total=total,
            rearm=rearm,
            takeover=takeover,
            headroom=headroom,
        )

    @abstractmethod
    def _source(self) -> OomSource:
        """What tells of OOMs, kills, and the removal of the group."""

    def __repr__(self) -> str:
        return f"<memcg.OomController {self._group.cgroup_path!r}>"


@final
class OomControllerV1(OomController):
    """As ``memory.oom_control`` has it."""

    __slots__ = ()

    def __init__(self, group: CgroupV1) -> None:
        self._group: CgroupV1 = group

    @property
    def killer_enabled(self) -> bool:
        return not self._group.oom_control.oom_kill_disable

    def disable(self) -> None:
        self._group.oom_control = True

    def enable(self) -> None:
        self._group.oom_control = False

    @property
    def under_oom(self) -> bool:
        return self._group.oom_control.under_oom

    @property
    def kills(self) -> int:
        total = 0
        for group in self._group.walk():
            try:
                total += group.oom_control.oom_kill or 0
            except CgroupNotFoundError:
                if group == self._group:
                    raise
        return total

    def _source(self) -> OomSource:
        return OomSourceV1(self._group)


@final
class OomControllerV2(OomController):
    """As far as ``memory.events`` goes: v2 has no switch."""

    __slots__ = ()

    def __init__(self, group: CgroupV2) -> None:
        self._group: CgroupV2 = group

    @property
    def killer_enabled(self) -> bool:
        return True

    def disable(self) -> NoReturn:
        raise NotSupportedError(
            f"cgroup v2 cannot switch the OOM killer off, in {self._group.path} or anywhere: use hold(), which "
            f"stops the group before its limit and leaves time to act"
        )

    def enable(self) -> None:
        pass

    @property
    def under_oom(self) -> NoReturn:
        raise NotSupportedError(
            "cgroup v2 has no such state, as the kernel stops nobody at a limit: subscribe() tells of each OOM"
        )

    @property
    def kills(self) -> int:
        if not self._group._directory.mount.local_events:
            return _kills_of(self._group)
        total = 0
        for group in self._group.walk():
            with contextlib.suppress(CgroupNotFoundError):
                total += _kills_of(group)
        return total

    def _source(self) -> OomSource:
        return OomSourceV2(self._group)


def _kills_of(group: CgroupV2) -> int:
    events = group.events
    return count_killed(events.oom_kill, events.oom_group_kill)
