"""Where the measures work: a group and a directory of their own, which are gone at the end, also after Ctrl-C.

All that a measure starts or creates is in one of the two, so that nothing depends on the measure's own care.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import memcg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

Resource = TypeVar("Resource")
Item = TypeVar("Item")


class Unavailable(Exception):  # noqa: N818 - a fact about the machine
    """Something cannot be measured on this machine; the message says what is missing."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number


class Room:
    """The group and the directory, and what else was entered for the length of the run."""

    def __init__(self, group: memcg.Cgroup, directory: Path, held: contextlib.ExitStack) -> None:
        self.group = group
        self.directory = directory
        self._held = held
        self._signal = 0
        self._may_break_in = False

    def enter(self, resource: AbstractContextManager[Resource]) -> Resource:
        """Enters a context that is left, undisturbed by signals, at the end of the run."""
        self._may_break_in = False
        try:
            return self._held.enter_context(resource)
        finally:
            self._let_in()

    def _let_in(self) -> None:
        self._may_break_in = True
        if self._signal:
            raise Interrupted(self._signal)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._may_break_in:
            raise Interrupted(number)


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Makes the room. In the body, SIGINT and SIGTERM raise `Interrupted`; before and after, they wait.

    Raises:
        Unavailable: no group with a memory limit can be created here.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    with contextlib.ExitStack() as held:
        held.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        for number in numbers:  # put back last, when all else is gone
            held.callback(signal.signal, number, signal.getsignal(number))
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="memcg-bench-")))
        ours = Room(held.enter_context(_group()), directory, held)
        for number in numbers:
            signal.signal(number, ours._arrived)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            ours._let_in()
            yield ours
        finally:
            ours._may_break_in = False


@contextlib.contextmanager
def _group() -> Iterator[memcg.Cgroup]:
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(memcg.temporary(name=f"memcg-bench-{os.getpid()}"))
        except memcg.MemcgError as error:
            raise Unavailable(f"a group with a memory limit: {error}") from error
        yield group


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The *items*, each turn beginning with another one: what comes first would gain or lose by that."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]
