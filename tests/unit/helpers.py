"""Threads, forked children and fresh interpreters for the tests that need one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from support import forked
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcg import EventFD

P = ParamSpec("P")
T = TypeVar("T")

SOON = 30
"""Seconds in which what is not blocked is done, also on a busy machine."""


def start(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Calls *function* in a thread of its own, which does not keep the tests from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is the future's to tell
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_for_waiters(event: EventFD, count: int = 1) -> None:
    """Waits until that many threads or tasks are blocked in a read or write of *event*."""

    def waiters() -> int:
        return sum(epoll._pins > 0 for epoll in tuple(event._waits))

    wait_until(lambda: waiters() >= count, f"{count} waiters", SOON)


def when_waited_for(event: EventFD, action: Callable[[], T]) -> Future[T]:
    """Calls *action* in a thread of its own, as soon as someone is blocked in a read or write of *event*."""

    def wait_and_act() -> T:
        wait_for_waiters(event)
        return action()

    return start(wait_and_act)


def in_child(function: Callable[[], object]) -> None:
    """Calls *function* in a forked child, whatever threads there are, and raises what it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 advises against forking beside threads
        forked.in_child(function, seconds=SOON)


def run_python(program: str, *options: str) -> str:
    """What *program* prints in an interpreter of its own, which must not fail or complain."""
    result = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=SOON * 2,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def open_fds() -> set[str]:
    """The numbers of the files that this process has open."""
    found = set(os.listdir("/proc/self/fd"))
    return {number for number in found if os.path.lexists(f"/proc/self/fd/{number}")}  # without the listing's own
