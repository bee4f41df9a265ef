"""The rules of cgroup v2 that tie a group to its parent: who has the memory controller, and who has processes.

A group has memory files if its parent enables the controller for its children, in cgroup.subtree_control; and a
group that does so has no processes of its own, unless it is the root (Documentation/admin-guide/cgroup-v2.rst,
"Controlling Controllers").
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..errors import (
    InternalProcessesError,
    KernelError,
    NoMemoryControllerError,
    kernel_error,
    kernel_errors,
    listed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .directory import Directory

_ENABLED = "cgroup.subtree_control"
_AVAILABLE = "cgroup.controllers"
_IN_ROOT = frozenset(
    {"memory.stat", "memory.numa_stat", "memory.reclaim", "memory.zswap.writeback", "memory.pressure"}
    | {"cgroup.procs", "cgroup.threads", "cgroup.controllers", _ENABLED, "cgroup.stat", "cgroup.max.depth"}
    | {"cgroup.max.descendants", "cgroup.pressure", "cpu.pressure", "io.pressure", "irq.pressure"}
)
"""What the root has too."""
_THREADED = (
    "it is a threaded cgroup (cgroup.type): processes and memory belong to the first group above that is not"
)
_AMONG_THREADS = "it is part of a threaded subtree (cgroup.type), which has no memory controller of its own"
_BOOT = (
    "in a container, have the memory controller delegated to it, elsewhere boot with cgroup_enable=memory, and "
    "without cgroup_disable=memory"
)


def enables_memory(directory: Directory) -> bool:
    """Whether the children of *directory*, a group of cgroup v2, have memory files."""
    return _has_memory(directory, _ENABLED)


def enable_memory(directory: Directory) -> None:
    """Sees to it that the children of *directory*, a group of cgroup v2, have memory files.

    Raises:
        NoMemoryControllerError: it does not have the controller itself; the message says who withholds it.
        InternalProcessesError: it has processes of its own; the message names them.
        AccessDeniedError: the caller may not write its cgroup.subtree_control.
    """
    if enables_memory(directory):
        return
    if not _has_memory(directory, _AVAILABLE):
        raise NoMemoryControllerError(
            f"{directory.path} cannot give its children the memory controller, as it does not have it: "
            f"{_who_withholds(directory)}"
        )
    doing, path = "enable the memory controller for children", f"{directory.path}/{_ENABLED}"
    try:
        directory.write(_ENABLED, b"+memory")
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise internal_processes_error(doing, directory) from error
        hint = _AMONG_THREADS if error.errno == errno.EOPNOTSUPP else ""
        raise kernel_error(error.errno or errno.EIO, doing, path, hint) from error


def internal_processes_error(doing: str, directory: Directory) -> KernelError:
    """The error for a group that has processes of its own, which keeps it from having children with memory."""
    names = named(processes_of(directory))
    hint = (
        f"on cgroup v2, a group whose children have controllers has no processes of its own, and this one has "
        f"{names or 'some'}: move them into a child first, or choose a group without processes"
    )
    return kernel_error(errno.EBUSY, doing, f"{directory.path}/{_ENABLED}", hint, InternalProcessesError)


def joining_error(number: int, doing: str, directory: Directory) -> KernelError:
    """The error for a process that could not be moved into *directory*, with what that means there."""
    hint, kind = "", None
    if number == errno.EINVAL:
        hint = "a kernel thread cannot be moved"
    if directory.mount.version == 2:
        if number == errno.EBUSY:
            kind = InternalProcessesError
            hint = (
                "it has controllers enabled for its children (cgroup.subtree_control), and on cgroup v2 such a "
                "group has no processes of its own: choose one of its children, or create one"
            )
        elif number == errno.EOPNOTSUPP:
            hint = "its cgroup.type does not let it have processes: it is in a threaded subtree"
        elif number == errno.ENOENT:
            hint = "it and the process's own group are in different cgroup namespaces"
        elif number in (errno.EACCES, errno.EPERM):
            hint = (
                "cgroup.procs must be writable both in the group and in the closest one that is above it and the "
                "process's own: run this as root (sudo), or start it in a delegated group (systemd-run --user "
                "--scope -p Delegate=yes)"
            )
    return kernel_error(number, doing, directory.path, hint, kind)


def why_missing(directory: Directory, name: str) -> str:
    """Why *directory*, a group of cgroup v2, has no file *name*; "" where that is not due to the group."""
    if _is_root(directory) and name not in _IN_ROOT:
        return "this is the root of the hierarchy, which has none"
    if name.endswith(".pressure") and _read(directory, "cgroup.pressure").strip() == b"0":
        return "pressure is not accounted for in this group: write 1 to its cgroup.pressure"
    if not name.startswith("memory.") or name == "memory.pressure":
        return ""
    if _read(directory, "cgroup.type") == b"threaded":
        return _THREADED
    above = directory.parent()
    if above is None or _has_memory(directory, _AVAILABLE):
        return ""
    if _has_memory(above, _AVAILABLE):
        return (
            f"{above.path} does not enable the memory controller for its children: write '+memory' to its "
            f"cgroup.subtree_control, or create the group with memcg"
        )
    return f"it does not have the memory controller: {_who_withholds(directory)}"


def _is_root(directory: Directory) -> bool:
    """Whether it is the root of the whole hierarchy, and not only of what a container sees."""
    return not directory.relative and not _read(directory, "cgroup.type")


def processes_of(directory: Directory) -> list[int]:
    """The PIDs in this very group, sorted, without those of another PID namespace; none of a threaded group."""
    try:
        data = _read(directory, "cgroup.procs")
    except KernelError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise
    return sorted(set(map(int, data.split())) - {0})


def command(pid: int) -> str:
    """The name of a process as people know it; "?" where it cannot be seen."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return "?"


def named(pids: Sequence[int]) -> str:
    """The first ten of some processes, with their names, as a message can show them."""
    return listed([f"{pid} ({command(pid)})" for pid in pids[:11]])  # the last for "..."


def _who_withholds(directory: Directory) -> str:
    """Which group above keeps the memory controller from *directory*, and what to do about it."""
    above = directory.parent()
    if above is None:
        return f"it is the highest group that can be seen; {_BOOT}"
    top = directory
    while above is not None:
        if _has_memory(above, _AVAILABLE):
            return (
                f"{above.path} has it and does not pass it on; have its owner write '+memory' to its "
                f"cgroup.subtree_control (where systemd is the owner: set Delegate=yes on the unit)"
            )
        top, above = above, above.parent()
    return f"nor has {top.path}, the highest group that can be seen; {_BOOT}"


def _has_memory(directory: Directory, name: str) -> bool:
    return b"memory" in _read(directory, name).split()


def _read(directory: Directory, name: str) -> bytes:
    """A core file, or nothing where the group has no such file (cgroup.type, in the root)."""
    try:
        with kernel_errors(f"read {name}", f"{directory.path}/{name}"):
            return directory.read(name).rstrip(b"\n")
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return b""
        raise
