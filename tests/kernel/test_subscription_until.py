"""until(): the events until a process has exited, and all that it caused is told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import PidFD
from support.events import kills, kinds
from support.processes import Worker, finish, start_hog, start_waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Subscription


@pytest.fixture
def events(group: memcg.Cgroup) -> Iterator[Subscription]:
    """A subscription to the group."""
    with group.oom.subscribe() as events:
        yield events


BOTH = [memcg.OomEvent, memcg.KernelKill]


@pytest.mark.parametrize("named_by", ["Popen", "PID", "PidFD"])
def test_a_process_named_in_each_way(group: memcg.Cgroup, events: Subscription, named_by: str) -> None:
    """By Popen, PID or PidFD: the loop blocks, gives all that the process caused, and ends with it."""
    hog = start_hog(group, 64)
    with PidFD(hog.pid) as process:
        ways: dict[str, memcg.Process | PidFD | int] = {"Popen": hog, "PID": hog.pid, "PidFD": process}
        told = list(events.until(ways[named_by]))
        assert kinds(told) == BOTH
        assert not process.closed
    assert hog.returncode is None  # it was not waited for
    assert finish(hog) == -9


def test_a_process_that_does_no_harm(group: memcg.Cgroup, events: Subscription) -> None:
    """The loop blocks while the process runs, and gives nothing where nothing happens."""
    hog = start_hog(group, 1, stay=True)
    with ThreadPoolExecutor(1) as pool, events:
        waiting = start_waiting(pool, lambda: list(events.until(hog)))
        assert not waiting.done()
        assert finish(hog) == 0
        assert waiting.result(timeout=30) == []


def test_a_process_that_was_waited_for(group: memcg.Cgroup, events: Subscription) -> None:
    """An exited process is no reason to block: what it caused is given, and the loop ends."""
    hog = start_hog(group, 64)
    assert finish(hog) == -9
    assert kinds(events.until(hog)) == BOTH
    assert list(events.until(hog)) == []


def test_a_process_that_has_exited_and_not_been_waited_for(group: memcg.Cgroup, events: Subscription) -> None:
    """A zombie has exited: the loop ends."""
    hog = start_hog(group, 64)
    os.waitid(os.P_PID, hog.pid, os.WEXITED | os.WNOWAIT)
    assert kinds(events.until(hog)) == BOTH
    assert list(events.until(hog)) == []
    assert finish(hog) == -9


def test_a_pid_that_does_not_exist(events: Subscription) -> None:
    """A PID that nobody has any more has exited: the loop ends at once."""
    with subprocess.Popen(["true"]) as process:
        pass
    assert list(events.until(process.pid)) == []


def test_a_popen_that_polls_meanwhile(group: memcg.Cgroup, events: Subscription) -> None:
    """poll() in the body, which waits for the process, does not disturb the loop."""
    hog = start_hog(group, 64)
    told = []
    for event in events.until(hog):
        hog.wait()
        told.append(event)
    assert kinds(told) == BOTH
    assert finish(hog) == -9


def test_all_that_happened_to_others_is_given_too(group: memcg.Cgroup, events: Subscription) -> None:
    """The process only says when to stop: events of the whole group are given until then."""
    with Worker(group) as worker:
        assert worker.do("hogs 3 64") == "-9 -9 -9"
        worker.process.kill()
        assert kills(events.until(worker.process)) == 3


def test_a_process_outside_the_group(group: memcg.Cgroup, events: Subscription, nursery: memcg.Cgroup) -> None:
    """Any process can say when to stop."""
    with memcg.temporary(parent=nursery) as other, Worker(other) as outside, Worker(group) as worker:
        assert worker.do("hogs 1 64") == "-9"
        told = []
        for event in events.until(outside.process):
            told.append(event)
            if isinstance(event, memcg.KernelKill):
                outside.process.kill()
        assert kinds(told) == BOTH


def test_a_loop_left_early_holds_nothing_open(group: memcg.Cgroup, events: Subscription) -> None:
    """Breaking off closes what until() opened; a later loop goes on with what was left."""
    with Worker(group) as worker:
        before = len(os.listdir("/proc/self/fd"))
        worker.order("hogs 1 64")
        for event in events.until(worker.process):
            assert isinstance(event, memcg.OomEvent)
            break
        assert len(os.listdir("/proc/self/fd")) == before
        with contextlib.suppress(ZeroDivisionError):
            for event in events.until(worker.process):
                assert isinstance(event, memcg.KernelKill)
                raise ZeroDivisionError
        assert len(os.listdir("/proc/self/fd")) == before
        assert worker.answer() == "-9"
        worker.process.kill()
        assert kills(events.until(worker.process)) == 0


def test_a_loop_that_never_began_holds_nothing_open(group: memcg.Cgroup, events: Subscription) -> None:
    """until() without a loop is dropped without a warning."""
    hog = start_hog(group, 1, stay=True)
    before = len(os.listdir("/proc/self/fd"))
    events.until(hog)
    assert len(os.listdir("/proc/self/fd")) == before
    assert finish(hog) == 0


def test_two_loops_after_one_another_on_one_process(group: memcg.Cgroup, events: Subscription) -> None:
    """The object that until() gives can be gone on with after a break, and stays at its end."""
    hog = start_hog(group, 64)
    until = events.until(hog)
    assert iter(until) is until
    assert isinstance(next(until), memcg.OomEvent)
    assert kinds(until) == [memcg.KernelKill]
    assert list(until) == []
    assert finish(hog) == -9


def test_it_ends_with_the_group_too(group: memcg.Cgroup) -> None:
    """A loop over events until a process exits ends when the group is removed, after Removed."""
    child, other = group.create("child"), group.create("other")
    hog = start_hog(other, 1, stay=True)
    with child.oom.subscribe() as events:
        child.remove()
        assert kinds(events.until(hog)) == [memcg.Removed]
    assert finish(hog) == 0


def test_closing_ends_it_quietly(group: memcg.Cgroup, events: Subscription) -> None:
    """close() in another thread ends the loop, without an error, and its files are closed."""
    hog = start_hog(group, 1, stay=True)
    with ThreadPoolExecutor(1) as pool, events:
        looping = start_waiting(pool, lambda: list(events.until(hog)))
        events.close()
        assert looping.result(timeout=30) == []
    assert finish(hog) == 0


def test_a_process_stopped_and_continued_has_not_exited(group: memcg.Cgroup, events: Subscription) -> None:
    """Only an exit ends the loop."""
    hog = start_hog(group, 1, stay=True)
    with ThreadPoolExecutor(1) as pool, events:
        looping = start_waiting(pool, lambda: list(events.until(hog)))
        hog.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, hog.pid, os.WSTOPPED | os.WNOWAIT)
        hog.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, hog.pid, os.WCONTINUED | os.WNOWAIT)
        assert not looping.done()
        assert finish(hog) == 0
        assert looping.result(timeout=30) == []


@pytest.mark.parametrize("wrong", [0, -1, True, "1", 1.5, None, object()])
def test_what_is_no_process_is_refused(events: Subscription, wrong: object) -> None:
    """Bad arguments raise at the call, not in the loop, and say what would do."""
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError), match="PID"):
        events.until(wrong)  # type: ignore[arg-type]
    assert events.wait(0) is None


def test_a_closed_pidfd_is_refused(group: memcg.Cgroup, events: Subscription) -> None:
    """A PidFD that was closed stands for no process any more: ClosedError, not an endless wait."""
    process = PidFD(os.getpid())
    process.close()
    with pytest.raises(memcg.ClosedError, match="PidFD"):
        list(events.until(process))
    assert events.wait(0) is None
