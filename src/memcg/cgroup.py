"""Groups: where the files of a cgroup directory and the verbs of this library meet; and how groups are found."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from abc import ABC, abstractmethod
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from .cgroupfs.directory import Directory, is_encodable
from .cgroupfs.files import ControlFile
from .cgroupfs.formats import parse_page_size
from .cgroupfs.mounts import Hierarchy, cgroup_path_of, memory_hierarchy
from .controls.v1 import ControlFilesV1
from .errors import (
    CgroupBusyError,
    CgroupNotFoundError,
    ControlFileMissingError,
    InvalidTypeError,
    InvalidValueError,
    NotACgroupError,
    NotSupportedError,
    kernel_error,
    kernel_errors,
    shown,
)
from .oom.control import OomController
from .pidfd import parse_pid
from .spawn import Spawner
from .units import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from .controls.stat import MemoryStat


class Cgroup(Spawner, ABC):
    """A memory cgroup: a `CgroupV1`, as cgroup v2 is for a later release.

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

        On cgroup v1 it inherits ``swappiness`` and whether the OOM killer is switched off.

        Raises:
            InvalidValueError: *name* is no name, or *limit* no limit; nothing is created.
            CgroupExistsError: there is one of that name.
            AccessDeniedError: the caller may not create groups here.
            KernelError: ENOMEM where this group is at its limit; ENOSPC where the machine has too many groups.
        """
        if limit is not None:
            parse_page_size(limit)
        group = type(self)(self._directory.create(name))
        if limit is not None:
            try:
                group.limit = limit
            except BaseException:
                group._directory.remove()
                raise
        return group

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
                users = [f"process {pid}" for pid in self.processes()]
                users += [f"group {child.name!r}" for child in self.children()]
                if users or deadline.expired:
                    hint = (
                        f"in use by {', '.join(users[:10])}{', ...' if len(users) > 10 else ''}" if users else ""
                    )
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
        """Moves a process into this group. On v1, memory that it uses already stays charged where it is.

        Raises:
            InvalidValueError: 0 or less, which the kernel would take for something else.
            ProcessNotFoundError: there is no such process.
            AccessDeniedError: the caller may not move it: another user's, or the group is not the caller's.
        """
        hints = {errno.EINVAL: "a kernel thread cannot be moved"}
        with kernel_errors(f"move process {pid} into the cgroup", str(self.path), hints):
            # Plain decimal: the kernel reads "0x1" and "01" in other bases.
            self._directory.write("cgroup.procs", b"%d" % parse_pid(pid))

    # Memory.

    @property
    @abstractmethod
    def usage(self) -> int:
        """Memory that is charged to this group and those below, in bytes, without swap."""

    @property
    @abstractmethod
    def peak(self) -> int:
        """The most that `usage` has been, in bytes."""

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """The most that `usage` may be, in bytes; None is no limit. Text such as ``"512M"`` may be assigned.

        Lowering it never kills: where usage cannot be reclaimed below it, `LimitBelowUsageError` is raised and
        the old limit stays. Raising it past a limit on memory with swap raises that by the same amount. Values
        round down to a page, and reading shows the result; less than a page is refused.
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
    def oom(self) -> OomController:
        """Out-of-memory handling."""


Counter = Literal["memory", "memsw", "kmem", "kmem.tcp"]
"""What is counted, which is memory, memory with swap, kernel memory, or TCP buffers."""


