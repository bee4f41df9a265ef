"""Where the hierarchy that has the memory controller is mounted, and where in it a process lives.

Read from /proc/PID/mountinfo and /proc/PID/cgroup (proc_pid_mountinfo(5), cgroups(7)), never guessed from paths:
v1, v2 and hybrid layouts, containers that see only a part of the hierarchy, and mounts at unusual places all
look the same from here on.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import Literal

from ..errors import (
    CgroupNotFoundError,
    FormatError,
    NoMemoryControllerError,
    NotACgroupError,
    kernel_error,
    kernel_errors,
)

Version = Literal[1, 2]


@dataclass(frozen=True)
class Mount:
    """One mount of a cgroup hierarchy."""

    version: Version
    point: str
    """Where it is mounted."""
    root: str
    """The cgroup that is seen there, as a path of the hierarchy: "/" unless only a part is mounted."""
    device: int
    """The st_dev of everything below."""
    controllers: frozenset[str]
    """The controllers of a v1 hierarchy; empty on v2, where each group has its own list."""
    local_events: bool = False
    """Whether memory.events of v2 counts in each group alone (mount option ``memory_localevents``)."""

    def below(self, cgroup_path: str) -> str | None:
        """*cgroup_path* relative to this mount, "" for its root, or None where it cannot be seen from here."""
        root, path = _parts(self.root), _parts(cgroup_path)
        if path[: len(root)] != root or ".." in path[len(root) :]:
            return None
        return "/".join(path[len(root) :])

    def cgroup_path(self, relative: str) -> str:
        """What `below` was given."""
        return "/" + "/".join(_parts(self.root) + _parts(relative))


@dataclass(frozen=True)
class Hierarchy:
    """The hierarchy that has the memory controller."""

    version: Version
    mounts: tuple[Mount, ...]

    def locate(self, cgroup_path: str) -> list[tuple[Mount, str]]:
        """The mounts that show *cgroup_path*, those that show most of the hierarchy first, and the path relative
        to each. A mount may be hidden by a later one.

        Raises:
            NotACgroupError: no mount shows it: it lies outside this process's cgroup namespace or container.
        """
        mounts = sorted(self.mounts, key=lambda mount: len(_parts(mount.root)))
        places = [(mount, mount.below(cgroup_path)) for mount in mounts]
        found = [(mount, relative) for mount, relative in places if relative is not None]
        if found:
            return found
        seen = ", ".join(f"{mount.root} at {mount.point}" for mount in self.mounts)
        raise NotACgroupError(
            f"the cgroup {cgroup_path!r} cannot be seen from here, only {seen} and what is below"
        )


def memory_hierarchy() -> Hierarchy:
    """The hierarchy that has the memory controller, as this process sees it now.

    Raises:
        NoMemoryControllerError: none is mounted here; the message says how to get one.
    """
    mounts = parse_mountinfo(_read("/proc/self/mountinfo"))
    v1 = tuple(mount for mount in mounts if "memory" in mount.controllers)
    if v1:
        return Hierarchy(1, v1)
    if _memory_is_on_v1(_read("/proc/self/cgroup")):
        raise NoMemoryControllerError(
            "the memory controller is on cgroup v1, and its hierarchy is not mounted here: "
            "mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory"
        )
    v2 = tuple(mount for mount in mounts if mount.version == 2)
    if v2:
        return Hierarchy(2, v2)
    raise NoMemoryControllerError(
        "no cgroup file system is mounted here: mount -t cgroup2 none /sys/fs/cgroup, or in a container, run it "
        "with its cgroup file system visible"
    )


def cgroup_path_of(pid: int | Literal["self"], version: Version) -> str:
    """The group of a process in the memory hierarchy, as /proc/PID/cgroup shows it.

    Raises:
        ProcessNotFoundError: there is no such process.
    """
    path = f"/proc/{pid}/cgroup"
    try:
        text = _read(path)
    except CgroupNotFoundError:
        raise kernel_error(errno.ESRCH, f"find the cgroup of process {pid}", path) from None
    for controllers, path in parse_proc_cgroup(text):
        if ("memory" in controllers) if version == 1 else (controllers == frozenset()):
            return path
    raise NoMemoryControllerError(f"process {pid} is in no cgroup v{version} hierarchy with memory")


def is_member(pid: int | Literal["self"], version: Version, cgroup_path: str) -> bool:
    """Whether a process is in the group *cgroup_path* or below.

    Raises:
        ProcessNotFoundError: there is no such process.
    """
    return f"{cgroup_path_of(pid, version).rstrip('/')}/".startswith(f"{cgroup_path.rstrip('/')}/")


def parse_mountinfo(text: str) -> list[Mount]:
    """The cgroup mounts of a mountinfo file, in its order."""
    mounts = []
    for line in _lines(text):
        # "36 35 98:0 /root /point options optional-fields - type source super-options"
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            raise FormatError(f"/proc/self/mountinfo: {line!r}")
        if rest[0] not in ("cgroup", "cgroup2"):
            continue
        try:
            major, minor = map(int, fields[2].split(":"))
        except ValueError:
            raise FormatError(f"/proc/self/mountinfo: {line!r}") from None
        mounts.append(
            Mount(
                version=1 if rest[0] == "cgroup" else 2,
                point=_unescape(fields[4]),
                root=_unescape(fields[3]),
                device=os.makedev(major, minor),
                controllers=frozenset(rest[2].split(",") if rest[0] == "cgroup" else ()),
                local_events=rest[0] == "cgroup2" and "memory_localevents" in rest[2].split(","),
            )
        )
    return mounts


def parse_proc_cgroup(text: str) -> list[tuple[frozenset[str], str]]:
    """The controllers and the path of each line of a /proc/PID/cgroup; no controllers means cgroup v2."""
    groups = []
    for line in _lines(text):
        fields = line.split(":", 2)  # the path may have colons of its own
        if len(fields) != 3:
            raise FormatError(f"/proc/PID/cgroup: {line!r}")
        groups.append((frozenset(filter(None, fields[1].split(","))), fields[2]))
    return groups


def _lines(text: str) -> list[str]:
    # str.splitlines() would also split at a form feed or U+2028 in a path.
    return text.removesuffix("\n").split("\n") if text else []


def _memory_is_on_v1(proc_cgroup: str) -> bool:
    return any("memory" in controllers for controllers, _ in parse_proc_cgroup(proc_cgroup))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _unescape(field: str) -> str:
    """Space, tab, newline and backslash stand in mountinfo as three octal digits; bytes may be of any encoding."""
    data = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), os.fsencode(field))
    return os.fsdecode(data)


def _read(path: str) -> str:
    with kernel_errors("read", path), open(path, "rb") as file:
        return os.fsdecode(file.read())
