"""Marks and locks on groups without a guard: what an abandoned hold leaves, and what looks like a held one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import memcg

if TYPE_CHECKING:
    from typing_extensions import Self

HOLD = "user.memcg.hold"
OFF_BEFORE = "user.memcg.off"
V2_SWITCH = b"switch=memory.high high=-1 frozen=1"
"""What the mark of a hold has on v2 instead of the switch."""
GONE = 2**22 + 1
"""A PID that no process can have."""

LOCK = """
import fcntl, os, signal, sys
signal.alarm(120)
user = int(sys.argv[3])
if user != os.getuid():
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(directory, getattr(fcntl, sys.argv[2]))
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def mark_text(guard: int = GONE, start: int = 0, owner: int = GONE, delay: int = 10**10, **more: object) -> str:
    """The text of a mark; with nothing said, that of a guard that is gone."""
    known = {"guard": guard, "start": start, "owner": owner, "delay": delay, "switch": "memory.oom_control"}
    return " ".join(f"{key}={value}" for key, value in {**known, **more}.items())


def abandon(group: memcg.Cgroup, text: str | bytes | None = None, *, killer: str = "1") -> None:
    """Leaves *group* as a hold does whose guard and keeper are killed at once: on v1 with its *killer* off, on v2
    frozen, with ``memory.high`` at half of its limit where there was none."""
    words = mark_text() if text is None else text
    data = words if isinstance(words, bytes) else words.encode()
    if isinstance(group, memcg.CgroupV1):
        os.setxattr(group.path, HOLD, data)
        (group.path / "memory.oom_control").write_text(killer)
        return
    assert isinstance(group, memcg.CgroupV2)
    os.setxattr(group.path, HOLD, data.replace(b"switch=memory.oom_control", V2_SWITCH))
    if killer == "1":
        group.high = (group.max or 2**40) // 2
        group.freeze()


def marks(group: memcg.Cgroup) -> list[str]:
    """The names of all marks on *group*."""
    return sorted(name for name in os.listxattr(group.path) if "memcg" in name)


def is_off(group: memcg.Cgroup) -> bool:
    """Whether the kernel's killer is off."""
    return not group.oom.killer_enabled


def is_held(group: memcg.Cgroup) -> bool:
    """Whether the kernel's killer is kept away: on v1 by its switch, on v2 by the freezer or a hold's line."""
    if isinstance(group, memcg.CgroupV2):
        return group.cgroup_freeze or (group.high or 2**63) < (group.max or 2**63)
    return not group.oom.killer_enabled


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class Locker:
    """A process that has the directory of a group locked, as *user*, started by *command* if any. It ends with the
    ``with`` block."""

    def __init__(
        self, group: memcg.Cgroup, *, user: int | None = None, kind: str = "LOCK_EX", command: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [
                *command,
                sys.executable,
                "-I",
                "-S",
                "-c",
                LOCK,
                str(group.path),
                kind,
                str(os.getuid() if user is None else user),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.inner_pid = int(self.process.stdout.readline())
        """As the process itself sees it."""
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.communicate(timeout=60)
