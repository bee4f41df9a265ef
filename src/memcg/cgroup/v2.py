"""Groups of cgroup v2."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import TYPE_CHECKING, final

from ..cgroupfs.delegation import enable_memory
from ..cgroupfs.directory import pread_whole
from ..cgroupfs.formats import parse_new_limit
from ..controls.peak import Peak
from ..controls.stat_v2 import CgroupEvents
from ..controls.v2 import ControlFilesV2
from ..errors import (
    AccessDeniedError,
    CgroupRemovedError,
    ControlFileMissingError,
    LimitBelowUsageError,
    WaitTimeoutError,
    kernel_errors,
)
from ..notify.subscription import Subscription
from ..notify.triggers import check_triggers
from ..notify.v2 import SourceV2
from ..oom.control import OomControllerV2
from ..oom.marks import read_mark
from ..units import Deadline, format_size
from .base import PATIENCE, Cgroup
from .emptying import check_empty, check_outside, kill_one_by_one, members, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cgroupfs.directory import Directory
    from ..notify.events import Event
    from ..notify.triggers import Trigger
    from ..oom.control import OomController

_GLANCE = 0.25
"""How long to wait for a change of cgroup.events before looking again, in seconds: the kernel may hold a
notification back for 10 ms, and a group that is removed meanwhile never sends it."""


@final
class CgroupV2(ControlFilesV2, Cgroup):
    """A group of cgroup v2, with every memory and core control file as an attribute.

    Kernel: Documentation/admin-guide/cgroup-v2.rst.
    """

    __slots__ = ()

    def _make(self, name: str) -> Directory:
        child = self._directory.create(name)
        try:
            enable_memory(self._directory)
        except BaseException:
            child.remove()
            raise
        return child

    # Processes.

    def processes(self) -> tuple[int, ...]:
        # 0 stands for a process of another PID namespace, and to kill(2) for one's own process group.
        return tuple(sorted(set(self.cgroup_procs) - {0}))

    @property
    def populated(self) -> bool:
        try:
            return self.cgroup_events.populated
        except ControlFileMissingError:  # the root
            return any(pids for _, pids in members(self))

    def kill(self, *, timeout: float | None = PATIENCE) -> None:
        deadline = Deadline(timeout)
        check_outside(self, "kill")
        try:
            self.cgroup_kill()
        except (ControlFileMissingError, AccessDeniedError):  # before Linux 5.14; delegated without that file
            kill_one_by_one(self, deadline)
            return
        with contextlib.suppress(CgroupRemovedError):
            if not self._wait(lambda events: not events.populated, deadline):
                check_empty(self)

    def freeze(self, *, timeout: float | None = PATIENCE) -> None:
        deadline = Deadline(timeout)
        check_outside(self, "freeze")
        former = self.cgroup_freeze
        self.cgroup_freeze = True
        try:
            if not self._wait(lambda events: events.frozen is True, deadline):
                raise WaitTimeoutError(f"told to freeze, and not frozen in time, in {self.path}: {running(self)}")
        except BaseException:
            if not former:
                self.cgroup_freeze = False
            raise

    def thaw(self) -> None:
        self.cgroup_freeze = False

    def _wait(self, condition: Callable[[CgroupEvents], bool], deadline: Deadline) -> bool:
        """Waits until cgroup.events meets the *condition*; False when the time is up."""
        with ControlFilesV2.cgroup_events._open(self, os.O_RDONLY) as file:
            poll = select.poll()
            poll.register(file.fileno(), select.POLLPRI)
            while True:
                with kernel_errors("read cgroup.events", f"{self.path}/cgroup.events"):
                    events = CgroupEvents.parse(pread_whole(file.fileno()))  # which rearms the poll
                if condition(events):
                    return True
                if deadline.expired:
                    return False
                remaining = deadline.remaining()
                poll.poll(1000 * (_GLANCE if remaining is None else min(_GLANCE, remaining)))

    # Memory.

    @property
    def usage(self) -> int:
        return self.current

    @property
    def limit(self) -> int | None:
        try:
            return self.max
        except ControlFileMissingError:
            if self.parent is not None or ControlFilesV2.cgroup_type.exists(self):
                raise
            return None  # the root of all, which cannot have one

    @limit.setter
    def limit(self, limit: int | str | None) -> None:
        new = parse_new_limit(limit)
        former = self.max
        if new is None or (former is not None and new >= former) or self.current == 0:
            self.max = new
        else:
            self._lower(new)

    def _lower(self, limit: int) -> None:
        """Sets ``max`` to a *limit* below it: writing that while usage is above it would kill at once.

        Meanwhile ``high`` keeps the group from growing. Where the group is held, it does so already, and is not
        ours to write.
        """
        held = read_mark(self) is not None
        high = self.high
        try:
            usage = self._reclaim(limit) if held else self._squeeze(limit, high)
            if usage > limit:
                raise LimitBelowUsageError(
                    errno.EBUSY,
                    f"cannot lower memory.max to {limit}: {format_size(usage)} are used that cannot be reclaimed, "
                    f"and the former limit stays: choose one above that, or end processes",
                    f"{self.path}/memory.max",
                )
            self.max = limit
        finally:
            if not held and self.high != high:
                self.high = high

    def _reclaim(self, limit: int) -> int:
        """Has what is above *limit* reclaimed, and returns what is used then."""
        usage = self.current
        while usage > limit:
            self.reclaim(usage - limit)
            former, usage = usage, self.current
            if usage >= former:
                break
        return usage

    def _squeeze(self, limit: int, high: int | None) -> int:
        """The same by lowering ``high`` to the limit, which also holds back whoever needs more."""
        usage = self.current
        while usage > limit or high is None or high > limit:
            self.high = limit if high is None else min(high, limit)
            former, usage = usage, self.current
            if usage <= limit or usage >= former:
                break
        return usage

    def measure_peak(self) -> Peak:
        """The most that ``current`` is from now on, with a mark of its own that `Peak.reset` sets back. ::

            with group.measure_peak() as peak:
                run_a_phase()
                log(peak.value)

        Raises:
            NotSupportedError: before Linux 6.12.
            AccessDeniedError: the caller may not write the group's ``memory.peak``.
        """
        return Peak(self, ControlFilesV2.peak)

    def measure_swap_peak(self) -> Peak:
        """The same of ``swap_current``."""
        return Peak(self, ControlFilesV2.swap_peak)

    @property
    def oom(self) -> OomController:
        return OomControllerV2(self)

    def subscribe(self, *triggers: Trigger) -> Subscription[Event]:
        return Subscription(SourceV2(self, check_triggers(triggers)))
