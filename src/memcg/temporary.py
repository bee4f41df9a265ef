"""A group for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import warnings
from typing import TYPE_CHECKING

from .cgroup import Cgroup, current, root
from .errors import (
    CgroupBusyError,
    CgroupNotFoundError,
    InvalidTypeError,
    MemcgError,
    ProcessNotFoundError,
    kernel_error,
    shown,
)
from .pidfd import PidFD
from .units import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 10.0
"""How long to wait for killed processes to be gone, in seconds."""


@contextlib.contextmanager
def temporary(
    *, limit: int | str | None = None, parent: Cgroup | None = None, name: str | None = None
) -> Iterator[Cgroup]:
    """A new group, which is gone at the end of the ``with`` block, and with it all processes in it. ::

        with memcg.temporary(limit="512M") as job:
            process = job.popen(["./train.sh"])
            ...

    Its OOM killer is on, whatever the parent's is. At the end, everything in it and below is killed, waited for,
    and removed; this process itself, if it is in there, is moved to the parent instead. An error in the block is
    never replaced by one of the cleanup, which is then a warning. In a forked child, leaving the block does
    nothing.

    Args:
        limit: As `Cgroup.limit` takes it; None is no limit.
        parent: Where to create it. By default in the group of this process where its directory belongs to this
            user, who is not root; else at the root of the hierarchy.
        name: By default one that nobody else has.

    Raises:
        AccessDeniedError: the caller may not create groups there; the message says what would help.
        CgroupBusyError: at the end, processes are left after 10 seconds; the message names them.
    """
    if parent is not None and not isinstance(parent, Cgroup):
        raise InvalidTypeError(f"parent is a Cgroup, such as memcg.open(path), not {shown(parent)}")
    owner = os.getpid()
    group = (parent or _default_parent()).create(
        f"memcg-{owner}-{os.urandom(4).hex()}" if name is None else name, limit=limit
    )
    try:
        group.oom.enable()
        yield group
    except BaseException:
        if os.getpid() == owner:
            try:
                _dismantle(group)
            except MemcgError as error:
                with contextlib.suppress(RuntimeWarning):  # which it is where warnings are errors
                    warnings.warn(f"{group!r} is left behind: {error}", RuntimeWarning, stacklevel=3)
        raise
    if os.getpid() == owner:
        _dismantle(group)


def _default_parent() -> Cgroup:
    own = current()
    if os.geteuid() != 0 and own.path.stat().st_uid == os.geteuid():
        return own
    top = root()
    if not os.access(top.path, os.W_OK):
        raise kernel_error(
            errno.EACCES,
            "create a cgroup",
            str(top.path),
            f"neither it nor {own.path} belongs to this user: run this as root (sudo), or in a group of this "
            f"user's own (systemd-run --user --scope -p Delegate=yes, where systemd delegates memory), or pass "
            f"such a group as parent=",
        )
    return top


def _dismantle(group: Cgroup) -> None:
    """Ends all that is in *group* and below, and removes it; quiet where someone else was faster."""
    deadline = Deadline(_PATIENCE)
    while True:
        with contextlib.suppress(CgroupNotFoundError):
            groups = list(group.walk())
            for each in groups:
                _empty(each, deadline)
            for each in reversed(groups):
                try:
                    each.remove()
                except CgroupBusyError:
                    if deadline.expired:
                        raise
        if not group.exists:
            return


def _empty(group: Cgroup, deadline: Deadline) -> None:
    """Kills the processes of *group* that are there now, and waits for them until the time is up."""
    with contextlib.ExitStack() as files:
        victims = []
        for pid in group.processes():
            if pid == os.getpid():
                parent = group.parent
                assert parent is not None
                parent.add(pid)
                continue
            with contextlib.suppress(ProcessNotFoundError):
                victims.append(files.enter_context(PidFD(pid)))
        # Whoever is still listed now, with the pidfd open, is the process that the pidfd stands for.
        members = set(group.processes())
        poll = select.poll()
        waiting = set()
        for victim in victims:
            if victim.pid in members:
                with contextlib.suppress(ProcessNotFoundError):
                    victim.send_signal(signal.SIGKILL)
                    poll.register(victim.fileno(), select.POLLIN)
                    waiting.add(victim.fileno())
        while waiting and not deadline.expired:
            for fd, _ in poll.poll((deadline.remaining() or 0) * 1000):
                poll.unregister(fd)
                waiting.discard(fd)
