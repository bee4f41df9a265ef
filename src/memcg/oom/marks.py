"""Who holds a group, and how what was left behind is put back.

The guard of a hold locks the group's directory (flock(2)), which ends with the guard, and leaves a *mark* there,
an extended attribute, which does not. The mark is set before the killer is switched off and goes after it is on
again: a mark without a live guard is an abandoned hold.

A mark is a claim. Whoever may write the directory can leave one, and any user who can open the directory can lock
it. So a lock counts only if its holder is the guard that the mark names, and a repair writes only to files that
the mark's author could have written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import CgroupNotFoundError, ControlFileMissingError, MemcgError, kernel_error, kernel_errors
from ..units import UNLIMITED, Deadline, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import CgroupV1

HOLD = ("trusted.memcg.hold", "user.memcg.hold")
"""The mark of a hold. Only root can set, or see, the first: no mark that a user has made up shall hide it."""
OFF_BEFORE = ("trusted.memcg.off", "user.memcg.off")
"""On a child of a held group: its killer was off when the hold began, and is not the hold's to switch on."""

SWITCH = "memory.oom_control"
DELAY_SWITCH = "memory.oom_delay_millisecs"

_NUMBER = re.compile(r"-1|[0-9]{1,19}", re.ASCII)
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP)

_PATIENCE = 0.2
"""Seconds for which a repair waits for a lock that is no guard's: another repair, or the keeper of a guard that is
gone, is done by then."""


class Mark(NamedTuple):
    """What a mark says; what it does not say, or says in a way that makes no sense, is 0 or None."""

    guard: int = 0
    """The PID of the guard, in the guard's own PID namespace."""
    start: int = 0
    """When the guard started, as field 22 of its /proc/PID/stat."""
    owner: int = 0
    """The PID of the process that asked for the hold, in the guard's PID namespace."""
    delay: float | None = None
    """In seconds; None is no limit."""
    switch: str = SWITCH
    """The file that the hold has written to, and to which 0 is written to end it."""
    limit: int | None = None
    """In bytes: the limit before it was raised, to which it shall come back; -1 is no limit."""
    raised: int | None = None
    """What it was raised to."""
    memsw: int | None = None
    raised_memsw: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Mark:
        """From the text of the attribute, whatever that is."""
        words = dict(word.partition("=")[::2] for word in data.decode("ascii", "replace").split(" "))
        numbers = {key: int(word) for key, word in words.items() if _NUMBER.fullmatch(word)}
        return cls(
            guard=max(0, numbers.get("guard", 0)),
            start=max(0, numbers.get("start", 0)),
            owner=max(0, numbers.get("owner", 0)),
            delay=max(0, numbers.get("delay", 0)) / 1e9 or None,
            switch=DELAY_SWITCH if words.get("switch") == DELAY_SWITCH else SWITCH,
            limit=numbers.get("limit"),
            raised=numbers.get("raised"),
            memsw=numbers.get("memsw"),
            raised_memsw=numbers.get("raised_memsw"),
        )


class Holder(NamedTuple):
    """Who has a group's directory locked."""

    kind: Literal["guard", "unseen", "foreign"]
    """The guard that the mark names; somebody who cannot be seen from here, and has to count as a guard; or
    somebody who is no guard, and whose lock means nothing."""
    pid: int | None = None
    """As it is seen from here; None for the unseen."""

    @property
    def is_guard(self) -> bool:
        """Whether the group is held, as far as can be seen."""
        return self.kind != "foreign"


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


def read_mark(group: CgroupV1) -> Mark | None:
    """The mark on *group*, or None.

    Raises:
        CgroupRemovedError: the group is gone.
        AccessDeniedError: the caller may not read the directory.
    """
    with _opened(group) as directory:
        return _read_mark(directory)


def has_killer_off_before(group: CgroupV1) -> bool:
    """Whether *group*, below a held one, had its killer off before that hold. Raises as `read_mark` does."""
    with _opened(group) as directory:
        return _attribute(directory, OFF_BEFORE) is not None


def holder_of(group: CgroupV1, mark: Mark | None) -> Holder | None:
    """Who has the directory of *group* locked, judged by the *mark* that is on it. Raises as `read_mark` does."""
    with _opened(group) as directory:
        return _holder(directory, mark)


