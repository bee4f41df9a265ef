"""Switching the kernel's OOM killer off and on, and hearing of OOMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from ..errors import CgroupNotFoundError
from ..notify.sources import OomSourceV1
from ..notify.subscription import Subscription
from .hold import Hold

if TYPE_CHECKING:
    from datetime import timedelta

    from ..cgroup import CgroupV1
    from ..notify.events import Event
    from .hold import Rearm


@final
class OomController:
    """Out-of-memory handling of one group: ``cg.oom``.

    Out of memory is a group that is at its limit, or at an ancestor's, and whose memory cannot be reclaimed.
    """

    __slots__ = ("_group",)

    def __init__(self, group: CgroupV1) -> None:
        self._group = group

    @property
    def killer_enabled(self) -> bool:
        """Whether the kernel's OOM killer acts when this group's own limit is hit.

        It says nothing of an ancestor's limit: there, the ancestor's switch decides.
        """
        return not self._group.oom_control.oom_kill_disable

    def disable(self) -> None:
        """Switches the kernel's OOM killer off, for this group's own limit.

        From then on, who touches memory beyond the limit is stopped, in a page fault, until there is room. **If
        nobody raises the limit, ends a process or calls `enable`, that is for ever**, also after this program has
        ended: subscribe first, and be sure to act. System calls that need memory are not stopped but fail, with
        ENOMEM, EFAULT and others, and nothing is told of those. Children that are created later inherit the
        switch.

        Raises:
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``.
            KernelError: EINVAL on the root, whose killer cannot be switched off.

        Kernel: memory.rst (cgroup v1), section 10.
        """
        self._group.oom_control = True

    def enable(self) -> None:
        """Switches the kernel's OOM killer on again. Where the group is stuck, it kills at once.

        Raises:
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``.
        """
        self._group.oom_control = False

    @property
    def under_oom(self) -> bool:
        """Whether tasks of the group are stopped now, by its own limit or an ancestor's.

        With the killer enabled it is True for moments only.
        """
        return self._group.oom_control.under_oom

    @property
    def kills(self) -> int:
        """How many processes of this group, and of those below, the kernel's OOM killer has killed so far.

        On v1 the library sums the groups below; kills in groups that were removed are not in it. Before Linux
        4.13 the kernel does not count, and this is 0.
        """
        total = 0
        for group in self._group.walk():
            try:
                total += group.oom_control.oom_kill or 0
            except CgroupNotFoundError:
                if group == self._group:
                    raise
        return total

    def subscribe(self) -> Subscription[Event]:
        """Tells of each OOM, each kill by the kernel, and the removal of the group, from now on.

        Raises:
            NotSupportedError: on the root group, where the kernel never tells of an OOM.
            AccessDeniedError: the caller may not write ``cgroup.event_control`` or read ``memory.oom_control``.
            TooManyOpenFilesError: no file descriptor is left; it takes six, and one more for each ancestor.

        Kernel: memory.rst (cgroup v1), sections 9 and 10.
        """
        return Subscription(OomSourceV1(self._group))

    def hold(
        self,
        delay: float | timedelta | None,
        *,
        total: float | timedelta | None = None,
        rearm: Rearm = "episode",
        takeover: bool = False,
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

        Args:
            delay: Seconds, or a `datetime.timedelta`, from 1 ms to 24.8 days; None is no limit, which still ends
                with this process.
            total: The most that OOMs may last together, counted anew after each second without one. When that is
                used up, the killer stays on until there has been such a second.
            rearm: With "once", the killer stays on after the first expiry until ``hold.delay`` is set, as with the
                kernel patch of 2011.
            takeover: Hold the group though its killer is off already. In the end it will be on.

        Raises:
            InvalidValueError: *delay* or *total* is 0, negative, NaN, too short or too long; the message says why.
            NoLimitError: the group has no limit.
            InsideHeldGroupError: this process is in the group, or below, and would be stopped itself.
            AlreadyHeldError: there is another hold; the message says whose.
            KillerDisabledError: its killer is off already, and *takeover* is not set.
            AccessDeniedError: the caller may not write the group's ``memory.oom_control``,
                ``memory.limit_in_bytes`` or ``cgroup.event_control``.
            TooManyOpenFilesError: no file descriptor is left; it takes seven and one for each ancestor here, and
                twelve in the guard.

        Warns:
            RuntimeWarning: an ancestor has a lower limit, whose OOMs come first, and are not the hold's.
        """
        return Hold(self._group, delay, total=total, rearm=rearm, takeover=takeover)

    def __repr__(self) -> str:
        return f"<memcg.OomController {self._group.cgroup_path!r}>"
