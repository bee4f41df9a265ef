"""How what the guard and the kernel tell of a held group becomes events."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from typing import TYPE_CHECKING, Literal, final

from .._ffi import lib
from ..cgroupfs.mounts import is_member
from ..epoll import READABLE
from ..errors import (
    AccessDeniedError,
    AlreadyHeldError,
    ClosedError,
    GuardLostError,
    HoldError,
    InsideHeldGroupError,
    KernelError,
    KillerDisabledError,
    NotSupportedError,
    kernel_error,
)
from ..eventfd import EventFD
from ..notify.events import DelayExpired, KernelKill, OomEvent, OomResolved, Overridden, Removed
from ..units import Deadline, format_size
from . import guard as guards
from .marks import has_killer_off_before, holder_of, read_mark
from .repair import repair

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._ffi import Record, Reply
    from ..cgroup import Cgroup
    from ..notify.events import HoldEvent
    from ..notify.sources import OomSource
    from .marks import Holder, Mark

_HANGUP = select.EPOLLRDHUP
_PATIENCE = 0.5
"""How long to wait for a guard that is just ending or beginning, or for a repair, in seconds."""
_NOT_YET = ((lib.MEMCG_STEP_LOCK, errno.EWOULDBLOCK), (lib.MEMCG_STEP_MARK, errno.EEXIST))
"""What the guard answers where there is another one, or what it has left."""
_REASONS = {
    lib.MEMCG_WHY_SWITCH: "somebody else has written to the group's OOM switch",
    lib.MEMCG_WHY_HIGH: "somebody else has lowered the group's memory.high below the line of the hold",
    lib.MEMCG_WHY_INSIDE: "somebody has moved the guard into the group, where it would have frozen itself",
}
_KILLER_OFF = (lib.MEMCG_STEP_KILLER, errno.EEXIST)


@final
class HoldSource:
    """The events of a held group.

    OOMs of its own limit, and what becomes of them, are told by the guard, which has them in hand; all else by the
    kernel, as to any subscription.
    """

    def __init__(
        self,
        group: Cgroup,
        kernel: Callable[[], OomSource],
        delay: int,
        total: int,
        flags: int,
        headroom: int,
    ) -> None:
        self.group = group
        self.over: str | None = None
        """Once the last event has been told, the words for that."""
        self.slot: int = -1
        self._last: Record | None = None  # the last that is read
        with contextlib.ExitStack() as files:
            self.guard: guards.Guard = guards.acquire()
            files.callback(guards.release, self.guard)
            self._doorbell = files.enter_context(EventFD())
            # Before the hold, so that nothing is lost in between.
            self._kernel = files.enter_context(contextlib.closing(kernel()))
            files.callback(self.end)
            self._keep_guard_outside()
            reply = self._begin(delay, total, flags, headroom)
            self.slot = reply.slot
            self._files = files.pop_all()
        self.mechanism: Literal["guard", "kernel"] = "kernel" if reply.kernel else "guard"
        # What has been told, of the record's counts, and of the kernel's kills.
        self._ooms = self._resolved = self._expirations = self._expiry_kills = 0
        self._is_open = False
        self._kills_seen = self._kills_told = self._missed = 0

    @property
    def due(self) -> float | None:
        """When to look though nothing is signalled."""
        return self._kernel.due

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        own = [(self._doorbell.fileno(), READABLE), (self.guard.fileno(), _HANGUP)]
        return own + self._kernel.files()

    @property
    def kills(self) -> int:
        """How many of the kernel's kills have been told."""
        return self._kills_told + self._expiry_kills

    def read(self) -> Record:
        """What the guard has to tell; after the end, what it had."""
        return self._last or self.guard.read(self.slot)

    def call(
        self, kind: int, *, flags: int = 0, delay: int = 0, bytes: int = 0, fds: tuple[int, ...] = ()
    ) -> Reply:
        """Asks the guard for something about this hold; see `Guard.call`."""
        with guards.turn():  # as long as it is this hold that has the slot
            if self._last is not None:
                raise ClosedError("this hold is closed")
            return self.guard.call(kind, slot=self.slot, flags=flags, delay=delay, bytes=bytes, fds=fds)

    def end(self) -> None:
        """Has the guard put everything back."""
        with guards.turn():
            if self._last is not None or self.slot < 0:
                return
            self._last = self.guard.read(self.slot)
            try:
                self.guard.call(lib.MEMCG_RELEASE, slot=self.slot)
            except KernelError:  # there is no memory for a message
                raise self.guard.lost_error() from None

    def close(self) -> None:
        """Gives everything up. In a forked child, that is a copy only."""
        try:
            with contextlib.suppress(GuardLostError, ClosedError):
                self.end()
        finally:
            self._files.close()

    def __del__(self) -> None:
        if hasattr(self, "_files"):  # where a signal handler has raised before somebody could close it
            self.close()

    # The beginning.

    def _keep_guard_outside(self) -> None:
        """Moves the guard out of a group of cgroup v2 in which its owner has left it: it would freeze itself."""
        version = self.group._directory.mount.version
        for pid in self.guard.pids if version == 2 else ():
            if not is_member(pid, version, self.group.cgroup_path):
                continue
            ancestor = self.group.parent
            while ancestor is not None:
                with contextlib.suppress(KernelError):
                    ancestor.add(pid)
                    break
                ancestor = ancestor.parent
            else:
                raise InsideHeldGroupError(
                    f"the guard (process {pid}) is in {self.group.path}, and may not be moved out: start "
                    f"the first hold of this process while it is in another group"
                )

    def _begin(self, delay: int, total: int, flags: int, headroom: int) -> Reply:
        """Has the guard hold the group, once whatever an earlier guard has left there is put back."""
        deadline = Deadline(_PATIENCE)
        foreign = 0
        while True:
            late = deadline.expired
            # Asked before looked: mostly nobody has it, and the kernel takes up to 15 ms to show its locks.
            reply = self._ask(delay, total, flags | foreign, headroom)
            if not reply.error:
                return reply
            if (reply.step, reply.error) not in _NOT_YET:
                if late or (reply.step, reply.error) != _KILLER_OFF or not self._may_have_inherited():
                    raise self._refusal(reply)
                time.sleep(0.005)
                continue
            mark = read_mark(self.group)
            holder = holder_of(self.group, mark)
            if holder is not None and holder.kind == "guard":
                raise self._already_held(mark, holder)
            if mark is not None and (holder is None or not holder.is_guard):
                for error in repair(self.group).failed:
                    raise error
            if late:
                # A lock without a mark may have been that of a guard about to set one. By now it is a stranger's.
                if foreign or holder is None or holder.is_guard:
                    raise self._already_held(mark, holder)
                foreign = lib.MEMCG_FOREIGN_LOCK
            time.sleep(0.005)  # for a lock one can only wait without a deadline

    def _may_have_inherited(self) -> bool:
        """Whether its killer may be off as it was made below a held group, whose guard is about to see to it."""
        if has_killer_off_before(self.group):
            return False
        with contextlib.suppress(AccessDeniedError):
            ancestor = self.group.parent
            while ancestor is not None:
                if read_mark(ancestor) is not None:
                    return True
                ancestor = ancestor.parent
        return False

    def _ask(self, delay: int, total: int, flags: int, headroom: int) -> Reply:
        directory = self.group._directory.open()
        try:
            return self.guard.call(
                lib.MEMCG_HOLD,
                flags=flags,
                delay=delay,
                total=total,
                bytes=headroom,
                path=_hash(self.group.cgroup_path),
                fds=(directory, self._doorbell.fileno()),
            )
        finally:
            os.close(directory)

    def _already_held(self, mark: Mark | None, holder: Holder | None) -> AlreadyHeldError:
        path = self.group.path
        if mark is None or not mark.guard:
            return AlreadyHeldError(f"{path} is held already, by a guard that cannot be seen from here")
        if holder is None or holder.pid != mark.guard:  # its PIDs are those of another PID namespace
            pid = holder.pid if holder else None
            text = f"a guard outside this PID namespace{f', here process {pid}' if pid else ''}"
            return AlreadyHeldError(f"{path} is held already, by {text}", guard=pid)
        who = "this very process" if mark.guard == self.guard.pid else f"process {mark.owner}"
        return AlreadyHeldError(
            f"{path} is held already, by {who} (its guard is process {mark.guard})",
            guard=mark.guard,
            owner=mark.owner or None,
        )

    def _refusal(self, reply: Reply) -> Exception:
        """What is raised where the guard cannot hold the group."""
        path, version = str(self.group.path), self.group._directory.mount.version
        if reply.step == lib.MEMCG_STEP_KILLER and reply.error == errno.EEXIST:
            return KillerDisabledError(
                f"the OOM killer of {path} is off already, as somebody wants it or has left it: hold it with "
                f"takeover=True, which leaves it on in the end, or switch it on first (cg.oom.enable())"
            )
        if reply.step == lib.MEMCG_STEP_FROZEN and reply.error == errno.EEXIST:
            return HoldError(
                f"{path} is frozen already, as somebody wants it or has left it: hold it with takeover=True, "
                f"which leaves it thawed in the end, or thaw it first (cg.thaw())"
            )
        if reply.step == lib.MEMCG_STEP_HIGH and reply.error == errno.EEXIST:
            return HoldError(
                f"memory.high of {path} is {format_size(reply.bytes)}, below the line at which a hold would stop "
                f"the group: raise it, or set it to None"
            )
        if reply.step == lib.MEMCG_STEP_HEADROOM:
            return HoldError(
                f"the limit of {path} is too low: to stop it before the kernel kills takes a headroom of "
                f"{format_size(reply.bytes)} for what runs there now, more than half of it; raise the limit"
            )
        if (reply.step, reply.error, version) == (lib.MEMCG_STEP_FILES, errno.ENOENT, 2):
            return NotSupportedError(
                f"cannot hold {path}: that takes memory.reclaim (Linux 5.19) and a memory controller in the group"
            )
        if reply.step == lib.MEMCG_STEP_SLOT:
            return HoldError(f"cannot hold {path}: {lib.MEMCG_HOLDS} holds are the most that one process can have")
        if reply.step == lib.MEMCG_STEP_MARK and reply.error == errno.EOPNOTSUPP:
            return NotSupportedError(
                f"cannot hold {path}: this kernel has no extended attributes on cgroups (user.*: Linux 5.7; "
                f"trusted.*: for root), without which nobody could repair what is left if all is killed at once"
            )
        hints = {
            (lib.MEMCG_STEP_WATCH, errno.ENOSPC): "raise fs.inotify.max_user_watches",
            (
                lib.MEMCG_STEP_FILES,
                errno.EMFILE,
            ): "it takes 13 for each hold: raise RLIMIT_NOFILE (ulimit -Hn)",
            (lib.MEMCG_STEP_FILES, errno.EACCES): "run as root (sudo), or have root chown memory.oom_control and "
            "memory.limit_in_bytes to this user"
            if version == 1
            else "run as root (sudo), or have root chown memory.max, memory.high, memory.reclaim and "
            "cgroup.freeze to this user, or use a group that is delegated to it (systemd-run --user --scope "
            "-p Delegate=yes)",
            (lib.MEMCG_STEP_REGISTER, errno.EACCES): "run as root (sudo), or have root chown cgroup.event_control "
            "to this user",
        }
        return kernel_error(reply.error, "hold the cgroup", path, hints.get((reply.step, reply.error), ""))

    # Events.

    def collect(self, ready: list[int] | None) -> list[HoldEvent]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look."""
        lost = ready is not None and self.guard.fileno() in ready
        self._doorbell.try_read()
        events: list[HoldEvent] = []
        try:
            self._collect(ready, events)
        except GuardLostError:
            lost = True
        # What was told before is not lost: the error comes with the next use.
        if lost and not events:
            raise self.guard.lost_error()
        return events

    def _collect(self, ready: list[int] | None, events: list[HoldEvent]) -> None:
        if ready is None and self.read().state == lib.MEMCG_EXPIRED:
            # Who caused the expiry may be gone: it is told now, not when the group has been quiet for a while.
            self.call(lib.MEMCG_LOOK, flags=lib.MEMCG_FINAL)
        removed = self._take(self._kernel.collect(ready), events)
        record = self.read()
        if record.kills != self._expiry_kills:
            removed = self._take(self._kernel.collect(None), events) or removed
        self._tell(record, events)
        self._tell_kills(record, events)
        if record.state == lib.MEMCG_OVERRIDDEN:
            reason = _REASONS[record.why]
            self.over = f"{reason} ({self.group.cgroup_path!r})"
            events.append(Overridden(cgroup=self.group, time=time.monotonic(), reason=reason))
        elif removed:
            self.over = self._kernel.over
            events.append(removed)

    def _take(self, told: list[OomEvent | KernelKill | Removed], events: list[HoldEvent]) -> Removed | None:
        """Sorts what the kernel has told: into *events* goes what is not the guard's to tell."""
        removed = None
        for event in told:
            match event:
                case KernelKill():
                    self._kills_seen += event.count
                case Removed():
                    removed = event
                case OomEvent() if event.origin not in (None, self.group) or not self._is_in_hand(event):
                    events.append(event)
                case OomEvent():
                    pass  # the guard tells of it
        return removed

    def _is_in_hand(self, event: OomEvent) -> bool:
        """Whether the guard tells of an OOM that is, or may be, by the group's own limit.

        Where the kernel's killer is on, it can be over before the guard has looked.
        """
        if event.origin is not None and self.read().state != lib.MEMCG_HANDED_OVER:
            return True
        self.call(lib.MEMCG_LOOK)
        record = self.read()
        return record.state not in (lib.MEMCG_ARMED, lib.MEMCG_HANDED_OVER) or record.ooms != self._ooms

    def _tell(self, record: Record, events: list[HoldEvent]) -> None:
        """Adds what has become of the group's own OOMs since the last time, in an order that makes sense."""
        group = self.group
        ended: list[HoldEvent] = []
        if record.resolved != self._resolved:
            ended.append(OomResolved(cgroup=group, time=record.resolved_time / 1e9))
        if record.told != self._expirations:
            ended.append(
                DelayExpired(
                    cgroup=group,
                    time=record.expired_time / 1e9,
                    kills=record.kills - self._expiry_kills,
                    count=record.told - self._expirations,
                )
            )
        began: list[HoldEvent] = []
        if record.ooms != self._ooms:
            time_told, under_oom = record.oom_time / 1e9, self._kernel.under_oom
            began.append(OomEvent(cgroup=group, time=time_told, under_oom=under_oom, origin=group))
        is_open = record.state in (lib.MEMCG_OOM, lib.MEMCG_EXPIRED)
        if is_open and ended:
            events += ([] if self._is_open else began) + ended + began
        else:
            events += began + ended
        self._ooms, self._resolved, self._is_open = record.ooms, record.resolved, is_open
        self._expirations, self._expiry_kills = record.told, record.kills

    def _tell_kills(self, record: Record, events: list[HoldEvent]) -> None:
        """Adds the kernel's kills that no expiry has led to, once it is known which did."""
        if record.state == lib.MEMCG_EXPIRED:
            return
        kills = self._kills_seen - self._kills_told - record.kills
        missed = min(max(0, kills), record.missed - self._missed)
        if kills > 0:
            now = time.monotonic()
            self._kills_told += kills
            self._missed += missed
            if missed:
                events.append(KernelKill(cgroup=self.group, time=now, count=missed, missed=True))
            if kills > missed:
                events.append(KernelKill(cgroup=self.group, time=now, count=kills - missed))
        elif kills < 0:  # of a group below, which was gone before the kernel's counts were read here
            self._kills_seen -= kills


def _hash(path: str) -> int:
    """64-bit FNV-1a, by which the guard knows the group in a /proc/PID/cgroup."""
    value = 0xCBF29CE484222325
    for byte in os.fsencode(path):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
