"""Killing all that is in a group and below, and saying who is left."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from typing import TYPE_CHECKING

from ..cgroupfs.delegation import command, named
from ..cgroupfs.mounts import is_member
from ..errors import CgroupNotFoundError, KernelError, ProcessNotFoundError, WaitTimeoutError, kernel_error, listed
from ..pidfd import PidFD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..units import Deadline
    from .base import Cgroup

_AT_ONCE = 256
"""How many processes to hold by a file descriptor at once: a usual limit is 1024 files."""

_FROZEN_IN = ("do_freezer_trap", "get_signal")
"""Where a frozen process sleeps, as /proc/PID/wchan has it."""


def check_outside(group: Cgroup, doing: str) -> None:
    """Refuses to do to *group* what would hit this process too.

    Raises:
        CgroupBusyError: this process is in it, or below.
    """
    if holds_this_process(group):
        hint = f"this very process ({os.getpid()}) is in it: move it to another group first, with add()"
        raise kernel_error(errno.EBUSY, f"{doing} the cgroup", str(group.path), hint)


def holds_this_process(group: Cgroup) -> bool:
    """Whether this process is in *group* or below."""
    return is_member("self", group._directory.mount.version, group.cgroup_path)


def members(group: Cgroup) -> Iterator[tuple[Cgroup, tuple[int, ...]]]:
    """*group* and each below, with the processes in it. Groups removed meanwhile are left out."""
    with contextlib.suppress(CgroupNotFoundError):
        for each in group.walk():
            try:
                yield each, each.processes()
            except CgroupNotFoundError:
                pass
            except KernelError as error:
                if error.errno != errno.EOPNOTSUPP:  # threaded: its processes are listed further up
                    raise


def kill_one_by_one(group: Cgroup, deadline: Deadline) -> None:
    """Kills the processes in *group* and below until there are none, new ones too.

    Raises:
        CgroupRemovedError: *group* is gone already.
        WaitTimeoutError: some are left; the message names them.
    """
    group.children()  # whether it is gone
    while True:
        found = [(each, pids) for each, pids in members(group) if pids]
        if not found:
            return
        for each, _ in found:
            with contextlib.suppress(CgroupNotFoundError):
                _kill_those_in(each, deadline)
        if deadline.expired:
            check_empty(group)
            return


def check_empty(group: Cgroup) -> None:
    """Raises `WaitTimeoutError`, naming them, where processes are left in *group* or below."""
    left = [pid for _, pids in members(group) for pid in pids]
    if left:
        raise WaitTimeoutError(f"killed, and not gone in time, in {group.path}: {named(left)}")


def running(group: Cgroup) -> str:
    """Who in *group* and below is not frozen, in words, with its state and the kernel function that it is in."""
    found = []
    for _, pids in members(group):
        for pid in pids:
            with contextlib.suppress(OSError):  # gone
                for task in os.listdir(f"/proc/{pid}/task"):
                    state = _read(f"/proc/{pid}/task/{task}/stat").rpartition(")")[2].split()[0]
                    place = _read(f"/proc/{pid}/task/{task}/wchan")
                    if place not in _FROZEN_IN:
                        thread = "" if task == str(pid) else f" thread {task}"
                        at = "" if place in ("", "0") else f" at {place}"
                        found.append(f"{pid} ({command(pid)}){thread} in state {state}{at}")
    return listed(found) or "nobody any more"


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read())


def _kill_those_in(group: Cgroup, deadline: Deadline) -> None:
    """Kills the processes of *group* that are there now, and waits for the last of them until the time is up."""
    pids = group.processes()
    for start in range(0, len(pids), _AT_ONCE):
        with contextlib.ExitStack() as files:
            victims = []
            for pid in pids[start : start + _AT_ONCE]:
                with contextlib.suppress(ProcessNotFoundError):
                    victims.append(files.enter_context(PidFD(pid)))
            # Whoever is still listed now, with the pidfd open, is the process that the pidfd stands for.
            listed = set(group.processes())
            poll = select.poll()
            waiting = set()
            for victim in victims:
                if victim.pid in listed:
                    with contextlib.suppress(ProcessNotFoundError):
                        victim.send_signal(signal.SIGKILL)
                        poll.register(victim.fileno(), select.POLLIN)
                        waiting.add(victim.fileno())
            if start + _AT_ONCE < len(pids):
                continue
            while waiting and not deadline.expired:
                remaining = deadline.remaining()
                for fd, _ in poll.poll(None if remaining is None else remaining * 1000):
                    poll.unregister(fd)
                    waiting.discard(fd)
