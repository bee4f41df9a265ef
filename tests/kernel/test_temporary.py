"""temporary(): whatever is in the group at the end, it is gone, and the group with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.forked import NOBODY, give_away, in_child
from support.processes import finish, is_blocked, start_hog, state, wait_blocked, wait_until
from support.scripts import MULTIPLY, say, start_python
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = ["/bin/sleep", "60"]


# How it begins.


def test_a_group_for_the_length_of_a_block(nursery: memcg.Cgroup) -> None:
    """In the block there is an empty group of a name that nobody has, below the parent; after it, none."""
    before = nursery.children()
    with memcg.temporary(parent=nursery) as group:
        assert group.exists
        assert group.parent == nursery
        assert group.name.startswith("memcg-")
        assert group.limit is None
        assert group.processes() == ()
        assert group.oom.killer_enabled
        with memcg.temporary(parent=nursery) as other:
            assert other.name != group.name
    assert not group.exists
    assert nursery.children() == before


def test_without_a_parent_it_is_where_the_caller_may_create_groups(nursery: memcg.Cgroup) -> None:
    """For root that is the root of the hierarchy; for others, their own group, or that above it."""
    with memcg.temporary() as group:
        assert group.parent == (memcg.root() if os.geteuid() == 0 else nursery.parent)
    assert not group.exists


def test_limit_and_name(nursery: memcg.Cgroup) -> None:
    """The group has the limit and the name that were asked for."""
    with memcg.temporary(parent=nursery, name="job", limit="10M") as group:
        assert group.path == nursery.path / "job"
        assert group.limit == 10 * MiB


def test_a_name_that_exists_is_left_alone(group: memcg.Cgroup) -> None:
    """A group of that name is neither taken over nor removed."""
    taken = group.create("job", limit="16M")
    with taken.popen(SLEEP) as process:
        before = settings(group)
        with pytest.raises(memcg.CgroupExistsError) as caught:
            memcg.temporary(parent=group, name="job", limit="8M").__enter__()
        assert caught.value.filename == str(taken.path)
        assert settings(group) == before
        process.kill()


@pytest.mark.parametrize("limit", ["", 0, 4095, -1, True, "0x1000000"])
def test_a_bad_limit_leaves_nothing(group: memcg.Cgroup, limit: int) -> None:
    """A limit that is none is refused, and no group is left behind."""
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)):
        memcg.temporary(parent=group, limit=limit).__enter__()
    assert group.children() == ()


def test_the_killer_is_on_whatever_the_parent_has(group_v1: memcg.CgroupV1) -> None:
    """Below a group whose killer is off, a new group inherits that; a temporary one does not."""
    group = group_v1
    group.oom.disable()
    assert not group.create("inherits").oom.killer_enabled
    with memcg.temporary(parent=group, limit="16M") as inner:
        assert inner.oom.killer_enabled
        assert finish(start_hog(inner, 24)) == -9
    assert not group.oom.killer_enabled


# How it ends.


def ended(*processes: subprocess.Popen[str] | subprocess.Popen[bytes]) -> bool:
    """Whether all of them were killed."""
    killed = True
    for process in processes:
        with process:
            killed = killed and process.wait(timeout=60) == -signal.SIGKILL
    return killed


def test_processes_are_killed(nursery: memcg.Cgroup) -> None:
    """Processes that are still there at the end are killed, also those that ignore all signals that they can."""
    stubborn = "import signal\nfor n in {*signal.valid_signals()} - {9, 19, 14, 32, 33}: signal.signal(n, 1)\n"
    with memcg.temporary(parent=nursery) as group:
        processes = [start_python(group, stubborn + "print('ready', flush=True); input()") for _ in range(5)]
        assert [say(process) for process in processes] == ["ready"] * 5
    assert not group.exists
    assert ended(*processes)


def test_groups_below_are_removed_with_what_is_in_them(nursery: memcg.Cgroup) -> None:
    """Groups at any depth go too, and every process in them."""
    with memcg.temporary(parent=nursery) as group:
        below, processes = group, []
        for depth in range(5):
            below.create(f"empty-{depth}")
            processes.append(below.create("used").popen(SLEEP))
            below = below.create("below")
    assert not group.path.exists()
    assert ended(*processes)


def test_processes_that_are_stopped_by_an_oom(group_v1: memcg.CgroupV1) -> None:
    """Processes that are blocked for want of memory, with the killer off, are killed; none stays for ever."""
    with memcg.temporary(parent=group_v1, limit="16M") as group:
        below = group.create("below")
        group.oom.disable()
        hogs = [start_hog(group, 64), start_hog(below, 64)]
        wait_until(lambda: any(is_blocked(hog.pid) for hog in hogs), "a process is stopped by an OOM")
    assert not group.exists
    assert ended(*hogs)


def test_a_process_that_is_stopped_by_the_limit_above(group_v1: memcg.CgroupV1) -> None:
    """Where the limit that was hit is the parent's, with the parent's killer off, the process is killed too."""
    group = group_v1
    group.oom.disable()
    with memcg.temporary(parent=group) as inner:
        hog = start_hog(inner, 64)
        wait_blocked(hog)
    assert not inner.exists
    assert ended(hog)
    assert not group.oom.under_oom


def test_a_process_that_was_stopped_by_a_signal(nursery: memcg.Cgroup) -> None:
    """SIGSTOP does not save a process."""
    with memcg.temporary(parent=nursery) as group:
        process = group.popen(SLEEP)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(process.pid) == "T", "the process is stopped")
    assert not group.exists
    assert ended(process)


def test_a_process_that_nobody_has_waited_for(nursery: memcg.Cgroup) -> None:
    """A zombie does not stand in the way, and its status can still be had."""
    with memcg.temporary(parent=nursery) as group:
        process = group.popen(["/bin/false"])
        wait_until(lambda: state(process.pid) == "Z", "the process has exited")
    assert not group.exists
    assert process.wait() == 1


RUN_AWAY = """
import os, time
deadline = time.monotonic() + 20
for number in range(100_000):
    if number == 20:
        print("running", flush=True)
    if os.fork() or time.monotonic() > deadline:
        os._exit(0)
