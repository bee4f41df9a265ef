"""``memcg delay``: a group held in the foreground, what it tells of it, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg.oom.marks import read_mark
from support.commands import MEMCG, run, run_as_nobody
from support.holds import assert_nothing_left, guard_is_gone, held, wait_stopped
from support.marks import abandon, is_held, marks
from support.processes import Worker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}  "


class Delay:
    """A running ``memcg delay``, told to end with the ``with`` block."""

    def __init__(self, group: memcg.Cgroup, *arguments: str, **environment: str) -> None:
        self.group = group
        self.process = subprocess.Popen(
            [*MEMCG, "delay", str(group.path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def line(self, text: str) -> str:
        """Waits for a line with that *text*."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"it never said {text!r}")

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Sends a signal, and waits for the end: its status, and what else it said."""
        if number is not None:
            self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=30)
        return self.process.returncode, out, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.terminate()


def guard_of(group: memcg.Cgroup) -> int:
    """The PID of the guard that holds *group*."""
    mark = read_mark(group)
    assert mark is not None
    return mark.guard


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 128 + signal.SIGINT)]
)
def test_it_holds_until_a_signal_ends_it(group: memcg.Cgroup, number: signal.Signals, status: int) -> None:
    """While it runs, the group is held; a signal ends it, with the status that service managers and shells expect,
    and puts everything back."""
    with Delay(group, "10s") as delay:
        path = re.escape(group.cgroup_path)
        said = delay.line("is held")
        assert re.fullmatch(rf"{TIME}{path} is held: each OOM has 10 s before the kernel kills\n", said)
        assert is_held(group)
        guard = guard_of(group)
        ended, out, errors = delay.end(number)
        assert re.fullmatch(rf"{TIME}{path} is held no longer: the kernel's OOM killer is on again\n", out)
        assert (ended, errors) == (status, "")
    assert_nothing_left(group, [guard])


def test_what_happens_is_told(group: memcg.Cgroup) -> None:
    """An OOM that lasts ends in a kill after the delay, one that somebody resolves does not; both are told."""
    with Delay(group, "500ms") as delay:
        delay.line("is held")
        with Worker(group) as worker:
            worker.order("touch 64")
            assert re.fullmatch(rf"{TIME}OomEvent: out of memory, 0\.[0-5] s left\n", delay.line("OomEvent"))
            said = delay.line("DelayExpired")
            assert re.fullmatch(rf"{TIME}DelayExpired: the delay ran out, and the kernel killed 1 process\n", said)
            assert worker.process.wait(timeout=30) == -signal.SIGKILL
        assert is_held(group)
        with Worker(group) as worker:
            worker.order("touch 64")
            delay.line("OomEvent")
            group.limit = "128M"
            assert worker.answer() == "done"
            assert re.fullmatch(rf"{TIME}OomResolved: there is memory again\n", delay.line("OomResolved"))
        assert delay.end()[0] == 0
    assert_nothing_left(group)


def test_an_oom_of_a_group_above(group: memcg.Cgroup) -> None:
    """An ancestor with a lower limit is warned of, and its OOM is told as its own, which nobody delays."""
    child = group.create("child", limit="64M")
    with Delay(child, "60s") as delay:
        delay.line("is held")
        with Worker(child) as worker:
            worker.order("touch 48")
            said = delay.line("OomEvent")
            assert f"out of memory, by the limit of {group.cgroup_path}: not delayed here\n" in said
            assert worker.process.wait(timeout=30) == -signal.SIGKILL
        status, _, errors = delay.end()
        assert status == 0
        assert errors.startswith(f"memcg: {group.path} has a limit of 32 MiB, below the 64 MiB of {child.path}")
    assert_nothing_left(child)


def test_a_group_that_is_removed(group: memcg.Cgroup) -> None:
    """When the group is removed there is nothing left to do."""
    child = group.create("child", limit="16M")
    with Delay(child, "10s") as delay:
        delay.line("is held")
        child.remove()
        status, out, errors = delay.end(None)
        assert (status, errors) == (0, "")
        assert re.fullmatch(rf"{TIME}Removed: the group was removed\n", out)


WRITTEN = "somebody else has written to the group's OOM switch"


def test_somebody_else_switches_the_killer(group_v1: memcg.CgroupV1) -> None:
    """A killer that somebody else has switched on is left so, and that is an end that nobody has asked for."""
    group = group_v1
    with Delay(group, "10s") as delay:
        delay.line("is held")
        group.oom.enable()
        status, out, errors = delay.end(None)
        assert status == 1
        assert re.fullmatch(rf"{TIME}Overridden: {WRITTEN}\n", out)
        assert errors == f"memcg: the hold is over, since {WRITTEN}\n"
    assert_nothing_left(group)


def test_a_guard_that_is_killed(group: memcg.Cgroup) -> None:
    """When the guard is gone, so is the hold: it says so, and fails, and the group is as it was."""
    with Delay(group, "10s") as delay:
        delay.line("is held")
        guard = guard_of(group)
        os.kill(guard, signal.SIGKILL)
        status, _, errors = delay.end(None)
        assert status == 1
        assert errors.startswith("memcg: ")
        assert "Traceback" not in errors
    assert_nothing_left(group, [guard])


def test_only_the_first_oom_is_delayed(group: memcg.Cgroup) -> None:
    """With --once, the kernel kills at once after the first delay that ran out."""
    with Delay(group, "300ms", "--once") as delay:
        delay.line("is held")
        for _ in range(2):
            with Worker(group) as worker:
                worker.order("touch 64")
                assert worker.process.wait(timeout=30) == -signal.SIGKILL
        _, out, _ = delay.end()
        assert out.count("DelayExpired") == 1
        assert "KernelKill: the kernel killed 1 process\n" in out
    assert_nothing_left(group)


def test_the_sum_of_delays_is_bounded(group: memcg.Cgroup) -> None:
    """--total is passed on: one that is less than the delay is refused."""
    status, out, errors = run("delay", str(group.path), "10s", "--total", "5s")
    assert (status, out) == (1, "")
    assert errors.startswith("memcg: total is at least the delay")
    with Delay(group, "100ms", "--total", "1min") as delay:
        delay.line("is held")
        assert delay.end()[0] == 0


def test_a_group_that_is_stopped_already(group: memcg.Cgroup) -> None:
    """With its killer off, or frozen, by somebody's will it is refused, unless it is to be taken over; what was
    abandoned is repaired."""
    if isinstance(group, memcg.CgroupV1):
        group.oom.disable()
    else:
        group.freeze()
    status, out, errors = run("delay", str(group.path), "10s")
    assert (status, out) == (1, "")
    assert re.search("is (off|frozen) already", errors)
    assert is_held(group)
    with Delay(group, "10s", "--takeover") as delay:
        delay.line("is held")
        assert delay.end()[0] == 0
    assert_nothing_left(group)
    abandon(group)
    with Delay(group, "10s") as delay:
        delay.line("is held")
        assert delay.end()[0] == 0
    assert_nothing_left(group)


def test_a_group_that_cannot_be_held(group: memcg.Cgroup) -> None:
    """A group that is held, that has no limit, that is not there or is another user's: each has its message."""
    unlimited = group.create("unlimited")
    for path, reason in (
        (unlimited.path, "has no memory limit"),
        (group.path / "none", "No such file"),
        (Path("/proc"), "is outside the hierarchy"),
    ):
        status, out, errors = run("delay", str(path), "10s")
        assert (status, out) == (1, "")
        assert errors.startswith("memcg: ")
        assert reason in errors
    with held(group, 10):
        status, out, errors = run("delay", str(group.path), "10s")
        assert (status, out) == (1, "")
        assert f"is held already, by process {os.getpid()}" in errors
    status, _, errors = run_as_nobody("delay", str(group.path), "10s")
    assert status == 1
    assert "Permission denied" in errors
    assert_nothing_left(group)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "the following arguments are required"),
        (["/x"], "the following arguments are required"),
        (["/x", "soon"], "argument DELAY: the delay: 'soon' is not a duration: write a decimal number"),
        (["/x", "0"], "argument DELAY: the delay is 0.001 s or more"),
        (["/x", "30h", "--total", "600h"], "argument --total: the total is 2147483.647 s (24.8 days) or less"),
    ],
)
def test_a_command_line_that_makes_no_sense(arguments: list[str], reason: str) -> None:
    """That shows how it is used, and what is wrong, with status 2."""
    status, out, errors = run("delay", *arguments)
    assert (status, out) == (2, "")
    assert errors.startswith("usage: memcg delay")
    assert reason in errors


