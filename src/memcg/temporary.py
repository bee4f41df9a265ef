"""A group for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from typing import TYPE_CHECKING

from .cgroup import Cgroup, CgroupV2, current, root
from .cgroup.base import PATIENCE
from .cgroup.emptying import holds_this_process
from .cgroupfs.delegation import enables_memory, internal_processes_error
from .errors import (
    CgroupBusyError,
    CgroupExistsError,
    CgroupNotFoundError,
    InvalidTypeError,
    KernelError,
    MemcgError,
    NotACgroupError,
    WaitTimeoutError,
    kernel_error,
    shown,
)
from .units import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERVISOR = "supervisor"
"""Where a program moves itself, to make its own group one that can have children, on cgroup v2."""


@contextlib.contextmanager
def temporary(
    *, limit: int | str | None = None, parent: Cgroup | None = None, name: str | None = None
) -> Iterator[Cgroup]:
    """A new group, which is gone at the end of the ``with`` block, and with it all processes in it. ::

        with memcg.temporary(limit="512M") as job:
            process = job.popen(["./train.sh"])
            ...

    Its OOM killer is on, whatever the parent's is. At the end, everything in it and below is killed, waited for,
    and removed, frozen or not; this process itself, if it is in there, is moved back to the group that it was in
    before. An error in the block is never replaced by one of the cleanup, which is then a warning. In a forked
    child, leaving the block does nothing.

    Args:
        limit: As `Cgroup.limit` takes it; None is no limit.
        parent: Where to create it. By default in the group of this process where its directory belongs to this
            user, who is not root; else at the root of the hierarchy. On v2, where such a group holds only this
            process, it is made usable by moving this process into a child of it, named ``supervisor``, for good.
        name: By default one that nobody else has.

    Raises:
        AccessDeniedError: the caller may not create groups there; the message says what would help.
        InternalProcessesError: on v2, there are processes in the parent that would have to move; the message
            names them.
        CgroupBusyError: at the end, processes are left after 10 seconds; the message names them.
    """
    if parent is not None and not isinstance(parent, Cgroup):
        raise InvalidTypeError(f"parent is a Cgroup, such as memcg.open(path), not {shown(parent)}")
    parent = parent or _default_parent()
    owner, home = os.getpid(), _home()
    group = parent.create(f"memcg-{owner}-{os.urandom(4).hex()}" if name is None else name, limit=limit)
    try:
        group.oom.enable()
        yield group
    except BaseException:
        if os.getpid() == owner:
            try:
                _dismantle(group, home)
            except MemcgError as error:
                with contextlib.suppress(RuntimeWarning):  # which it is where warnings are errors
                    warnings.warn(f"{group!r} is left behind: {error}", RuntimeWarning, stacklevel=3)
        raise
    if os.getpid() == owner:
        _dismantle(group, home)


def _default_parent() -> Cgroup:
    own = current()
    if os.geteuid() != 0 and _is_ours(own):
        above = own.parent
        if own.name == SUPERVISOR and above is not None and _is_ours(above):
            own = above
        return _made_usable(own)
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
    return _made_usable(top)


def _is_ours(group: Cgroup) -> bool:
    return group.path.stat().st_uid == os.geteuid()


def _made_usable(group: Cgroup) -> Cgroup:
    """*group*, where children can be created: on v2 one without processes, so this process moves out of it."""
    if not isinstance(group, CgroupV2) or enables_memory(group._directory):
        return group
    pids = group.cgroup_procs
    if not pids or not CgroupV2.cgroup_type.exists(group):  # the root of all may have both
        return group
    if set(pids) != {os.getpid()}:
        raise internal_processes_error("create a cgroup", group._directory)
    with contextlib.suppress(CgroupExistsError):
        group._directory.create(SUPERVISOR)
    (group / SUPERVISOR).add(os.getpid())
    return group


def _home() -> Cgroup | None:
    """The group that this process is in, or None where it cannot be seen from here."""
    try:
        return current()
    except (KernelError, NotACgroupError):
        return None


def _dismantle(group: Cgroup, home: Cgroup | None) -> None:
    """Ends all that is in *group* and below, and removes it; quiet where someone else was faster."""
    deadline = Deadline(PATIENCE)
    try:
        while group.exists:
            with contextlib.suppress(CgroupNotFoundError):
                _leave(group, home)
                with contextlib.suppress(WaitTimeoutError):  # then removing names who is left
                    group.kill(timeout=deadline.remaining())
                for each in reversed(list(group.walk())):
                    try:
                        each.remove()
                    except CgroupBusyError:
                        if deadline.expired:
                            raise
    except MemcgError:
        _thaw(group)
        raise


def _leave(group: Cgroup, home: Cgroup | None) -> None:
    """Moves this process, if it is in *group* or below, back *home*."""
    if not holds_this_process(group):
        return
    if home is not None:
        with contextlib.suppress(KernelError):  # it has gone, or has children with controllers by now
            home.add(os.getpid())
            return
    parent = group.parent
    assert parent is not None
    parent.add(os.getpid())


def _thaw(group: Cgroup) -> None:
    """Lets what is left in *group* and below run, as far as that can be done."""
    if isinstance(group, CgroupV2):
        with contextlib.suppress(MemcgError):
            for each in group.walk():
                each.thaw()
