"""Finding groups."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ..cgroupfs.directory import Directory, is_encodable
from ..cgroupfs.mounts import Hierarchy, cgroup_path_of, memory_hierarchy
from ..errors import CgroupNotFoundError, InvalidTypeError, InvalidValueError, NotACgroupError, shown
from ..pidfd import parse_pid
from .v1 import CgroupV1
from .v2 import CgroupV2

if TYPE_CHECKING:
    from .base import Cgroup


def root() -> Cgroup:
    """The highest group that can be seen: the root of the hierarchy, or what a container has for it.

    Raises:
        NoMemoryControllerError: no hierarchy with the memory controller is mounted here.
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
    kind = CgroupV1 if hierarchy.version == 1 else CgroupV2
    *hidden, last = hierarchy.locate(cgroup_path)
    for mount, relative in hidden:
        with contextlib.suppress(NotACgroupError):
            return kind(Directory.find(mount, relative))
    return kind(Directory.find(*last))
