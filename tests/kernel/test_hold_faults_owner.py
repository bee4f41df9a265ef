"""What becomes of a held group when its owner hangs, stops, dies or forks: on real groups, again and again."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.commands import run_here
from support.holds import is_stopped
from support.owners import AT_ALL, LONG, TIMES, Owners, Trial, assert_prompt, trial
from support.pace import at_most
from support.processes import state, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY = 0.05
repeated = pytest.mark.parametrize("times", TIMES)
during_or_not = pytest.mark.parametrize("during", [True, False], ids=["during an OOM", "outside one"])


@pytest.fixture(scope="module")
def owners() -> Iterator[Owners]:
    """Where owners come from."""
    with Owners() as owners:
        yield owners


def assert_in_time(late: list[float]) -> None:
    """Proves that no kill came before the delay, and none much later; each trial allows for a busy machine."""
    assert min(late) >= 0
    assert max(late) <= AT_ALL
    if len(late) >= 10:
        assert statistics.median(late) <= at_most(0.1)


def kill_at_the_delay(one: Trial) -> float:
    """With the hold begun: an OOM, at which nobody acts; how much later than the delay the kernel kills."""
    hog = one.start_inside()
    began = time.monotonic()
    hog.order("touch", 64)
    killed = one.wait_killed()
    assert hog.wait() == -signal.SIGKILL
    return killed - began - DELAY


# The handler.


@repeated
@pytest.mark.parametrize("fault", ["never acts", "stopped", "GIL held", "Ctrl-Z", "Ctrl-C ignored"])
def test_the_kernel_kills_at_the_delay(owners: Owners, nursery: memcg.Cgroup, fault: str, times: int) -> None:
    """An owner that does nothing at an OOM, for whatever reason, leads to one kill at the delay."""
    late, kills = [], Counter[int]()
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(DELAY)
            one.hang(fault)
            if fault == "Ctrl-C ignored":
                assert [one.owner.do(order) for order in ("lead_a_process_group", "ignore_interrupts")] == [
                    "done"
                ] * 2
                os.killpg(one.owner.pid, signal.SIGINT)
            late.append(kill_at_the_delay(one))
            one.wait_held()
            kills[one.read().kills] += 1
    assert_in_time(late)
    assert kills == {1: times}


@repeated
def test_an_owner_that_is_blocked_itself(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """An owner that was moved into the group that it holds, and is stopped by its OOM, goes on after the delay."""
    late, delay = [], at_most(DELAY)
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(delay)
            assert one.owner.do("reserve", 4) == "done"
            assert one.owner.do("join", one.group.path) == "done"
            hog = one.start_inside()
            began = time.monotonic()
            hog.order("touch", 64)
            wait_until(lambda hog=hog: is_stopped(hog.pid), "the process is blocked")  # type: ignore[misc]
            one.owner.order("touch_reserve")
            assert hog.wait() == -signal.SIGKILL
            late.append(time.monotonic() - began - delay)
            assert one.owner.answer() == "done"
            assert one.owner.do("use") == f"delay {delay}"
            assert one.read().kills == 1
    assert_in_time(late)


@repeated
def test_a_handler_that_acts_in_time(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Nobody dies where the limit is raised, and the next OOM has a delay of its own, all of it."""
    late, delay = [], at_most(4 * DELAY)
    for _ in range(times):
        with trial(owners, nursery, limit="32M") as one:
            one.hold(delay)
            hog = one.start_inside()
            for size in (40, 24):
                began = time.monotonic()
                hog.order("touch", size)
                late.append(float(one.owner.do("act", "32M")) - began - delay)
                assert hog.answer() == "done"
                # Until the first one is over, it would be the same OOM, with a fresh delay from the raise on.
                wait_until(lambda one=one: one.owner.do("counts").endswith("armed"), "it is over")  # type: ignore[misc]
            assert one.read().kills == 0
            assert one.group.limit == 96 * MiB
            began = time.monotonic()
            hog.order("touch", 64)
            late.append(one.wait_killed() - began - delay)
    assert_in_time(late)


# The owner is gone.


def end(one: Trial, how: str) -> float:
    """Ends the owner; when that began."""
    since = time.monotonic()
    if how == "SIGKILL":
        one.owner.signal(signal.SIGKILL)
    elif how in ("killpg", "Ctrl-C"):
        os.killpg(one.owner.pid, signal.SIGKILL if how == "killpg" else signal.SIGINT)
    else:
        one.owner.order(how)
    return since


