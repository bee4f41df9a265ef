"""What a group is and can do, on either version of cgroup."""

from __future__ import annotations

import contextlib
import errno
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from ..cgroupfs.delegation import joining_error, processes_of
from ..cgroupfs.directory import Directory
from ..cgroupfs.formats import parse_page_size
from ..errors import CgroupBusyError, CgroupNotFoundError, MemcgError, kernel_error, listed
from ..pidfd import parse_pid
from ..spawn import Spawner
from ..units import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from ..controls.pressure import Pressure
    from ..controls.stat import MemoryStat
    from ..notify.events import Event
    from ..notify.subscription import Subscription
    from ..notify.triggers import Trigger
    from ..oom.control import OomController

PATIENCE = 10.0
"""How long to wait for processes that were killed or are to freeze, in seconds."""


class Cgroup(Spawner, ABC):
    """A memory cgroup: a `CgroupV1` or a `CgroupV2`.

    It is a value that names one directory, and holds nothing open. Two are equal if they name the same directory;
    a group that was removed and created again is another one, and the old `Cgroup` raises `CgroupRemovedError`
    instead of reaching it. Get one from `root`, `current`, `of`, `open` or `temporary`, or from another group.
    """

    __slots__ = ("_where",)

    def __init__(self, directory: Directory) -> None:
        self._where = directory

    @property
    def _directory(self) -> Directory:
        return self._where

    # What it is.

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self._directory.path)

    @property
    def name(self) -> str:
        """The last part of `path`."""
        return self.path.name

    @property
    def cgroup_path(self) -> str:
        """The path in the hierarchy, as /proc/PID/cgroup shows it."""
        return self._directory.mount.cgroup_path(self._directory.relative)

    @property
    def exists(self) -> bool:
        """Whether it is still there."""
        return self._directory.exists

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cgroup):
            return NotImplemented
        return self._directory.identity == other._directory.identity

    def __hash__(self) -> int:
        return hash(self._directory.identity)

    def __repr__(self) -> str:
        return f"<memcg.{type(self).__name__} {self.cgroup_path!r}>"

    # The tree.

    @property
    def parent(self) -> Self | None:
        """The group above, or None for the highest that can be seen from here."""
        directory = self._directory.parent()
        return None if directory is None else type(self)(directory)

    def __truediv__(self, name: str) -> Self:
        """The child of that name, which must exist: ``cg / "name"``."""
        return type(self)(self._directory.child(name))

    def children(self) -> tuple[Self, ...]:
        """The groups directly below, sorted by name."""
        found = []
        for name in self._directory.children():
            with contextlib.suppress(CgroupNotFoundError):  # removed meanwhile
                found.append(type(self)(Directory.find(self._directory.mount, self._directory.join(name))))
        return tuple(found)

    def walk(self) -> Iterator[Self]:
        """This group, then all that are below, each before its children. Groups removed meanwhile are left out.

        Raises:
            CgroupRemovedError: this group is gone.
        """
        children = self.children()
        yield self
        for child in children:
            with contextlib.suppress(CgroupNotFoundError):
                yield from child.walk()

    def create(self, name: str, *, limit: int | str | None = None) -> Self:
        """Creates a child group, with a limit as `limit` takes it, and returns it.

        On cgroup v1 it inherits ``swappiness`` and whether the OOM killer is switched off. On v2 this group gives
        its children the memory controller from then on, which it can as long as it has no processes itself.

        Raises:
            InternalProcessesError: on v2, this group has processes; the message names them.
            NoMemoryControllerError: on v2, this group has no memory controller; the message says who withholds it.
            InvalidValueError: *name* is no name, or *limit* no limit; nothing is created.
            CgroupExistsError: there is one of that name.
            AccessDeniedError: the caller may not create groups here.
            KernelError: ENOMEM where this group is at its limit; ENOSPC where the machine has too many groups.
        """
        if limit is not None:
            parse_page_size(limit)
        group = type(self)(self._make(name))
        if limit is not None:
            try:
                group.limit = limit
            except BaseException:
                group._directory.remove()
                raise
        return group

    def _make(self, name: str) -> Directory:
        """Makes the directory of a child."""
        return self._directory.create(name)

    def remove(self) -> None:
        """Removes the group, which must have no processes and no children.

        Where only the last traces of a process that has exited are in the way, it waits for those, up to 1 s.

        Raises:
            CgroupBusyError: it has processes or children; the message names them.
            CgroupRemovedError: it is gone already.
            AccessDeniedError: the caller may not remove it.
        """
        deadline = Deadline(1)
        pause = 0.001
        while True:
            try:
                return self._directory.remove()
            except CgroupBusyError as error:
                users = [f"process {pid}" for pid in processes_of(self._directory)]
                users += [f"group {child.name!r}" for child in self.children()]
                if users or deadline.expired:
                    hint = f"in use by {listed(users)}" if users else ""
                    raise kernel_error(errno.EBUSY, "remove the cgroup", str(self.path), hint) from error
            time.sleep(pause)  # v1 has nothing to wait for here
            pause *= 2

    # Processes.

    @abstractmethod
    def processes(self) -> tuple[int, ...]:
        """The PIDs of the processes in this very group, sorted; those of another PID namespace are left out."""

    @property
    @abstractmethod
    def populated(self) -> bool:
        """Whether there is a process in this group or below."""

    def add(self, pid: int) -> None:
        """Moves a process into this group. Memory that it uses already stays charged where it is.

        Raises:
            InvalidValueError: 0 or less, which the kernel would take for something else.
            ProcessNotFoundError: there is no such process.
            InternalProcessesError: on v2, the group gives controllers to its children, so it has no processes.
            AccessDeniedError: the caller may not move it: another user's, or the group is not the caller's.
        """
        try:
            # Plain decimal: the kernel reads "0x1" and "01" in other bases.
            self._directory.write("cgroup.procs", b"%d" % parse_pid(pid))
        except MemcgError:
            raise
        except OSError as error:
            raise joining_error(
                error.errno or errno.EIO, f"move process {pid} into the cgroup", self._directory
            ) from error

    @abstractmethod
    def kill(self, *, timeout: float | None = PATIENCE) -> None:
        """Kills all processes in this group and below (SIGKILL), and waits until they are gone.

        Also those that fork meanwhile, and on v2 those that are frozen.

        Raises:
            WaitTimeoutError: some are left when the time is up; the message names them.
            CgroupBusyError: this process is in there itself.
            AccessDeniedError: the caller may not kill them.
        """

    @abstractmethod
    def freeze(self, *, timeout: float | None = PATIENCE) -> None:
        """Stops all processes in this group and below, and waits until they have stopped.

        Whatever joins later stops too. A process stops when it leaves the kernel: one that is throttled at
        ``memory.high`` takes up to 2 seconds, one that populates a large mapping takes longer.

        Raises:
            WaitTimeoutError: some run on when the time is up; the message names them. The group is thawed again,
                unless it had been told to freeze before.
            CgroupBusyError: this process is in there itself.
            NotSupportedError: on v1, whose memory hierarchy has no freezer.
            ControlFileMissingError: before Linux 5.2.

        Kernel: cgroup-v2.rst, ``cgroup.freeze``.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Lets the processes that `freeze` has stopped go on; where a group above is frozen, once that is thawed.

        Raises:
            NotSupportedError: on v1, whose memory hierarchy has no freezer.
        """

    # Memory.

    @property
    @abstractmethod
    def usage(self) -> int:
        """Memory that is charged to this group and those below, in bytes, without swap.

        The root of cgroup v2 has no such file, nor a limit and a peak.
        """

    @property
    @abstractmethod
    def peak(self) -> int:
        """The most that `usage` has been, in bytes; on v2 from Linux 5.19 on."""

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """The most that `usage` may be, in bytes; None is no limit. Text such as ``"512M"`` may be assigned.

        Lowering it never kills: where usage cannot be reclaimed below it, `LimitBelowUsageError` is raised and
        the old limit stays. On v2 the library sees to that: it lowers ``memory.high`` first, which reclaims, and
        puts it back in the end. Processes are slowed down meanwhile, but one that gets hold of much memory in just
        that moment may still be killed. Raising it past a limit on memory with swap (v1) raises that by the same
        amount. Values round down to a page, and reading shows the result; less than a page is refused.
        """

    @limit.setter
    @abstractmethod
    def limit(self, limit: int | str | None) -> None: ...

    @property
    @abstractmethod
    def stat(self) -> MemoryStat:
        """What the memory is used for."""

    @property
    @abstractmethod
    def pressure(self) -> Pressure:
        """How long processes had to wait for memory.

        Raises:
            NotSupportedError: on v1, where only /proc/pressure/memory has it, for the whole machine.
        """

    @abstractmethod
    def reclaim(self, nbytes: int | str) -> bool:
        """Reclaims memory, and returns whether it was *nbytes* or more; see `Reclaim`.

        Raises:
            NotSupportedError: on v1, where ``force_empty()`` reclaims all that it can.
            ControlFileMissingError: before Linux 5.19.
        """

    # Events.

    @property
    @abstractmethod
    def oom(self) -> OomController:
        """Out-of-memory handling."""

    @abstractmethod
    def subscribe(self, *triggers: Trigger) -> Subscription[Event]:
        """Tells of what *triggers* stand for, and of the removal of the group, from now on. ::

            with cg.subscribe(memcg.Oom(), memcg.Stall("full", stall=0.5, window=2)) as events:
                for event in events.until(process):
                    ...

        Args:
            triggers: One or more of `Oom`, `Empty`, `HighLimit` and `Stall`; on v1, `Oom` alone.

        Raises:
            NotSupportedError: this version of cgroup does not tell of one of them, and the message says what there
                is instead; or this is the root group, of which the kernel tells nothing but stalls.
            InvalidValueError: the window of a `Stall` is one that this kernel, or this user, cannot have.
            AccessDeniedError: on v1, the caller may not write ``cgroup.event_control`` or read
                ``memory.oom_control``; on v2, that goes for ``memory.pressure``, with a `Stall`.
            TooManyOpenFilesError: no file descriptor is left. On v1 it takes six, and one more for each ancestor.
                On v2 it takes three, and for `Oom` two and one for each ancestor, for each `Stall` two, for each
                other trigger one. Besides, all that a process has share one inotify instance, and one directory
                for groups that have the same parent.

        Kernel: memory.rst (cgroup v1), sections 9 and 10; cgroup-v2.rst, ``memory.events``.
        """