"""


def test_a_process_that_runs_away(nursery: memcg.Cgroup) -> None:
    """A process that forks a child and exits, again and again, is caught all the same."""
    with memcg.temporary(parent=nursery) as group:
        process = start_python(group, RUN_AWAY)
        assert say(process) == "running"
        wait_until(lambda: group.populated, "it is between two forks no more")
    assert not group.exists
    assert finish(process) == 0


def test_many_processes_that_fork(nursery: memcg.Cgroup) -> None:
    """Thirty-two processes that fork all the time are all caught, with their children."""
    with memcg.temporary(parent=nursery) as group:
        process = start_python(group, MULTIPLY, "5")
        assert [say(process) for _ in range(32)] == ["here"] * 32
    assert not group.exists
    assert ended(process)


def test_this_process_is_spared(group: memcg.Cgroup) -> None:
    """Who is in the group itself, or below, is moved back to where it was before, and lives."""
    home = memcg.current()

    def enter(place: Callable[[memcg.Cgroup], memcg.Cgroup]) -> bool:
        with memcg.temporary(parent=group) as inner:
            target = place(inner)
            sleeper = target.popen(SLEEP)
            target.add(os.getpid())
        return memcg.current() == home and not inner.exists and ended(sleeper)

    assert in_child(lambda: enter(lambda inner: inner))
    assert in_child(lambda: enter(lambda inner: inner.create("below").create("deeper")))


def test_this_process_is_spared_where_its_home_has_gone(group: memcg.Cgroup) -> None:
    """Where the group that this process came from is no more, it is moved to the parent, or the error says so."""

    def enter() -> bool:
        home = group.create("home")
        home.add(os.getpid())
        try:
            with memcg.temporary(parent=group) as inner:
                inner.add(os.getpid())
                home.remove()
        except memcg.InternalProcessesError:
            return memcg.current() == inner and isinstance(group, memcg.CgroupV2)
        return memcg.current() == group and isinstance(group, memcg.CgroupV1)

    assert in_child(enter)


def test_a_group_that_is_gone_already(nursery: memcg.Cgroup) -> None:
    """Where somebody removed the group in the block, the end of it is quiet."""
    with memcg.temporary(parent=nursery) as group:
        group.remove()
    with memcg.temporary(parent=nursery) as outer, memcg.temporary(parent=outer) as inner:
        inner.remove()
        outer.remove()


def test_another_group_of_the_same_name_is_left_alone(group: memcg.Cgroup) -> None:
    """A group that somebody made in the place of the temporary one is not theirs to lose."""
    with memcg.temporary(parent=group, name="job") as first:
        first.remove()
        second = group.create("job")
    assert second.exists


# Errors in the block.


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, memcg.MemcgError])
def test_an_error_in_the_block_is_passed_on(nursery: memcg.Cgroup, error: type[BaseException]) -> None:
    """Whatever the block raises arrives as it was raised, and nothing is left behind."""
    raised = error("from the block")
    started: list[tuple[memcg.Cgroup, subprocess.Popen[bytes]]] = []

    def block() -> None:
        with memcg.temporary(parent=nursery) as group:
            started.append((group, group.create("below").popen(SLEEP)))
            raise raised

    with pytest.raises(error) as caught:
        block()
    assert caught.value is raised
    (group, process), *_ = started
    assert not group.exists
    assert ended(process)


def leave_behind(given: memcg.Cgroup, error: Exception | None) -> tuple[str, list[str]]:
    """What leaving a block raises, and warns of, when the group cannot be cleaned up: one that nobody was given,
    into which root has put a process."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            with memcg.temporary(parent=given):
                os.setresuid(0, 0, 0)
                below = given.children()[0]
                if isinstance(below, memcg.CgroupV2):  # whose owner may kill whoever is in it
                    os.chown(below.path / "cgroup.kill", 0, 0)
                process = below.popen(SLEEP)
                os.setresuid(NOBODY, NOBODY, 0)
                if error is not None:
                    raise error
        except (ZeroDivisionError, memcg.MemcgError) as caught:
            raised = f"{type(caught).__name__}: {caught}"
        os.setresuid(0, 0, 0)
        assert below.processes() == (process.pid,)
        with process:
            process.kill()
    return raised, [f"{warning.category.__name__}: {warning.message}" for warning in told]