ENDS = {
    "SIGKILL": -signal.SIGKILL,
    "segfault": -signal.SIGSEGV,
    "leave": 3,
    "become_another_program": None,
    "killpg": -signal.SIGKILL,
    "Ctrl-C": 1,
}
"""How an owner is ended, and its status; exec(2) does not end the process."""


@repeated
@during_or_not
@pytest.mark.parametrize("how", ENDS)
def test_an_owner_that_is_gone(owners: Owners, nursery: memcg.Cgroup, how: str, during: bool, times: int) -> None:
    """Everything is put back when the owner is gone, and with it goes on, or dies, who was blocked."""
    took, died = [], 0
    for _ in range(times):
        with trial(owners, nursery) as one:
            if how in ("killpg", "Ctrl-C"):
                assert one.owner.do("lead_a_process_group") == "done"
            one.hold(LONG)
            blocked = [one.block()] if during else []
            took.append(one.wait_restored(end(one, how), *blocked))
            died += sum(hog.wait() == -signal.SIGKILL for hog in blocked)
            if ENDS[how] is None:
                assert Path(f"/proc/{one.owner.pid}/comm").read_text() == "sleep\n"
            else:
                assert one.owner.wait() == ENDS[how]
            wait_until(lambda one=one: not one.guards_left(), "the guard has ended")  # type: ignore[misc]
    assert_prompt(took)
    assert died == (times if during else 0)


# Children of the owner.


@repeated
@during_or_not
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "fork in C", "clone"])
def test_a_child_that_outlives_the_owner(
    owners: Owners, nursery: memcg.Cgroup, how: str, during: bool, times: int
) -> None:
    """However the owner has forked, the child can do nothing with the hold, and does not keep it either."""
    took, outcomes = [], Counter[str]()
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            blocked = [one.block()] if during else []
            pid, _, tried = one.owner.do("fork", how.replace(" ", "_")).partition(" ")
            outcomes[tried] += 1
            assert one.read().held
            assert one.owner.do("use") == f"delay {float(LONG)}"
            since = time.monotonic()
            one.owner.signal(signal.SIGKILL)
            took.append(one.wait_restored(since, *blocked))
            wait_until(lambda one=one: not one.guards_left(), "the guard has ended")  # type: ignore[misc]
            os.kill(int(pid), signal.SIGUSR1)
            outcomes[one.owner.answer().partition(" ")[2]] += 1
            os.kill(int(pid), signal.SIGKILL)
            assert [hog.wait() for hog in blocked] == [-signal.SIGKILL] * len(blocked)
    assert_prompt(took)
    for outcome in outcomes:
        *refused, written, left = outcome.split()
        assert (refused, left) == (["ClosedError"] * 3, "nothing"), outcomes
        assert written in ("nothing", "OSError", "BrokenPipeError")
    assert outcomes.total() == 2 * times


@repeated
@during_or_not
def test_a_child_that_becomes_another_program(
    owners: Owners, nursery: memcg.Cgroup, during: bool, times: int
) -> None:
    """What the owner has started and left behind does not keep the hold."""
    took = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            blocked = [one.block()] if during else []
            child = int(one.owner.do("fork_and_exec"))
            wait_until(
                lambda child=child: Path(f"/proc/{child}/comm").read_text() == "sleep\n",  # type: ignore[misc]
                "the child is another program",
            )
            assert one.read().held
            since = time.monotonic()
            one.owner.signal(signal.SIGKILL)
            took.append(one.wait_restored(since, *blocked))
            assert [hog.wait() for hog in blocked] == [-signal.SIGKILL] * len(blocked)
            os.kill(child, signal.SIGKILL)
    assert_prompt(took)


# An owner with everything around it.


def find_in_namespace(init: int, pids: list[int]) -> list[int]:
    """What the processes with these PIDs, in the PID namespace that *init* leads, are called here."""
    namespace = os.readlink(f"/proc/{init}/ns/pid")
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.readlink(status.parent / "ns/pid") == namespace:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                here, *_, inner = map(int, lines["NSpid"].split())
                found[inner] = here
    return [found[pid] for pid in pids]


