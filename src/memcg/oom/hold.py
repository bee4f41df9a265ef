"""The hold: the kernel's OOM killer is kept away from a group for as long as its owner may deal with an OOM.

What keeps the promise is the guard (guard.py, csrc/guard.c). Here is what its owner sees of it: events (held.py),
actions, and what there is to be set and read.
"""

from __future__ import annotations

import contextlib
import errno
import warnings
from mmap import PAGESIZE
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, final

from .._ffi import lib
from ..cgroupfs.formats import parse_page_size
from ..cgroupfs.mounts import is_member
from ..errors import (
    GuardLostError,
    InsideHeldGroupError,
    InvalidTypeError,
    InvalidValueError,
    MemcgError,
    NoLimitError,
    ProcessNotFoundError,
    kernel_error,
    shown,
)
from ..notify.events import HoldEvent
from ..notify.subscription import Subscription
from ..pidfd import PidFD, parse_pid
from ..units import MiB, format_size, parse_delay
from ..victims import open_largest
from .held import HoldSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .._ffi import Record, Reply
    from ..cgroup import Cgroup
    from ..notify.sources import OomSource
    from .guard import Locked

    Delay: TypeAlias = "float | timedelta | None"

HoldState = Literal["armed", "oom", "expired", "handed_over", "ended"]
"""What a hold is doing. It waits ("armed"); it has an OOM in hand, and the delay runs ("oom"); it has let the
kernel's killer in, until that has killed ("expired"); it has left the killer there ("handed_over"); or it is over
("ended")."""

Rearm = Literal["episode", "once"]
"""Whether each OOM has a delay, or only the first."""

LEAST_HEADROOM = MiB
"""In bytes; what may be asked for, if one knows what one does."""

_STATES: dict[int, HoldState] = {
    lib.MEMCG_ARMED: "armed",
    lib.MEMCG_OOM: "oom",
    lib.MEMCG_EXPIRED: "expired",
    lib.MEMCG_HANDED_OVER: "handed_over",
}


