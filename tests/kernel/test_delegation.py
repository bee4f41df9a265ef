"""Cgroup v2's rules: who has the memory controller, who may have processes, and what memcg makes of that."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.forked import as_nobody, give_away, in_child
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = ["/bin/sleep", "60"]


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


def enabled(group: memcg.CgroupV2) -> tuple[str, ...]:
    """The controllers that the children of *group* have."""
    return group.cgroup_subtree_control


# The memory controller.


def test_a_child_has_memory_files(group: memcg.CgroupV2) -> None:
    """create() has the parent enable the memory controller, at every level, and leaves what is enabled alone."""
    assert enabled(group) == ()
    first = group.create("first", limit="8M")
    assert enabled(group) == ("memory",)
    assert first.limit == 8 * MiB
    assert first.create("a").create("b").usage == 0
    group.create("second")
    assert enabled(group) == ("memory",)


@pytest.mark.parametrize("name", ["", "a/b", "cgroup.procs"])
def test_what_cannot_be_created_enables_nothing(group: memcg.CgroupV2, name: str) -> None:
    """Where no group is created, the parent stays as it was."""
    with pytest.raises(memcg.MemcgError):
        group.create(name)
    assert enabled(group) == ()


def test_a_parent_without_the_controller(group: memcg.CgroupV2) -> None:
    """Where an ancestor does not pass the controller on, the error names it, and nothing is created."""
    below = group.create("a").create("b")
    (group / "a").cgroup_subtree_control = "-memory"
    group.cgroup_subtree_control = "-memory"
    with pytest.raises(memcg.NoMemoryControllerError) as caught:
        below.create("c")
    assert f"{group.path} has it and does not pass it on" in str(caught.value)
    assert f"{below.path} cannot give its children the memory controller" in str(caught.value)
    assert below.children() == ()


def test_files_of_a_group_without_the_controller(group: memcg.CgroupV2) -> None:
    """What is missing for want of the controller says who does not enable it; what the core has is there."""
    child = group.create("a").create("b")
    (group / "a").cgroup_subtree_control = "-memory"
    for use in (
        lambda: child.usage,
        lambda: child.limit,
        lambda: child.stat,
        lambda: setattr(child, "limit", "8M"),
    ):
        with pytest.raises(
            memcg.ControlFileMissingError, match=r"write '\+memory' to its cgroup\.subtree_control"
        ):
            use()
    group.cgroup_subtree_control = "-memory"
    with pytest.raises(memcg.ControlFileMissingError, match="does not have the memory controller") as caught:
        _ = child.usage
    assert f"{group.path} has it and does not pass it on" in str(caught.value)
    assert child.pressure.full.total >= 0
    assert child.populated is False
    assert child.processes() == ()


# No internal processes.


def test_a_group_with_processes_has_no_children(group: memcg.CgroupV2) -> None:
    """create() in a group that has processes names them, and creates and changes nothing."""
    processes = [group.popen(SLEEP) for _ in range(2)]
    before = settings(group)
    tries: list[Callable[[], object]] = [
        lambda: group.create("child"),
        lambda: memcg.temporary(parent=group).__enter__(),
    ]
    for create in tries:
        with pytest.raises(memcg.InternalProcessesError, match="no processes of its own") as caught:
            create()
        assert isinstance(caught.value, memcg.CgroupBusyError)
        assert caught.value.errno == errno.EBUSY
        for process in processes:
            assert f"{process.pid} (sleep)" in str(caught.value)
    assert settings(group) == before
    assert group.children() == ()
    group.kill()
    for process in processes:
        with process:
            pass
    assert group.create("child").exists


def test_many_processes_are_not_all_named(group: memcg.CgroupV2) -> None:
    """Of more than ten processes in the way, ten are named."""
    processes = [group.popen(SLEEP) for _ in range(12)]
    with pytest.raises(memcg.InternalProcessesError, match=r", \.\.\.: move them") as caught:
        group.create("child")
    assert str(caught.value).count("(sleep)") == 10
    group.kill()
    for process in processes:
        with process:
            pass


def test_a_group_whose_children_have_controllers_takes_no_processes(group: memcg.CgroupV2) -> None:
    """add() and popen() in such a group say so, and move and start nobody."""
    group.create("child")
    sleeper = subprocess.Popen(SLEEP)
    tries: list[Callable[[], object]] = [lambda: group.add(sleeper.pid), lambda: group.popen(SLEEP)]
    for use in tries:
        with pytest.raises(memcg.InternalProcessesError, match="choose one of its children") as caught:
            use()
        assert caught.value.filename == str(group.path)
    assert group.processes() == ()
    assert memcg.of(sleeper.pid) == memcg.current()
    with sleeper:
        sleeper.kill()


# Threaded groups.


@pytest.fixture
def threaded(group: memcg.CgroupV2) -> memcg.CgroupV2:
    """A threaded group below `group`, which itself has become the domain of the threads."""
    group.create("x").remove()
    group.cgroup_subtree_control = "-memory"
    directory = group._directory.create("threaded")
    child = group / directory.relative.rpartition("/")[2]
    child.cgroup_type = "threaded"
    assert (group.cgroup_type, child.cgroup_type) == ("domain threaded", "threaded")
    return child


def test_a_threaded_group_has_neither_memory_nor_processes(threaded: memcg.CgroupV2) -> None:
    """What a threaded group does not have says that it is threaded."""
    with pytest.raises(memcg.ControlFileMissingError, match="threaded cgroup"):
        _ = threaded.usage
    with pytest.raises(memcg.KernelError, match="the group is threaded") as caught:
        threaded.processes()
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(memcg.KernelError, match="the group is threaded"):
        threaded.kill()
    with pytest.raises(memcg.MemcgError, match="threaded"):
        threaded.create("below")
    assert threaded.children() == ()


def test_what_is_above_a_threaded_group_sees_its_processes(
    group: memcg.CgroupV2, threaded: memcg.CgroupV2
) -> None:
    """Processes, populated, kill() and remove() of the group above work as ever, with threads below."""
    process = group.popen(SLEEP)
    (threaded.path / "cgroup.threads").write_text(str(process.pid))
    assert threaded.cgroup_threads == (process.pid,)
    assert group.processes() == (process.pid,)
    assert threaded.populated
    with pytest.raises(memcg.CgroupBusyError):
        threaded.remove()
    group.kill()
    with process:
        assert process.wait(timeout=60) == -9
    assert not group.populated


# A delegated group.


def given_to_nobody(group: memcg.CgroupV2) -> memcg.CgroupV2:
    """A group that belongs to the user nobody, with all its files."""
    given = group.create("given")
    give_away(given.path)
    return given


def test_a_group_that_holds_only_the_caller_is_made_usable(group: memcg.CgroupV2) -> None:
    """temporary() moves the caller into the child `supervisor` once, and creates groups beside that."""
    given = given_to_nobody(group)

    def try_it() -> list[str]:
        assert memcg.current() == given
        with memcg.temporary(limit="8M") as first:
            assert first.parent == given
            assert memcg.current() == given / "supervisor"
            with memcg.temporary(limit="4M") as second, second.popen(["/bin/true"]) as process:
                assert second.parent == given
                assert process.wait() == 0
        with memcg.temporary() as third:
            third.add(os.getpid())
            assert memcg.current() == third
        assert memcg.current() == given / "supervisor"
        return [child.name for child in given.children()]

    assert as_nobody(try_it, inside=given) == ["supervisor"]


def test_a_child_of_the_caller_finds_the_same_place(group: memcg.CgroupV2) -> None:
    """What the caller starts lives in `supervisor` too, and gets groups beside it, not below."""
    given = given_to_nobody(group)

    def try_it() -> bool:
        with memcg.temporary() as mine:
            assert mine.parent == given

            def grandchild() -> bool:
                with memcg.temporary() as theirs:
                    return theirs.parent == given

            return in_child(grandchild)

    assert as_nobody(try_it, inside=given)


def test_a_group_that_holds_others_is_left_alone(group: memcg.CgroupV2) -> None:
    """Where there are other processes in the caller's group, temporary() names them, and moves nobody."""
    given = given_to_nobody(group)
    other = given.popen(SLEEP)

    def try_it() -> bool:
        with pytest.raises(memcg.InternalProcessesError, match=rf"{other.pid} \(sleep\)"):
            memcg.temporary().__enter__()
        return memcg.current() == given

    assert as_nobody(try_it, inside=given)
    assert given.children() == ()
    with other:
        other.kill()


def test_processes_cannot_be_brought_in_from_outside(group: memcg.CgroupV2) -> None:
    """Who was given a group, but lives elsewhere, may not start or move anything into it, and learns why."""
    given = given_to_nobody(group)
    tries: list[Callable[[], object]] = [lambda: given.add(os.getpid()), lambda: given.popen(SLEEP)]
    for use in tries:
        with pytest.raises(memcg.AccessDeniedError, match="closest one that is above it") as caught:
            as_nobody(use)
        assert caught.value.filename == str(given.path)
    assert given.processes() == ()
