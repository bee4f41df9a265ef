"""Owners of holds, and trials of what a hold comes to when something happens to one of those that keep it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcg
from support.holds import is_stopped, with_worker
from support.marks import is_held, marks
from support.pace import at_most
from support.processes import sleeps_in, state, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

PROGRAM = Path(__file__).with_name("owner.py")
STORM = Path(__file__).with_name("storm.c")

TIMES = [pytest.param(1, id="once"), pytest.param(50, id="50 times", marks=pytest.mark.slow)]
"""How often a trial is made."""

LONG = 60
"""A delay that explains nothing that a test waits for, in seconds."""

PROMPT = at_most(0.05)
"""Within so many seconds a hold that is lost is put back: the median, as the machine has more to do."""
AT_ALL = at_most(2.0)
"""And each of them within so many."""


class Owners:
    """Starts the processes of trials: owner.py. All of them are gone after the ``with`` block."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(PROGRAM), str(other.fileno())], pass_fds=[other.fileno()]
            )

    def start(self) -> Owner:
        """A process that takes orders."""
        return Owner(self)

    def ask(self, message: str, files: Iterable[int] = ()) -> int:
        """The program's answer."""
        socket.send_fds(self._socket, [message.encode()], list(files))
        return int(self._socket.recv(64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        with self._process:
            pass


class Owner:
    """A process that does what it is told; owner.py has the orders. Killed at the end of the ``with`` block."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._status: int | None = None
        orders, to_orders = os.pipe()
        from_answers, answers = os.pipe()
        self.pid = owners.ask("start", [orders, answers])
        os.close(orders)
        os.close(answers)
        self._orders = os.fdopen(to_orders, "w")
        self._answers = os.fdopen(from_answers)

    def order(self, order: str, *arguments: object) -> None:
        """Tells it to do something, and does not wait for that."""
        self._orders.write(" ".join([order, *map(str, arguments)]) + "\n")
        self._orders.flush()

    def answer(self) -> str:
        """Waits for its next answer; "" when it has died."""
        return self._answers.readline().rstrip("\n")

    def do(self, order: str, *arguments: object) -> str:
        """Tells it to do something, and waits for the answer."""
        self.order(order, *arguments)
        return self.answer()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Waits until it has ended; its status as `subprocess.Popen.returncode` has it."""
        if self._status is None:
            self._status = self._owners.ask(f"wait {self.pid}")
        return self._status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.wait()
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._answers.close()


class Sight(NamedTuple):
    """What there is to see of a group."""

    held: bool
    """Whether the kernel's killer is kept away, as by `is_held`."""
    kills: int
    """In the group itself."""


class Trial:
    """A group that somebody else holds, and what is in it."""

    def __init__(
        self,
        owners: Owners,
        group: memcg.Cgroup,
        processes: contextlib.ExitStack,
        files: contextlib.ExitStack,
    ) -> None:
        self._owners = owners
        self._processes = processes
        self._files = files
        self.group = group
        self.owner = self.start()
        self.pids: tuple[int, ...] = ()
        """Of the guard, the keeper and the warden; on v2, of the worker too."""
        self._guards: list[memcg.PidFD] = []

    def start(self) -> Owner:
        """A process, which is gone at the end of the trial."""
        return self._processes.enter_context(self._owners.start())

    def start_inside(self, *, victim: bool = True) -> Owner:
        """A process in the group; as a *victim*, the kernel's killer would take it first."""
        process = self.start()
        assert not victim or process.do("be_victim") == "done"
        assert process.do("join", self.group.path) == "done"
        return process

    def hold(self, delay: float | None, *paths: Path) -> None:
        """Has the owner hold the group, or others."""
        answer = self.owner.do("hold", delay, *(paths or [self.group.path]))
        self.note_guards(answer)

    def note_guards(self, answer: str) -> None:
        """Takes in the answer to "hold"."""
        assert answer.replace(" ", "").isdigit(), answer
        self.pids = with_worker(map(int, answer.split()))
        for pid in self.pids:
            self._guards.append(self._files.enter_context(memcg.PidFD(pid)))

    def hang(self, how: str) -> None:
        """Has the owner stop dealing with anything."""
        owner = self.owner
        if how == "stopped":
            owner.signal(signal.SIGSTOP)
        elif how == "Ctrl-Z":
            assert owner.do("lead_a_process_group") == "done"
            os.killpg(owner.pid, signal.SIGTSTP)
        elif how == "GIL held":
            assert owner.do("hold_the_gil") == "busy"
            wait_until(lambda: sleeps_in(f"/proc/{owner.pid}", "nanosleep"), "the owner is in C")
        if how in ("stopped", "Ctrl-Z"):
            wait_until(lambda: state(owner.pid) == "T", "the owner is stopped")

    def block(self, mib: int = 64) -> Owner:
        """A process that is stopped by an OOM of the group, as it wants more than there is."""
        hog = self.start_inside()
        hog.order("touch", mib)
        wait_until(lambda: is_stopped(hog.pid), f"process {hog.pid} is stopped by an OOM")
        return hog

    def read(self) -> Sight:
        """How the group is now."""
        if isinstance(self.group, memcg.CgroupV2):
            return Sight(is_held(self.group), self.group.events_local.oom_kill or 0)
        assert isinstance(self.group, memcg.CgroupV1)
        control = self.group.oom_control
        return Sight(control.oom_kill_disable, control.oom_kill or 0)

    def wait_held(self) -> None:
        """Waits until the kernel's killer is kept away, again."""
        wait_until(lambda: self.read().held, "the group is held again")

    def wait_restored(self, since: float, *blocked: Owner) -> float:
        """Waits until all is put back, and nobody of those who were *blocked* is; the seconds since *since*.

        It looks without a pause, as it measures."""
        while self.read().held or any(is_stopped(process.pid) for process in blocked):
            assert time.monotonic() < since + 30, "the group is held"
        return time.monotonic() - since

    def wait_killed(self, number: int = 1) -> float:
        """Waits until the kernel has killed so many in the group itself; when it was seen."""
        wait_until(lambda: self.read().kills >= number, f"{number} kills by the kernel")
        return time.monotonic()

    def continue_guards(self) -> None:
        """Lets those of them go on who are stopped."""
        for guard in self._guards:
            with contextlib.suppress(memcg.ProcessNotFoundError):
                guard.send_signal(signal.SIGCONT)

    def guards_left(self) -> list[int]:
        """Those of them who have not exited."""
        return [guard.pid for guard in self._guards if not guard.exited]

    def assert_nothing_left(self) -> None:
        """Proves that no guard is left, nor anything of the hold in the group or below, nor a process blocked."""
        wait_until(lambda: not self.guards_left(), "guard, keeper, warden and worker have ended", 10)
        for group in self.group.walk():
            assert not is_held(group), group
            assert marks(group) == [], group
            if isinstance(group, memcg.CgroupV2):
                assert group.high is None
            else:
                wait_until(lambda group=group: not group.oom.under_oom, "the group is out of its OOM", 10)  # type: ignore[misc]
            assert [pid for pid in group.processes() if is_stopped(pid)] == []


@contextlib.contextmanager
def trial(owners: Owners, nursery: memcg.Cgroup, *, limit: str = "32M") -> Iterator[Trial]:
    """A group for one trial. When the trial is over, its processes end, and nothing of the hold may be left."""
    with memcg.temporary(parent=nursery, limit=limit) as group, contextlib.ExitStack() as files:
        with contextlib.ExitStack() as processes:
            one = Trial(owners, group, processes, files)
            try:
                yield one
            except BaseException:
                one.continue_guards()
                raise
        one.assert_nothing_left()
    assert not group.exists


def assert_prompt(seconds: list[float]) -> None:
    """Proves that it took 50 ms at most, as the median, and of few trials, each with some allowance for noise."""
    print(f"put back within {statistics.median(seconds) * 1000:.1f} ms (median), {max(seconds) * 1000:.1f} (max)")
    assert max(seconds) <= AT_ALL, sorted(seconds)
    if len(seconds) >= 10:
        assert statistics.median(seconds) <= PROMPT, sorted(seconds)