@final
class Hold(Subscription[HoldEvent]):
    """A group's OOM killer held back, for a delay at each OOM; made by ``cg.oom.hold()``.

    It is a subscription too: iterate over it, or use ``until(process)``, and act on each `OomEvent` by
    `raise_limit`, `kill_one` or `move`, or in any other way that makes room. Whatever becomes of this process, be
    it stopped, hung, starved or dead, the kernel's killer steps in when the delay has run out, or when the process
    is gone. Leaving the ``with`` block ends the hold, and the killer is on again; where processes are blocked
    then, it kills.

    Actions are about the OOM in hand. Where there is none, as it is over or the delay has run out, they change
    nothing and return False.
    """

    _noun: ClassVar[str] = "hold"
    _source: HoldSource

    def __init__(
        self,
        group: Cgroup,
        kernel: Callable[[], OomSource],
        delay: Delay,
        *,
        total: Delay = None,
        rearm: Rearm = "episode",
        takeover: bool = False,
        headroom: int | str | None = None,
    ) -> None:
        seconds = None if delay is None else parse_delay(delay)
        most = None if total is None else parse_delay(total, "total")
        if most is not None and (seconds is None or most < seconds):
            raise InvalidValueError(f"total is at least the delay, {shown(delay)}, and not {shown(total)}")
        if rearm not in ("episode", "once"):
            raise InvalidValueError(f"rearm is 'episode' or 'once', not {shown(rearm)}")
        room = 0 if headroom is None else parse_page_size(headroom)
        if headroom is not None and room < LEAST_HEADROOM:
            raise InvalidValueError(
                f"a headroom is at least {format_size(LEAST_HEADROOM)}, as usage is counted in batches, and not "
                f"{shown(headroom)}"
            )
        _check_limits(group)
        _check_outside(group)
        flags = (lib.MEMCG_ONCE if rearm == "once" else 0) | (lib.MEMCG_TAKEOVER if takeover else 0)
        super().__init__(HoldSource(group, kernel, _nanoseconds(seconds), _nanoseconds(most), flags, room))

    # What there is to be set and read.

    @property
    def delay(self) -> float | None:
        """How long an OOM may last before the kernel's killer steps in, in seconds; None is no limit.

        Setting it starts a fresh delay where an OOM is in hand, and takes the group back where it was handed over.
        It takes what ``cg.oom.hold()`` takes, and raises what that raises, and `GuardLostError`.
        """
        delay = self._record().delay
        return delay / 1e9 if delay else None

    @delay.setter
    def delay(self, delay: Delay) -> None:
        seconds = None if delay is None else parse_delay(delay)
        self._check_usable()
        self._call(lib.MEMCG_DELAY, delay=_nanoseconds(seconds))

    @property
    def deadline(self) -> float | None:
        """When the delay of the OOM in hand runs out, as `time.monotonic` has it; None where none runs."""
        deadline = 0 if self.closed else self._record().deadline
        return deadline / 1e9 if deadline else None

    @property
    def state(self) -> HoldState:
        """What the hold does now."""
        if self.closed or self._source.over is not None:
            return "ended"
        return _STATES.get(self._record().state, "ended")

    @property
    def expirations(self) -> int:
        """How often the delay has run out, so far."""
        return self._record().expirations

    @property
    def kills(self) -> int:
        """How many kills by the kernel have been told so far, in `DelayExpired` and `KernelKill` events."""
        return self._source.kills

    @property
    def mechanism(self) -> Literal["guard", "kernel"]:
        """Who lets the kernel's killer in when the delay has run out.

        That is the guard process, or the kernel by itself, where it has ``memory.oom_delay_millisecs`` (a patch of
        2011; no public kernel has it).
        """
        return self._source.mechanism

    @property
    def frozen(self) -> bool:
        """Whether all of the group stands still, as far as the guard has seen; on cgroup v1 always False.

        There, who needs memory is stopped, and nobody else.
        """
        return bool(self._record().frozen)

    @property
    def headroom(self) -> int:
        """On cgroup v2, how far below the limit the group is stopped, in bytes; on v1, it is 0.

        It grows with the number of threads in the group, unless it was given.
        """
        return self._record().headroom

    @property
    def false_freezes(self) -> int:
        """On cgroup v2, how often the group was frozen though memory could be reclaimed after all; on v1, 0."""
        return self._record().false_freezes

    @property
    def guard_locked(self) -> Locked:
        """How much of the guard is locked in memory.

        "hot" is its program but not its tables, where RLIMIT_MEMLOCK allows no more. What is not locked was used
        once, and may have been paged out since.
        """
        return self._source.guard.locked

    @property
    def guard_pids(self) -> tuple[int, int, int]:
        """The PIDs of the guard, of its keeper, and of the keeper's warden."""
        return self._source.guard.pids

    # Actions.

    def raise_limit(
        self,
        *,
        to: int | str | None = None,
        by: int | str | None = None,
        until_resolved: bool = False,
    ) -> bool:
        """Raises the group's limit, so that blocked processes go on. From 1 MiB up, it starts a fresh delay.

        A limit on memory with swap goes up by the same amount where it is in the way, or was the one that was hit.

        Args:
            to: The new limit, in bytes or as text such as ``"512M"``.
            by: Instead of *to*, how much more than now.
            until_resolved: Take it back once the OOM is over and usage allows, at the latest with the hold, if
                usage allows then. There is no notification of that: the guard looks ten times a second. A limit
                that somebody else has written meanwhile stays, and so does one that is raised again without this.

        Raises:
            InvalidValueError: no size, or not above the limit that there is; or not one of *to* and *by*.
            AccessDeniedError: the limit may not be written.
            GuardLostError: the guard is gone.
        """
        if (to is None) == (by is None):
            raise InvalidValueError("raise_limit takes either to= or by=")
        size = parse_page_size(to) if to is not None else parse_page_size(by) if by is not None else 0
        if size < PAGESIZE:
            raise InvalidValueError(f"less than a page ({PAGESIZE} bytes) is nothing, not {shown(by or to)}")
        self._check_usable()
        flags = (lib.MEMCG_BY if by is not None else 0) | (lib.MEMCG_UNTIL_RESOLVED if until_resolved else 0)
        reply = self._call(lib.MEMCG_RAISE, flags=flags, bytes=size)
        if reply.error == errno.EINVAL:
            raise InvalidValueError(
                f"the limit of {self._group.path} is {format_size(reply.bytes)}: {shown(to)} would not raise it; "
                f"to lower it, assign to cg.limit"
            )
        if reply.error:
            raise kernel_error(reply.error, "raise the limit", str(self._group.path))
        return bool(reply.done)

    def kill_one(self) -> bool:
        """Kills (SIGKILL) the process of the group, or below, that has the most memory resident.

        The kernel's killer is kept off until that process is gone, at most for one more second.

        Raises:
            AccessDeniedError: it is another user's.
            GuardLostError: the guard is gone.
        """
        self._check_usable()
        while self.state == "oom" or self._look() == "oom":
            victim = open_largest(self._group)
            if victim is None:
                return False
            with victim:
                reply = self._call(lib.MEMCG_KILL, fds=(victim.fileno(),))
            if reply.error and reply.error != errno.ESRCH:  # then it has just gone by itself
                raise kernel_error(reply.error, f"kill process {victim.pid}", f"/proc/{victim.pid}")
            if not reply.error:
                return bool(reply.done)
        return False

    def move(self, pid: int, other: Cgroup) -> bool:
        """Moves a process to another group, where it goes on at that group's expense.

        Memory that it uses already stays charged here. The kernel alone would leave it blocked: so the limit goes
        up by a page, until usage allows to take that back.

        Raises:
            InvalidValueError: the process is not in this group, nor below.
            ProcessNotFoundError: there is no such process.
            AccessDeniedError: the caller may not move it.
            GuardLostError: the guard is gone.
        """
        if not hasattr(other, "cgroup_path"):
            raise InvalidTypeError(f"a process is moved to a Cgroup, not {shown(other)}")
        self._check_usable()
        with PidFD(parse_pid(pid)) as process:
            if all(pid not in group.processes() for group in self._group.walk()):
                raise InvalidValueError(f"process {pid} is not in {self._group.path}, nor below")
            if self._look() != "oom":
                return False
            if process.exited:
                raise ProcessNotFoundError(errno.ESRCH, "the process has exited", f"/proc/{pid}")
            other.add(pid)
        reply = self._call(lib.MEMCG_WAKE)
        if reply.error:
            raise kernel_error(reply.error, "wake the process that was moved", str(self._group.path))
        return True  # on v2, its going may have been the end of the OOM

    def expire(self) -> bool:
        """Lets the delay run out now: the kernel's killer is switched on, and kills.

        Raises:
            GuardLostError: the guard is gone.
        """
        self._check_usable()
        return bool(self._call(lib.MEMCG_EXPIRE).done)

    # Inside.

    @property
    def _group(self) -> Cgroup:
        return self._source.group

    def _record(self) -> Record:
        if not self.closed:
            self._check_usable(even_over=self._source.over is not None)
        return self._source.read()

    def _look(self) -> HoldState:
        self._call(lib.MEMCG_LOOK)
        return self.state

    def _call(
        self, kind: int, *, flags: int = 0, delay: int = 0, bytes: int = 0, fds: tuple[int, ...] = ()
    ) -> Reply:
        try:
            return self._source.call(kind, flags=flags, delay=delay, bytes=bytes, fds=fds)
        except MemcgError:
            super()._check_usable(even_over=True)  # another thread, or a signal handler, may have closed it
            raise

    def _check_usable(self, even_over: bool = False) -> None:
        super()._check_usable(even_over)
        if not even_over:
            try:
                self._source.guard.check()
            except GuardLostError:
                super()._check_usable()  # closed meanwhile: the guard goes with its last hold
                raise

    def _before_close(self) -> None:
        with contextlib.suppress(GuardLostError):
            self._source.end()


