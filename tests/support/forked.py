"""Calling a function in a forked child: as another user, or to spare the process that runs the tests."""

from __future__ import annotations

import os
import pickle
import signal
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import memcg

Result = TypeVar("Result")

NOBODY = 65534
"""A user who owns nothing and may do nothing."""


def in_child(function: Callable[[], Result], *, seconds: int = 60) -> Result:
    """What *function* returns or raises, called in a forked child, which ends with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            os.close(reading)
            try:
                outcome: tuple[bool, object] = (True, function())
            except BaseException as error:  # noqa: BLE001 - the parent raises it
                outcome = (False, error)
            with open(writing, "wb") as file:
                pickle.dump(outcome, file)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    assert data, f"the child said nothing, and ended with status {os.waitstatus_to_exitcode(status)}"
    returned, value = pickle.loads(data)
    if not returned:
        raise value
    result: Result = value
    return result


def as_nobody(function: Callable[[], Result], inside: memcg.Cgroup | None = None) -> Result:
    """What *function* returns or raises, called in a forked child that has become the user nobody.

    On v2, whom a group was given can only move processes that are *inside* it already, so there the child begins.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def unprivileged() -> Result:
        if inside is not None:
            inside.add(os.getpid())
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return function()

    return in_child(unprivileged)


def give_away(path: str | os.PathLike[str], *names: str) -> None:
    """Makes nobody the owner of the directory at *path* and of all its files, or of those *names* alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for name in names or [".", *os.listdir(path)]:
        os.chown(os.path.join(path, name), NOBODY, NOBODY)
