"""Who holds a group, and what marks a hold that its guard has left behind.

The guard of a hold locks the group's directory (flock(2)), which ends with the guard, and leaves a *mark* there,
an extended attribute, which does not. The mark is set before the killer is switched off and goes after it is on
again: a mark without a live guard is an abandoned hold.

A mark is a claim. Whoever may write the directory can leave one, and any user who can open the directory can lock
it. So a lock counts only if its holder is the guard that the mark names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import kernel_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import Cgroup

HOLD = ("trusted.memcg.hold", "user.memcg.hold")
"""The mark of a hold. Only root can set, or see, the first: no mark that a user has made up shall hide it."""
OFF_BEFORE = ("trusted.memcg.off", "user.memcg.off")
"""On a child of a held group: its killer was off when the hold began, and is not the hold's to switch on."""

SWITCH = "memory.oom_control"
DELAY_SWITCH = "memory.oom_delay_millisecs"
HIGH = "memory.high"

_NUMBER = re.compile(r"-1|[0-9]{1,19}", re.ASCII)
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP)


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
    """The file by which the group is held. On cgroup v1, 0 is written to it to end that."""
    high: int | None = None
    """On cgroup v2, in bytes: the ``memory.high`` before the hold, to which it shall come back; -1 is no limit."""
    frozen: bool = False
    """On cgroup v2, whether the hold has frozen the group."""
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
        switch = words.get("switch", SWITCH)
        numbers = {key: int(word) for key, word in words.items() if _NUMBER.fullmatch(word)}
        return cls(
            guard=max(0, numbers.get("guard", 0)),
            start=max(0, numbers.get("start", 0)),
            owner=max(0, numbers.get("owner", 0)),
            delay=max(0, numbers.get("delay", 0)) / 1e9 or None,
            switch=switch if switch in (DELAY_SWITCH, HIGH) else SWITCH,
            high=numbers.get("high"),
            frozen=numbers.get("frozen") == 1,
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


def read_mark(group: Cgroup) -> Mark | None:
    """The mark on *group*, or None.

    Raises:
        CgroupRemovedError: the group is gone.
        AccessDeniedError: the caller may not read the directory.
    """
    with opened(group) as directory:
        return read_mark_at(directory)


def has_killer_off_before(group: Cgroup) -> bool:
    """Whether *group*, below a held one, had its killer off before that hold. Raises as `read_mark` does."""
    with opened(group) as directory:
        return attribute(directory, OFF_BEFORE) is not None


def holder_of(group: Cgroup, mark: Mark | None) -> Holder | None:
    """Who has the directory of *group* locked, judged by the *mark* that is on it. Raises as `read_mark` does."""
    with opened(group) as directory:
        return holder_at(directory, mark)


# Attributes.


@contextlib.contextmanager
def opened(group: Cgroup) -> Iterator[int]:
    """The very directory of *group*, open for reading: an O_PATH descriptor has no attributes and no lock."""
    with kernel_errors("open the cgroup", str(group.path)):
        directory = group._directory.open_file(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with kernel_errors("use the marks of the cgroup", str(group.path)):
            yield directory
    finally:
        os.close(directory)


def read_mark_at(directory: int) -> Mark | None:
    data = attribute(directory, HOLD)
    return None if data is None else Mark.parse(data)


def attribute(directory: int, names: tuple[str, ...]) -> bytes | None:
    for name in names:
        try:
            return os.getxattr(directory, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return None


def remove_attribute(directory: int, names: tuple[str, ...], path: str) -> None:
    for name in names:
        if attribute(directory, (name,)) is not None:
            with kernel_errors(f"remove the mark {name}", path):
                os.removexattr(directory, name)


# Locks.


def lock(directory: int, kind: int) -> bool:
    """Locks *directory* if it is free."""
    try:
        fcntl.flock(directory, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder_at(directory: int, mark: Mark | None) -> Holder | None:
    status = os.fstat(directory)
    lockers = _lockers(status)
    if not lockers:
        # Shared, and for a moment: two who look do not see each other.
        if lock(directory, fcntl.LOCK_SH):
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