def test_an_error_of_the_cleanup_never_replaces_one_of_the_block(group: memcg.Cgroup) -> None:
    """Where the cleanup fails too, the block's error arrives, and a warning names what is left behind."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    given = group.create("given")
    give_away(given.path)
    raised, told = in_child(lambda: leave_behind(given, ZeroDivisionError("from the block")))
    assert raised == "ZeroDivisionError: from the block"
    assert [warning for warning in told if "left behind" in warning and given.cgroup_path in warning] == told
    assert len(told) == 1
    assert told[0].startswith("RuntimeWarning")


def test_an_error_of_the_cleanup_alone_is_raised(group: memcg.Cgroup) -> None:
    """Where only the cleanup fails, it says so, with what is in its way."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    given = group.create("given")
    give_away(given.path)
    raised, told = in_child(lambda: leave_behind(given, None))
    assert raised.startswith("AccessDeniedError")
    assert "another user's" in raised
    assert told == []


@pytest.mark.parametrize("error", [None, ValueError("in the child")])
def test_a_forked_child_cleans_nothing_up(nursery: memcg.Cgroup, error: Exception | None) -> None:
    """Leaving the block in a forked child, with or without an error, does nothing to the group."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memcg.temporary(parent=nursery))
        process = group.popen(SLEEP)

        def leave() -> bool:
            with contextlib.suppress(ValueError):
                stack.__exit__(type(error) if error else None, error, None)
            return True

        assert in_child(leave)
        assert group.exists
        assert process.poll() is None
    assert not group.exists
    assert ended(process)


SCRIPT = """
import sys
import memcg
with memcg.temporary(parent=memcg.open(sys.argv[1]), name="job", limit="32M") as job:
    process = job.popen(["/bin/sleep", "60"])
    print(process.pid, flush=True)
    process.wait()
"""


def test_ctrl_c_leaves_nothing_behind(nursery: memcg.Cgroup) -> None:
    """A program that is interrupted in the block ends as Python programs do, and its job and group are gone."""
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, nursery.cgroup_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    job = int(say(program))
    assert (nursery / "job").processes() == (job,)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert not (nursery.path / "job").exists()
    wait_until(lambda: state(job) in ("", "Z"), "the job is gone")
