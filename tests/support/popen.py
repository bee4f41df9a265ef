"""Starting the same program with subprocess.Popen and in a group, to see that both come to the same."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import memcg

if TYPE_CHECKING:
    from collections.abc import Callable

    Start: TypeAlias = "Callable[..., subprocess.Popen[bytes]]"


@dataclass(frozen=True)
class Ended:
    """A program that was started, and what it came to."""

    status: int
    args: object
    out: bytes | str | None
    err: bytes | str | None


@dataclass(frozen=True)
class Failed:
    """A program that was not started, and why."""

    kind: type[BaseException]
    errno: object
    filename: object


def outcome(start: Start, args: object, **options: object) -> Ended | Failed:
    """What comes of starting a program, with pipes from it where nothing else is said."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    try:
        process = start(args, **options)
    except Exception as error:  # noqa: BLE001 - errors are what is compared
        return Failed(type(error), getattr(error, "errno", None), getattr(error, "filename", None))
    with process:
        out, err = process.communicate(timeout=60)
    return Ended(process.returncode, process.args, out, err)


def line_of(group: memcg.Cgroup) -> str:
    """How the line of /proc/PID/cgroup ends that names the group."""
    return f"{'memory' if isinstance(group, memcg.CgroupV1) else '0:'}:{group.cgroup_path}"


def open_fds() -> set[str]:
    """The file descriptors that are open here, with what they are."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def has_children() -> bool:
    """Whether this process has a child, running or not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