@repeated
@pytest.mark.parametrize("how", ["as it comes", "all at once"])
@pytest.mark.parametrize("by", ["doctor", "the next hold"])
def test_a_pid_namespace_that_is_killed(
    owners: Owners, nursery: memcg.Cgroup, by: str, how: str, times: int
) -> None:
    """Of an owner that is killed together with its guard, what is left is repaired by the next one who looks.

    The guard has a moment, which is mostly enough, between the end of PID 1 and that of all others; where guard,
    keeper and warden are stopped, it has none."""
    left = Counter[bool]()
    for _ in range(times):
        with trial(owners, nursery) as one:
            answers = {one.owner.do("become_init"), one.owner.answer()} - {"done"}
            init = int(answers.pop())
            inner = one.owner.do("hold", LONG, one.group.path)
            guards = find_in_namespace(init, [int(pid) for pid in inner.split()])
            one.note_guards(" ".join(map(str, guards)))
            hog = one.block()
            for pid in reversed(guards) if how == "all at once" else ():
                os.kill(pid, signal.SIGSTOP)
                wait_until(lambda pid=pid: state(pid) == "T", "it is stopped")  # type: ignore[misc]
            os.kill(init, signal.SIGKILL)
            wait_until(lambda one=one: not one.guards_left(), "the guard has ended")  # type: ignore[misc]
            left[one.read().held] += 1
            if by == "doctor":
                status, _, errors = run_here("doctor", "--fix", str(one.group.path))
                assert (status, errors) == (0, "")
            else:
                with one.group.oom.hold(LONG):
                    assert one.read().held
            assert hog.wait() == -signal.SIGKILL
    assert left.total() == times
    assert how == "as it comes" or left[True] == times


@repeated
def test_an_owner_that_is_killed_for_its_own_group(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """With no memory left where owner and guard live, and the owner killed for that, everything is put back."""
    took = []
    for _ in range(times):
        with memcg.temporary(parent=nursery, limit="32M") as home, trial(owners, nursery) as one:
            assert one.owner.do("join", home.path) == "done"
            one.hold(LONG)
            hog = one.block()
            one.owner.order("touch", 64)
            assert one.owner.wait() == -signal.SIGKILL
            took.append(one.wait_restored(time.monotonic(), hog))
            assert hog.wait() == -signal.SIGKILL
    assert_prompt(took)


@repeated
@pytest.mark.usefixtures("group_v1")
def test_an_owner_that_is_blocked_in_its_own_group(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """With no memory left where owner and guard live, and the killer off there, the delay holds."""
    late = []
    for _ in range(times):
        with memcg.temporary(parent=nursery, limit="32M") as home, trial(owners, nursery) as one:
            assert one.owner.do("join", home.path) == "done"
            one.hold(DELAY)
            home.oom.disable()
            one.owner.order("touch", 64)
            wait_until(lambda one=one: is_stopped(one.owner.pid), "the owner is blocked")  # type: ignore[misc]
            assert home.oom.under_oom
            late.append(kill_at_the_delay(one))
            one.wait_held()
            assert one.guards_left() == list(one.pids)
            home.limit = None
            assert one.owner.answer() == "done"
    assert_in_time(late)


# An owner that lacks something.


@pytest.mark.parametrize("step", [pytest.param(10, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_no_file_descriptor_left(owners: Owners, nursery: memcg.Cgroup, step: int) -> None:
    """However many file descriptors the owner and the guard lack for a hold, it says so, and leaves nothing."""
    for hard in ("", "hard"):
        for number in range(30 if hard else 5, 400, 5 * step if hard else step):
            with trial(owners, nursery) as one:
                assert one.owner.do("limit_files", number, hard) == "done"
                answer = one.owner.do("hold", LONG, one.group.path)
                if answer[0].isdigit():
                    one.note_guards(answer)
                    break
                assert answer.startswith("TooManyOpenFilesError: ")
                assert "RLIMIT_NOFILE" in answer
                assert one.read() == (False, 0)
        else:
            pytest.fail("400 file descriptors are not enough")


@repeated
def test_no_proc(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Where /proc is not there, the error says so; where it goes away later, the delay holds."""
    late = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            assert one.owner.do("hide_proc") == "done"
            answer = one.owner.do("hold", DELAY, one.group.path)
            assert answer.startswith("CgroupNotFoundError: "), answer
            assert "/proc/self/mountinfo" in answer
            assert one.read() == (False, 0)
        with trial(owners, nursery) as one:
            one.hold(DELAY)
            assert one.owner.do("hide_proc") == "done"
            late.append(kill_at_the_delay(one))
            assert one.owner.do("use") == f"delay {DELAY}"
    assert_in_time(late)