@final
class CgroupV1(ControlFilesV1, Cgroup):
    """A group of the memory hierarchy of cgroup v1, with every control file as an attribute.

    Kernel: Documentation/admin-guide/cgroup-v1/memory.rst and cgroups.rst.
    """

    __slots__ = ()

    def processes(self) -> tuple[int, ...]:
        # 0 stands for a process of another PID namespace, and to kill(2) for one's own process group.
        return tuple(sorted(set(self.cgroup_procs) - {0}))

    @property
    def populated(self) -> bool:
        for group in self.walk():
            with contextlib.suppress(CgroupNotFoundError):
                if group.cgroup_procs:
                    return True
        return False

    @property
    def usage(self) -> int:
        return self.usage_in_bytes

    @property
    def peak(self) -> int:
        return self.max_usage_in_bytes

    @property
    def limit(self) -> int | None:
        return self.limit_in_bytes

    @limit.setter
    def limit(self, limit: int | str | None) -> None:
        new = None if limit is None else parse_page_size(limit) // PAGESIZE * PAGESIZE
        if new == 0:
            raise InvalidValueError("a limit of 0 leaves no room for anything: choose a page or more")
        former_memsw = self._make_room(new)
        try:
            self.limit_in_bytes = new
        except BaseException:
            if former_memsw is not None:
                self.memsw_limit_in_bytes = former_memsw
            raise

    def _make_room(self, limit: int | None) -> int | None:
        """Raises the limit on memory with swap where it is in the way of *limit*, and returns what it was."""
        try:
            memsw = self.memsw_limit_in_bytes
        except ControlFileMissingError:  # no swap accounting
            return None
        if memsw is None or (limit is not None and limit <= memsw):
            return None
        former = self.limit_in_bytes
        self.memsw_limit_in_bytes = None if limit is None or former is None else memsw + limit - former
        return memsw

    @property
    def oom(self) -> OomController:
        return OomController(self)

    def reset_max_usage(self, counter: Counter = "memory") -> None:
        """Sets ``max_usage_in_bytes`` to what is used now; with *counter*, that of another counter."""
        self._reset(counter, "max_usage_in_bytes")

    def reset_failcnt(self, counter: Counter = "memory") -> None:
        """Sets ``failcnt`` to 0; with *counter*, that of another counter."""
        self._reset(counter, "failcnt")

    def _reset(self, counter: Counter, file: str) -> None:
        prefixes = {"memory": "", "memsw": "memsw_", "kmem": "kmem_", "kmem.tcp": "kmem_tcp_"}
        if not isinstance(counter, str) or counter not in prefixes:
            raise InvalidValueError(f"a counter is one of {', '.join(prefixes)}, not {shown(counter)}")
        control: ControlFile[int] = getattr(CgroupV1, prefixes[counter] + file)
        control._write(self, b"0")


# Finding groups.


def root() -> Cgroup:
    """The highest group that can be seen: the root of the hierarchy, or what a container has for it.

    Raises:
        NoMemoryControllerError: no hierarchy with the memory controller is mounted here.
        NotSupportedError: it is on cgroup v2, which a later release brings.
    """
    hierarchy = memory_hierarchy()
    mount = min(hierarchy.mounts, key=lambda mount: mount.root.count("/") if mount.root != "/" else 0)
    return _group(hierarchy, mount.cgroup_path(""))


def current() -> Cgroup:
    """The group that this process is in. Raises as `root` does."""
    hierarchy = memory_hierarchy()
    return _group(hierarchy, cgroup_path_of("self", hierarchy.version))


def of(pid: int) -> Cgroup:
    """The group that a process is in. Raises as `root` does, and:

    Raises:
        ProcessNotFoundError: there is no such process.
        NotACgroupError: its group cannot be seen from here, as it is outside this container.
    """
    hierarchy = memory_hierarchy()
    return _group(hierarchy, cgroup_path_of(parse_pid(pid), hierarchy.version))


def open(path: str | os.PathLike[str]) -> Cgroup:
    """The group at *path*. Raises as `root` does, and:

    Args:
        path: Relative to the root of the hierarchy that has the memory controller, with or without a leading
            slash, as /proc/PID/cgroup shows it (``"/jobs/7"``); or a full path below its mount
            (``"/sys/fs/cgroup/memory/jobs/7"``).

    Raises:
        InvalidValueError: *path* is empty, or has ``..``, NUL or a newline in it.
        CgroupNotFoundError: there is no such group.
        NotACgroupError: *path* is a directory outside the hierarchy, or a symlink is in the way.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InvalidTypeError(f"the path of a cgroup is a str or a path, not {shown(path)}")
    if not text or ".." in text.split("/") or not is_encodable(text):
        raise InvalidValueError(f"{shown(text)} is no path of a cgroup: not empty, without '..', NUL or newline")
    hierarchy = memory_hierarchy()
    text = os.path.normpath(text).replace("//", "/")  # which normpath() leaves at the start
    for mount in sorted(hierarchy.mounts, key=lambda mount: len(mount.point), reverse=True):
        if text == mount.point or text.startswith(mount.point.rstrip("/") + "/"):
            return _group(hierarchy, mount.cgroup_path(text[len(mount.point) :]))
    try:
        return _group(hierarchy, text)
    except CgroupNotFoundError as error:
        if os.path.lexists(text) and os.path.isabs(text):
            points = ", ".join(mount.point for mount in hierarchy.mounts)
            raise NotACgroupError(
                f"{text} is outside the hierarchy that has the memory controller, which is mounted at {points}"
            ) from error
        raise


def _group(hierarchy: Hierarchy, cgroup_path: str) -> Cgroup:
    if hierarchy.version == 2:
        raise NotSupportedError(
            "the memory controller is on cgroup v2 here, which this release of memcg does not handle yet; it "
            "needs a v1 memory hierarchy (on most distributions: boot with systemd.unified_cgroup_hierarchy=0)"
        )
    *hidden, last = hierarchy.locate(cgroup_path)
    for mount, relative in hidden:
        with contextlib.suppress(NotACgroupError):
            return CgroupV1(Directory.find(mount, relative))
    return CgroupV1(Directory.find(*last))
