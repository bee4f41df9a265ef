"""PidFD: one process, held by a file descriptor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memcg import (
    AccessDeniedError,
    ClosedError,
    InvalidTypeError,
    InvalidValueError,
    MemcgError,
    PidFD,
    ProcessNotFoundError,
)
from unit.helpers import SOON, in_child, run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER_A_PID = int(Path("/proc/sys/kernel/pid_max").read_text())
"""One more than the highest."""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until its standard input is closed."""
    program = "import signal, sys; signal.alarm(60); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def poll(process: PidFD, milliseconds: int) -> bool:
    """Whether it is readable, within that time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_it_is_readable_once_the_process_has_exited(process: subprocess.Popen[bytes]) -> None:
    """The exit of a process is seen by poll, and by `exited`, before and after it was waited for."""
    with PidFD(process.pid) as held:
        assert held.pid == process.pid
        assert not held.exited
        assert not poll(held, 0)
        process.kill()
        assert poll(held, SOON * 1000)
        assert held.exited
        process.wait()
        assert held.exited


def test_a_process_that_was_not_waited_for_can_be_held(process: subprocess.Popen[bytes]) -> None:
    """A zombie still has its PID, and counts as exited."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with PidFD(process.pid) as held:
        assert held.exited


def test_a_signal_reaches_the_process(process: subprocess.Popen[bytes]) -> None:
    """send_signal() sends what it is told to."""
    with PidFD(process.pid) as held:
        held.send_signal(0)
        assert not held.exited
        held.send_signal(signal.SIGTERM)
        assert poll(held, SOON * 1000)
    assert process.wait(SOON) == -signal.SIGTERM


def test_a_process_that_is_gone_cannot_be_signalled(process: subprocess.Popen[bytes]) -> None:
    """Once it was waited for, send_signal() raises ProcessNotFoundError, whoever has its PID now."""
    with PidFD(process.pid) as held:
        process.kill()
        process.wait()
        with pytest.raises(ProcessNotFoundError, match=f"cannot signal process {process.pid}") as caught:
            held.send_signal(0)
        assert isinstance(caught.value, ProcessLookupError)
        assert caught.value.filename == f"/proc/{process.pid}"


def test_a_process_that_does_not_exist_cannot_be_held() -> None:
    """A PID that no process has is a ProcessNotFoundError that names it."""
    with pytest.raises(ProcessNotFoundError, match=f"cannot open process {NEVER_A_PID}"):
        PidFD(NEVER_A_PID)


def test_a_thread_is_no_process() -> None:
    """The ID of a thread that does not lead its process is a ProcessNotFoundError, whatever the kernel says."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(ProcessNotFoundError):
            PidFD(thread.native_id)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("pid", [0, -1, -(2**31), -(10**5000)], ids=["0", "-1", "-2**31", "-huge"])
def test_a_pid_that_means_others_is_refused(pid: int) -> None:
    """0 and negative numbers, which kill(2) takes for groups of processes, are an InvalidValueError."""
    with pytest.raises(InvalidValueError, match="a PID is above 0"):
        PidFD(pid)


@pytest.mark.parametrize("pid", [2**31, 2**64, 10**5000], ids=["2**31", "2**64", "huge"])
def test_a_pid_beyond_all_pids_is_refused(pid: int) -> None:
    """A number that no pid_t holds is an error of memcg's."""
    with pytest.raises((InvalidValueError, ProcessNotFoundError)):
        PidFD(pid)


@pytest.mark.parametrize("pid", ["1", 1.0, None, True, b"1"], ids=repr)
def test_a_pid_of_another_type_is_refused(pid: object) -> None:
    """What is no int is an InvalidTypeError."""
    with pytest.raises(InvalidTypeError, match="a process is named by its PID"):
        PidFD(pid)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["TERM", None, 1.0, -1, 9999, 2**40], ids=repr)
def test_a_signal_that_is_none_is_refused(number: object) -> None:
    """What is no signal's number is an error of memcg's, and sends nothing."""
    with PidFD(os.getpid()) as held, pytest.raises(MemcgError):
        held.send_signal(number)  # type: ignore[arg-type]


def test_another_users_process_cannot_be_signalled(process: subprocess.Popen[bytes]) -> None:
    """Where kill(2) is not permitted, send_signal() raises AccessDeniedError, and says why."""
    pid = process.pid

    def signal_it() -> None:
        with PidFD(pid) as held, pytest.raises(AccessDeniedError, match="another user's"):
            held.send_signal(0)

    if os.geteuid() == 0:

        def child() -> None:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            signal_it()

        in_child(child)
    else:
        pid = 1
        signal_it()


def test_use_after_close_is_an_error() -> None:
    """A closed PidFD tells and signals nothing, with ClosedError."""
    held = PidFD(os.getpid())
    held.close()
    with pytest.raises(ClosedError, match="this PidFD is closed"):
        held.send_signal(0)
    with pytest.raises(ClosedError, match="this PidFD is closed"):
        _ = held.exited


def test_it_is_close_on_exec() -> None:
    """No child program gets it."""
    with PidFD(os.getpid()) as held:
        assert not os.get_inheritable(held.fileno())


def test_without_file_descriptors_the_error_says_so() -> None:
    """Where RLIMIT_NOFILE is reached, holding a process raises TooManyOpenFilesError."""
    run_python(
        """
        import os, resource, memcg

        taken = os.dup(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, taken + 1))
        try:
            memcg.PidFD(os.getpid())
        except memcg.TooManyOpenFilesError as error:
            assert "ulimit -n" in str(error)
        else:
            raise SystemExit("no error")
        """
    )