def _nanoseconds(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * 1e9)


def _check_limits(group: Cgroup) -> None:
    """Refuses a group that has no limit, and warns of an ancestor whose limit comes first."""
    limit = group.limit
    if limit is None:  # then there is none on memory with swap either, which cannot be the lower one
        raise NoLimitError(
            f"{group.path} has no memory limit, so it never runs out of memory by itself: set one (cg.limit; "
            f"the root cannot have one), or hold the group above or below it that has one"
        )
    ancestor = group.parent
    while ancestor is not None:
        other = ancestor.limit
        if other is not None and other < limit:
            warnings.warn(
                f"{ancestor.path} has a limit of {format_size(other)}, below the {format_size(limit)} of "
                f"{group.path}: it will run out first, and the hold does nothing about that",
                RuntimeWarning,
                stacklevel=4,
            )
            return
        ancestor = ancestor.parent


def _check_outside(group: Cgroup) -> None:
    """Refuses to have a group held by who is in it: at the first OOM, that process would be stopped too."""
    if is_member("self", group._directory.mount.version, group.cgroup_path):
        raise InsideHeldGroupError(
            f"this process is in {group.path}, or below: an OOM there would stop it as well, and nobody could "
            f"deal with that; hold the group from outside, or move this process away first (cg.parent.add)"
        )
