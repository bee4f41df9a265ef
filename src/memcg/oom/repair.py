"""How what an abandoned hold has left behind is put back.

A repair writes only to files that the author of the mark could have written, and never gives a group more memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from abc import ABC, abstractmethod
from mmap import PAGESIZE
from typing import TYPE_CHECKING, NamedTuple, final

from ..controls.v1 import ControlFilesV1
from ..errors import CgroupNotFoundError, ControlFileMissingError, MemcgError, kernel_error, kernel_errors
from ..units import UNLIMITED, Deadline, format_size
from .marks import (
    HIGH,
    HOLD,
    OFF_BEFORE,
    SWITCH,
    Holder,
    Mark,
    attribute,
    holder_at,
    lock,
    opened,
    read_mark_at,
    remove_attribute,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import Cgroup

_PATIENCE = 0.2
"""Seconds for which a repair waits for a lock that is no guard's: another repair, or the keeper of a guard that is
gone, is done by then."""


class Repaired(NamedTuple):
    """One thing that was put back, or left as it is for a reason."""

    path: str
    what: str


class Repair(NamedTuple):
    """What came of a repair."""

    done: tuple[Repaired, ...] = ()
    failed: tuple[MemcgError, ...] = ()
    """What could not be put back, and why; the mark is then still there."""
    holder: Holder | None = None
    """The live guard for whose sake nothing was done."""


def repair(group: Cgroup) -> Repair:
    """Puts back what an abandoned hold of *group* has left, and does nothing where there is none, or a live one.

    The killer comes on again, there and in the groups below that have inherited the switch, and a limit that the
    hold has raised for a while comes down where usage allows. No limit is ever raised.

    Raises:
        AccessDeniedError: the caller may not read the directory. What else is refused is in `Repair.failed`.
    """
    try:
        with opened(group) as directory:
            deadline = Deadline(_PATIENCE)
            while not (locked := lock(directory, fcntl.LOCK_EX)):
                if (mark := read_mark_at(directory)) is None:
                    return Repair()
                holder = holder_at(directory, mark)
                if holder is not None and holder.is_guard:
                    return Repair(holder=holder)
                if deadline.expired:  # a foreign lock
                    break
                time.sleep(0.005)  # nothing tells that a lock is free, without waiting for it for ever
            try:
                mark = read_mark_at(directory)
                if mark is None:
                    return Repair()
                repairer = _RepairerV1 if group._directory.mount.version == 1 else _RepairerV2
                return repairer(group, directory, mark, locked=locked).run()
            finally:
                # Not by closing alone: a child that another thread has forked meanwhile has the file open too.
                fcntl.flock(directory, fcntl.LOCK_UN)
    except CgroupNotFoundError:
        return Repair()


class _Repairer(ABC):
    """A repair under way."""

    def __init__(self, group: Cgroup, directory: int, mark: Mark, *, locked: bool) -> None:
        self._group = group
        self._directory = directory
        self._mark = mark
        self._locked = locked
        self._marked_by_root = attribute(directory, HOLD[:1]) is not None
        self._done: list[Repaired] = []
        self._failed: list[MemcgError] = []

    def run(self) -> Repair:
        self._put_back()
        if not self._failed:
            with self._failing():
                remove_attribute(self._directory, HOLD, str(self._group.path))
                self._done.append(Repaired(str(self._group.path), "the mark of the hold is removed"))
                self._forget()
        return Repair(tuple(self._done), tuple(self._failed))

    @abstractmethod
    def _put_back(self) -> None:
        """Puts back what the mark tells of."""

    @abstractmethod
    def _forget(self) -> None:
        """Removes what marks the hold elsewhere."""

    def _lower(self, limit: str, usage: str, former: int | None, raised: int | None, least: int = 0) -> None:
        """Takes a raised limit back where it still is what the hold has made it.

        Args:
            limit: The file of the limit.
            usage: The file of what is used.
            least: What the limit must not be below.
        """
        if former is None or raised is None or former < PAGESIZE or (raised != -1 and raised <= former):
            return
        group, path = self._group, f"{self._group.path}/{limit}"
        if _read_number(group, limit) != (UNLIMITED if raised == -1 else raised):
            return
        if _read_number(group, usage) < former and least <= former:
            self._write(group, limit, former)
            self._done.append(Repaired(path, f"back to {format_size(former)}"))
        else:
            # Nobody is to be stopped or killed for it: what counts is that the kernel can act again.
            left = f"left at {format_size(None if raised == -1 else raised)}, to which the hold had raised it"
            self._done.append(Repaired(path, f"{left}: more than the former {format_size(former)} is in use"))

    def _write(self, group: Cgroup, name: str, value: int) -> None:
        path = f"{group.path}/{name}"
        with kernel_errors(f"write {value} to {name}", path):
            # Of this very directory and through no symlink; what is judged is what is written to.
            file = group._directory.open_file(name, os.O_WRONLY)
            try:
                if not self._is_authors(os.fstat(file)):
                    hint = (
                        "the mark on the group may be by a user who may not write this file; "
                        f"if it is right, write {value} to it by hand"
                    )
                    raise kernel_error(errno.EPERM, f"repair {name}", path, hint)
                os.write(file, b"max" if value == -1 else b"%d" % value)
            finally:
                os.close(file)

    def _is_authors(self, file: os.stat_result) -> bool:
        """Whether all those who could have left the mark may write *file*.

        A trusted attribute is root's. A user attribute takes the right to write the directory; and who owns the
        directory can give himself that. Without this, root would do for a user what that user may not.
        """
        directory = os.fstat(self._directory)
        if self._marked_by_root or file.st_mode & stat.S_IWOTH:
            return True
        if directory.st_uid not in (0, file.st_uid) or directory.st_mode & stat.S_IWOTH:
            return False
        return not directory.st_mode & stat.S_IWGRP or bool(
            file.st_mode & stat.S_IWGRP and file.st_gid == directory.st_gid
        )

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Keeps an error of the body for the report, so that the rest is still done. Who is gone needs nothing."""
        try:
            yield
        except (CgroupNotFoundError, ControlFileMissingError):
            return
        except MemcgError as error:
            self._failed.append(error)