def repair(group: CgroupV1) -> Repair:
    """Puts back what an abandoned hold of *group* has left, and does nothing where there is none, or a live one.

    The killer comes on again, there and in the groups below that have inherited the switch, and a limit that the
    hold has raised for a while comes down where usage allows. No limit is ever raised.

    Raises:
        AccessDeniedError: the caller may not read the directory. What else is refused is in `Repair.failed`.
    """
    try:
        with _opened(group) as directory:
            deadline = Deadline(_PATIENCE)
            while not (locked := _lock(directory, fcntl.LOCK_EX)):
                if (mark := _read_mark(directory)) is None:
                    return Repair()
                holder = _holder(directory, mark)
                if holder is not None and holder.is_guard:
                    return Repair(holder=holder)
                if deadline.expired:  # a foreign lock
                    break
                time.sleep(0.005)  # nothing tells that a lock is free, without waiting for it for ever
            try:
                mark = _read_mark(directory)
                return Repair() if mark is None else _Repairer(group, directory, mark, locked=locked).run()
            finally:
                # Not by closing alone: a child that another thread has forked meanwhile has the file open too.
                fcntl.flock(directory, fcntl.LOCK_UN)
    except CgroupNotFoundError:
        return Repair()


class _Repairer:
    """A repair under way."""

    def __init__(self, group: CgroupV1, directory: int, mark: Mark, *, locked: bool) -> None:
        self._group = group
        self._directory = directory
        self._mark = mark
        self._locked = locked
        self._marked_by_root = _attribute(directory, HOLD[:1]) is not None
        self._done: list[Repaired] = []
        self._failed: list[MemcgError] = []

    def run(self) -> Repair:
        self._switch_on_all()
        for file, former, raised in (
            ("memory", self._mark.limit, self._mark.raised),
            ("memory.memsw", self._mark.memsw, self._mark.raised_memsw),  # which can never be the lower one
        ):
            with self._failing():
                self._lower(file, former, raised)
        if not self._failed:
            with self._failing():
                self._remove_marks()
        return Repair(tuple(self._done), tuple(self._failed))

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

    def _has_inherited(self, child: CgroupV1) -> bool:
        if not is_off(child, self._mark.switch):
            return False
        with _opened(child) as directory:
            return _attribute(directory, HOLD) is None and _attribute(directory, OFF_BEFORE) is None

    def _switch_on(self, group: CgroupV1) -> None:
        if is_off(group, self._mark.switch):
            self._write(group, self._mark.switch, 0)
            self._done.append(Repaired(str(group.path), "the kernel's OOM killer is on again"))

    def _lower(self, file: str, former: int | None, raised: int | None) -> None:
        """Takes a raised limit back where it still is what the hold has made it."""
        if former is None or raised is None or former < PAGESIZE or (raised != -1 and raised <= former):
            return
        name = f"{file}.limit_in_bytes"
        group, path = self._group, f"{self._group.path}/{name}"
        if _read_number(group, name) != (UNLIMITED if raised == -1 else raised):
            return
        lowest = _read_number(group, "memory.limit_in_bytes") if file != "memory" else 0
        if _read_number(group, f"{file}.usage_in_bytes") < former and lowest <= former:
            self._write(group, name, former)
            self._done.append(Repaired(path, f"back to {format_size(former)}"))
        else:
            # Nobody is to be stopped or killed for it: what counts is that the killer is on.
            left = f"left at {format_size(None if raised == -1 else raised)}, to which the hold had raised it"
            self._done.append(Repaired(path, f"{left}: more than the former {format_size(former)} is in use"))

    def _remove_marks(self) -> None:
        _remove_attribute(self._directory, HOLD, str(self._group.path))
        self._done.append(Repaired(str(self._group.path), "the mark of the hold is removed"))
        if not self._locked:
            # A new hold may have begun, and these would be its own. Without a hold they do no harm.
            return
        for child in self._group.children():
            with contextlib.suppress(MemcgError), _opened(child) as directory:
                _remove_attribute(directory, OFF_BEFORE, str(child.path))

    def _write(self, group: CgroupV1, name: str, value: int) -> None:
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
                os.write(file, b"%d" % value)
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


