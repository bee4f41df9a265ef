"""kill(): all that is in a group and below, whatever it does meanwhile."""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg.cgroup.emptying import kill_one_by_one
from memcg.units import Deadline
from support.forked import as_nobody, give_away, in_child
from support.processes import start_hog, state, wait_blocked, wait_until
from support.scripts import MULTIPLY, say, start_python

if TYPE_CHECKING:
    import subprocess

SLEEP = ["/bin/sleep", "60"]


def killed(*processes: subprocess.Popen[str] | subprocess.Popen[bytes]) -> bool:
    """Whether all of them were."""
    statuses = []
    for process in processes:
        with process:
            statuses.append(process.wait(timeout=60))
    return set(statuses) == {-signal.SIGKILL}


def test_all_that_is_below_is_killed(group: memcg.Cgroup) -> None:
    """Processes at any depth are gone when kill() returns; the groups stay, and can be used again."""
    deep = group.create("a").create("b").create("c")
    processes = [place.popen(SLEEP) for place in (deep, group.create("d"), group / "d") for _ in range(5)]
    stubborn = start_python(
        deep, "import signal; signal.signal(15, signal.SIG_IGN); print('here', flush=True); input()"
    )
    assert say(stubborn) == "here"
    group.kill()
    assert not group.populated
    assert killed(stubborn, *processes)
    assert deep.exists
    again = deep.popen(SLEEP)
    assert deep.processes() == (again.pid,)
    group.kill()
    assert killed(again)


def test_nobody_elsewhere_is_killed(group: memcg.Cgroup) -> None:
    """Processes of groups beside, and of the group above on v1, live on."""
    child, sibling = group.create("child"), group.create("sibling")
    beside = [sibling.popen(SLEEP), *([group.popen(SLEEP)] if isinstance(group, memcg.CgroupV1) else [])]
    inside = child.popen(SLEEP)
    child.kill()
    assert killed(inside)
    assert [process.poll() for process in beside] == [None] * len(beside)
    group.kill()
    assert killed(*beside)


def test_an_empty_group_is_empty(group: memcg.Cgroup) -> None:
    """Where there is nobody, kill() returns at once, also with no time."""
    group.kill(timeout=0)
    group.create("child")
    group.kill(timeout=0)


def test_processes_that_fork_meanwhile(group: memcg.Cgroup) -> None:
    """Sixteen processes that fork all the time leave nobody behind."""
    process = start_python(group, MULTIPLY, "4")
    assert [say(process) for _ in range(16)] == ["here"] * 16
    group.kill()
    assert not group.populated
    assert killed(process)


MANY = """
import os, signal
signal.alarm(60)
for _ in range(600):
    if os.fork() == 0:
        signal.alarm(60)
        signal.pause()
print("here", flush=True)
signal.pause()
"""


def test_more_processes_than_files_can_be_open(group: memcg.Cgroup) -> None:
    """Killing one by one, as old kernels need it, holds no more than some of them by a file descriptor at once."""
    group.limit = None
    leaf = group.create("leaf")
    process = start_python(leaf, MANY)
    assert say(process) == "here"

    def try_it() -> bool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        kill_one_by_one(group, Deadline(60))
        return group.populated

    assert in_child(try_it) is False
    assert killed(process)


def test_processes_that_are_stopped(group: memcg.Cgroup) -> None:
    """SIGSTOP does not save a process, nor does being frozen."""
    process = group.popen(SLEEP)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state(process.pid) == "T", "the process is stopped")
    if isinstance(group, memcg.CgroupV2):
        group.freeze()
    group.kill()
    assert killed(process)
    if isinstance(group, memcg.CgroupV2):
        assert group.cgroup_freeze is True, "kill() does not thaw"
        group.thaw()


def test_processes_that_are_stopped_by_an_oom(group_v1: memcg.CgroupV1) -> None:
    """A process that is blocked for want of memory, with the killer off, is killed all the same."""
    group_v1.oom.disable()
    hog = start_hog(group_v1, 64)
    wait_blocked(hog)
    group_v1.kill()
    assert killed(hog)


def test_who_is_left_when_the_time_is_up_is_named(group: memcg.Cgroup) -> None:
    """Without time to wait, kill() names processes that are just going, with their commands; and they go."""
    told: TimeoutError | None = None
    for _ in range(50):
        processes = [group.popen(SLEEP) for _ in range(8)]
        try:
            group.kill(timeout=0)
        except TimeoutError as error:
            told = error
            break
        finally:
            assert killed(*processes)
    assert isinstance(told, memcg.WaitTimeoutError), "fifty times, eight processes were gone at once"
    assert any(f"{process.pid} (sleep)" in str(told) for process in processes), told
    assert str(group.path) in str(told)


def test_it_refuses_to_kill_the_caller(group: memcg.Cgroup) -> None:
    """From inside the group, or below, kill() is refused, and nobody is killed."""
    child = group.create("child")
    other = child.popen(SLEEP)

    def try_it() -> list[str]:
        child.add(os.getpid())
        told = []
        for each in (child, group):
            with pytest.raises(memcg.CgroupBusyError, match=f"this very process \\({os.getpid()}\\)") as caught:
                each.kill()
            told.append(str(caught.value.filename))
        return told

    assert in_child(try_it) == [str(child.path), str(group.path)]
    assert other.poll() is None
    child.kill()
    assert killed(other)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_timeout_is_a_number_of_seconds(group: memcg.Cgroup, timeout: float) -> None:
    """A timeout that is none is refused before anybody is killed."""
    process = group.popen(SLEEP)
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)):
        group.kill(timeout=timeout)
    assert process.poll() is None
    group.kill(timeout=None)
    assert killed(process)


def test_another_user_may_not(group: memcg.Cgroup) -> None:
    """Who may not kill the processes, nor the group, is told so, and nobody is killed."""
    process = group.popen(SLEEP)
    with pytest.raises(memcg.AccessDeniedError):
        as_nobody(group.kill)
    assert process.poll() is None
    group.kill()
    assert killed(process)


def test_a_user_who_owns_the_processes_but_not_the_file_may(group: memcg.Cgroup) -> None:
    """Where cgroup.kill is not the caller's, as in a group that systemd delegated, the processes can be killed."""
    given = group.create("given")
    give_away(given.path)
    if isinstance(given, memcg.CgroupV2):
        os.chown(given.path / "cgroup.kill", 0, 0)
    leaf = given.create("leaf")
    process = leaf.popen(SLEEP, user=65534)
    as_nobody(lambda: given.kill())
    assert killed(process)