@final
class _RepairerV1(_Repairer):
    """The switch, and who has inherited it."""

    def _put_back(self) -> None:
        self._switch_on_all()
        mark = self._mark
        with self._failing():
            self._lower("memory.limit_in_bytes", "memory.usage_in_bytes", mark.limit, mark.raised)
        with self._failing():
            least = _read_number(self._group, "memory.limit_in_bytes")  # that with swap can never be the lower one
            usage = "memory.memsw.usage_in_bytes"
            self._lower("memory.memsw.limit_in_bytes", usage, mark.memsw, mark.raised_memsw, least)

    def _forget(self) -> None:
        if not self._locked:
            # A new hold may have begun, and these would be its own. Without a hold they do no harm.
            return
        for child in self._group.children():
            with contextlib.suppress(MemcgError), opened(child) as directory:
                remove_attribute(directory, OFF_BEFORE, str(child.path))

    def _switch_on_all(self) -> None:
        """Switches the killer on in the group, and in those below that have inherited the switch.

        Each comes after those below it. So should this be ended half-way, the next repair still finds its way to
        the rest through groups that are off. What is made below a group before it is on is found by a second look.
        """
        seen = {self._group}
        stack = [(self._group, False)]
        while stack:
            group, looked_below = stack.pop()
            if looked_below:
                with self._failing():
                    self._switch_on(group)
            else:
                stack.append((group, True))
            with self._failing():
                for child in group.children():
                    with self._failing():
                        if child not in seen and self._has_inherited(child):
                            seen.add(child)
                            stack.append((child, False))

    def _has_inherited(self, child: Cgroup) -> bool:
        if not is_off(child, self._mark.switch):
            return False
        with opened(child) as directory:
            return attribute(directory, HOLD) is None and attribute(directory, OFF_BEFORE) is None

    def _switch_on(self, group: Cgroup) -> None:
        if is_off(group, self._mark.switch):
            self._write(group, self._mark.switch, 0)
            self._done.append(Repaired(str(group.path), "the kernel's OOM killer is on again"))


@final
class _RepairerV2(_Repairer):
    """``memory.high``, and the freezer."""

    def _put_back(self) -> None:
        group, mark = self._group, self._mark
        with self._failing():
            # A limit first, as lowering it kills whom ``high`` does not hold back any more.
            self._lower("memory.max", "memory.current", mark.limit, mark.raised)
        with self._failing():
            high = mark.high
            if high is not None and _read_number(group, HIGH) < (UNLIMITED if high == -1 else high):
                self._write(group, HIGH, high)
                self._done.append(
                    Repaired(f"{group.path}/{HIGH}", f"back to {'max' if high == -1 else format_size(high)}")
                )
        with self._failing():
            if mark.frozen and _read_number(group, "cgroup.freeze"):
                self._write(group, "cgroup.freeze", 0)
                self._done.append(Repaired(str(group.path), "thawed"))

    def _forget(self) -> None:
        pass


def is_off(group: Cgroup, switch: str = SWITCH) -> bool:
    """Whether *group*, of cgroup v1, keeps the kernel's killer away, by that *switch*."""
    if switch == SWITCH:
        return ControlFilesV1.oom_control.read(group).oom_kill_disable
    return ControlFilesV1.oom_delay_millisecs.read(group) != 0


def _read_number(group: Cgroup, name: str) -> int:
    with kernel_errors(f"read {name}", f"{group.path}/{name}"):
        try:
            text = group._directory.read(name)
        except FileNotFoundError:  # no swap accounting, though the mark says so
            return -1
    return UNLIMITED if text == b"max\n" else int(text)