def is_off(group: CgroupV1, switch: str = SWITCH) -> bool:
    """Whether *group* keeps the kernel's killer away, by that *switch*."""
    if switch == SWITCH:
        return group.oom_control.oom_kill_disable
    return group.oom_delay_millisecs != 0


# Attributes.


@contextlib.contextmanager
def _opened(group: CgroupV1) -> Iterator[int]:
    """The very directory of *group*, open for reading: an O_PATH descriptor has no attributes and no lock."""
    with kernel_errors("open the cgroup", str(group.path)):
        directory = group._directory.open_file(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with kernel_errors("use the marks of the cgroup", str(group.path)):
            yield directory
    finally:
        os.close(directory)


def _read_mark(directory: int) -> Mark | None:
    data = _attribute(directory, HOLD)
    return None if data is None else Mark.parse(data)


def _attribute(directory: int, names: tuple[str, ...]) -> bytes | None:
    for name in names:
        try:
            return os.getxattr(directory, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return None


def _remove_attribute(directory: int, names: tuple[str, ...], path: str) -> None:
    for name in names:
        if _attribute(directory, (name,)) is not None:
            with kernel_errors(f"remove the mark {name}", path):
                os.removexattr(directory, name)


def _read_number(group: CgroupV1, name: str) -> int:
    with kernel_errors(f"read {name}", f"{group.path}/{name}"):
        try:
            return int(group._directory.read(name))
        except FileNotFoundError:  # no swap accounting, though the mark says so
            return -1


# Locks.


def _lock(directory: int, kind: int) -> bool:
    """Locks *directory* if it is free."""
    try:
        fcntl.flock(directory, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(directory: int, mark: Mark | None) -> Holder | None:
    status = os.fstat(directory)
    lockers = _lockers(status)
    if not lockers:
        # Shared, and for a moment: two who look do not see each other.
        if _lock(directory, fcntl.LOCK_SH):
            fcntl.flock(directory, fcntl.LOCK_UN)
            return None
        # The kernel shows /proc/locks piece by piece: in between, entries move.
        lockers = _lockers(status)
    if not lockers:
        return Holder("unseen")
    for pid, exclusive in lockers:
        kind = _judge(pid, mark, status.st_uid) if exclusive else "foreign"
        if kind != "foreign":
            return Holder(kind, pid)
    # Where a stranger has the lock, a guard has to do without.
    if mark is not None and mark.guard and mark.start and _judge(mark.guard, mark, status.st_uid) == "guard":
        return Holder("guard", mark.guard)
    return Holder("foreign", lockers[0][0])


def _lockers(directory: os.stat_result) -> list[tuple[int, bool]]:
    """The PID of each who has a lock on *directory*, and whether that is exclusive, as far as can be seen."""
    try:
        with open("/proc/locks", "rb") as file:
            text = file.read()
    except OSError:
        return []
    device = directory.st_dev
    place = b"%02x:%02x:%d" % (os.major(device), os.minor(device), directory.st_ino)
    found = []
    # "1: FLOCK  ADVISORY  WRITE 4711 00:20:815 0 EOF"; who only waits for the lock has "->" before FLOCK.
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and words[5] == place and words[1] == b"FLOCK" and int(words[4]) > 0:
            found.append((int(words[4]), words[3] == b"WRITE"))
    return found


def _judge(pid: int, mark: Mark | None, owner: int) -> Literal["guard", "unseen", "foreign"]:
    """What process *pid* is, which has an exclusive lock on a directory of that *owner*."""
    if mark is None:
        return "foreign"
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            # Only newlines are escaped in a name, which may be anything else.
            status = dict(line.partition(b":")[::2] for line in file.read().split(b"\n"))
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        state, start = fields[0], int(fields[19])
    except OSError:
        # Gone, while someone who shares its files still has the lock; or hidden from this user.
        return "unseen" if _is_alive(pid) else "foreign"
    # Its PID in each PID namespace, from that of this /proc down to its own (Linux 4.1).
    inner = int(status.get(b"NSpid", b"%d" % pid).split()[-1])
    trusted = {int(word) for word in status[b"Uid"].split()} <= {0, owner}
    same = inner == mark.guard and mark.start in (0, start)
    # A dead one may wait for its parent to take notice, and its keeper may still be at work with the same files.
    return "guard" if trusted and same and state not in (b"Z", b"X") else "foreign"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