def test_a_signal_at_any_moment(group: memcg.Cgroup) -> None:
    """However early it is told to end, nothing is left; before it has begun, the signal simply kills it."""
    for turn in range(12):
        with Delay(group, "10s") as delay:
            # Before it holds the group it tells nobody how far it is.
            far = partial(has_opened, delay.process.pid, 10 * turn)
            wait_until(lambda far=far: far() or bool(marks(group)), "it gets on")  # type: ignore[misc]
            status, _, errors = delay.end()
        assert status in (0, -signal.SIGTERM), errors
        wait_until(lambda: not marks(group), "the guard has put everything back")
        assert_nothing_left(group)


def has_opened(pid: int, number: int) -> bool:
    """Whether a process has that many files open or mapped, which only grows while Python starts."""
    with contextlib.suppress(OSError):
        maps, fds = Path(f"/proc/{pid}/maps").read_text(), os.listdir(f"/proc/{pid}/fd")
        return maps.count("\n") + len(fds) >= number
    return True


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager that listens at an address of each kind."""
    name = secrets.token_hex(8)
    address = f"@memcg-{name}" if request.param == "abstract" else str(tmp_path / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        manager.settimeout(30)
        yield manager, address


def test_a_service_manager_is_told(group: memcg.Cgroup, manager: tuple[socket.socket, str]) -> None:
    """It hears when the group is held, what happens there, and when that ends."""
    end, address = manager
    with Delay(group, "10s", NOTIFY_SOCKET=address) as delay:
        assert end.recv(1000).decode() == f"READY=1\nSTATUS={group.cgroup_path} is held, no OOM"
        assert is_held(group)
        with Worker(group) as worker:
            worker.order("touch 64")
            wait_stopped(worker)
            assert end.recv(1000).decode().startswith(f"STATUS={group.cgroup_path}: out of memory, ")
        assert end.recv(1000).decode() == f"STATUS={group.cgroup_path}: there is memory again"
        assert delay.end()[0] == 0
        assert end.recv(1000) == b"STOPPING=1"
    assert_nothing_left(group)


def test_a_service_manager_that_is_gone(group: memcg.Cgroup) -> None:
    """That is a warning, and the group is held all the same."""
    with Delay(group, "10s", NOTIFY_SOCKET="/none") as delay:
        delay.line("is held")
        assert is_held(group)
        status, _, errors = delay.end()
        assert status == 0
        assert "cannot tell the service manager at NOTIFY_SOCKET=/none: " in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
@pytest.mark.parametrize("turn", range(5))
def test_all_of_it_killed_at_once(group: memcg.Cgroup, turn: int) -> None:
    """Killed together with its guard and keeper, as with a container, it may leave the group off: then doctor
    finds that and repairs it. In the end the kernel has killed the process that was blocked there."""
    inside = ["unshare", "--pid", "--fork", "--kill-child", *MEMCG, "delay", str(group.path), "60s"]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as container, Worker(group) as worker:
        assert container.stdout is not None
        assert "is held" in container.stdout.readline()
        worker.order("touch 64")
        wait_stopped(worker)
        first = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        container.kill()
        container.wait(timeout=30)
        wait_until(lambda: guard_is_gone(map(int, first)), "all in the container are gone")
        left = bool(marks(group))
        status, out, errors = run("doctor", str(group.path))
        assert (status, errors) == (3 if left else 0, "")
        assert ("an abandoned hold" in out) == left
        assert run("doctor", "--fix", str(group.path))[0] == 0
        assert worker.process.wait(timeout=30) == -signal.SIGKILL
    assert_nothing_left(group)
