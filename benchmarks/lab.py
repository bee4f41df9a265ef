"""What trials of a hold need: small groups, hogs that are stopped in them, and ways to wait."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from typing import TYPE_CHECKING

import memcg
from memcg import KiB, MiB

from .room import Unavailable
from .wake import _compile as compile_program
from .wake import _ended as ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .room import Room

    Popen = subprocess.Popen[bytes]

LIMIT = 8 * MiB
"""Of a small group."""
PATIENCE = 30
"""Seconds after which something has failed."""


class Lab:
    """What all trials need: programs, a file for the hog's records, and groups."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._hog = compile_program("hog", room.directory)
        self.guard = str(compile_program("guard", room.directory))
        self._records = (room.directory / "records").open("wb+")
        self._records.truncate(4 * KiB)

    def new_group(self, stack: contextlib.ExitStack, limit: int | None = LIMIT) -> memcg.CgroupV1:
        """A group that is gone with the *stack*."""
        group = stack.enter_context(memcg.temporary(parent=self.room.group, limit=limit))
        assert isinstance(group, memcg.CgroupV1)
        return group

    @contextlib.contextmanager
    def hog(self, group: memcg.CgroupV1) -> Iterator[Popen]:
        """A process that wants more memory than *group* has."""
        records = self._records.fileno()
        with ended(group.popen([str(self._hog), str(records), str(64 * MiB)], pass_fds=[records])) as process:
            yield process

    @contextlib.contextmanager
    def blocked_hog(self, group: memcg.CgroupV1) -> Iterator[Popen]:
        """The same, once it is stopped."""
        with self.hog(group) as process:
            await_condition(lambda: group.oom.under_oom, "the OOM of a hog")
            yield process


def is_off(control: int) -> bool:
    """Whether the kernel's killer is off, as its file says."""
    return os.pread(control, 256, 0).startswith(b"oom_kill_disable 1")


def until_on(control: int, action: Callable[[], object]) -> int:
    """How long it takes from before the *action* until the kernel's killer is on, in nanoseconds."""
    clock = time.monotonic_ns
    if not is_off(control):
        raise Unavailable("a group whose killer stays off")
    began = clock()
    action()
    while is_off(control):
        if clock() - began > PATIENCE * 10**9:
            raise Unavailable("a guard that switches the killer on")
    return clock() - began


def await_condition(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} within {PATIENCE} seconds")
        time.sleep(0.0005)


def await_end(processes: Sequence[memcg.PidFD]) -> None:
    """Waits until all have exited."""
    for process in processes:
        poll = select.poll()
        poll.register(process.fileno(), select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise Unavailable(f"the end of process {process.pid} within {PATIENCE} seconds")


def wait_for(process: Popen) -> None:
    """Waits for its end. That of subprocess with a timeout sleeps in between, for up to 50 ms."""
    with memcg.PidFD(process.pid) as end:
        await_end([end])
    process.wait()


def answer_of(process: Popen, size: int) -> bytes:
    """The next *size* bytes of its output."""
    assert process.stdout is not None
    answer = process.stdout.read(size)
    if not answer or len(answer) < size:
        raise Unavailable(f"an answer of {process.args!r}")
    return answer


def line_of(process: Popen) -> bytes:
    """The next line of its output."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise Unavailable(f"an answer of {process.args!r}")
    return line
