"""Who holds a group: marks and locks on real groups, without a guard."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

import memcg
from memcg.oom import marks as tested
from memcg.oom.marks import Holder, Mark, holder_of, read_mark
from memcg.oom.repair import Repair, repair
from support.forked import NOBODY, as_nobody
from support.marks import GONE, HOLD, Locker, abandon, is_held, mark_text, marks, start_time


def is_repaired(group: memcg.Cgroup) -> bool:
    """Repairs *group*, and looks whether it is."""
    return not repair(group).failed and not is_held(group) and not marks(group)


def held_by(group: memcg.Cgroup, locker: Locker, **more: object) -> None:
    """Marks *group* as held by that process, with its killer off."""
    keys = {"guard": locker.inner_pid, "start": start_time(locker.pid), "owner": os.getpid(), **more}
    abandon(group, mark_text(**keys))  # type: ignore[arg-type]


# Who holds a group.


def test_a_group_without_mark_and_lock(group: memcg.Cgroup) -> None:
    """There is no mark, no holder, and nothing to repair."""
    assert read_mark(group) is None
    assert holder_of(group, None) is None
    assert repair(group) == Repair()


def test_the_mark_is_read_as_it_was_written(group: memcg.Cgroup) -> None:
    """What a guard writes is what is read."""
    abandon(group, mark_text(guard=7, start=8, owner=9, delay=2_500_000_000))
    mark = Mark(guard=7, start=8, owner=9, delay=2.5)
    if isinstance(group, memcg.CgroupV2):
        mark = mark._replace(switch="memory.high", high=-1, frozen=True)
    assert read_mark(group) == mark


def test_the_guard_that_the_mark_names(group: memcg.Cgroup) -> None:
    """A lock of the process that the mark names, with its start time, is a guard's, and nothing is repaired."""
    with Locker(group) as guard:
        held_by(group, guard)
        assert holder_of(group, read_mark(group)) == Holder("guard", guard.pid)
        assert repair(group) == Repair(holder=Holder("guard", guard.pid))
        assert is_held(group)
        assert marks(group) == [HOLD]
    assert holder_of(group, read_mark(group)) is None


def test_a_guard_that_could_not_read_its_start(group: memcg.Cgroup) -> None:
    """Where the mark has 0 for the start, the PID alone decides."""
    with Locker(group) as guard:
        held_by(group, guard, start=0)
        assert holder_of(group, read_mark(group)) == Holder("guard", guard.pid)


@pytest.mark.parametrize("wrong", [{"start": 1}, {"guard": GONE}, {"guard": 1}, {"guard": 0}], ids=str)
def test_a_lock_of_another_process(group: memcg.Cgroup, wrong: dict[str, int]) -> None:
    """A lock of a process that the mark does not name, or that got the PID of one, keeps nobody from a repair."""
    with Locker(group) as stranger:
        held_by(group, stranger, **wrong)
        assert holder_of(group, read_mark(group)) == Holder("foreign", stranger.pid)
        assert is_repaired(group)


def test_a_shared_lock_is_no_guards(group: memcg.Cgroup) -> None:
    """A guard's lock is exclusive: a shared one is a stranger's."""
    with Locker(group, kind="LOCK_SH") as stranger:
        held_by(group, stranger, guard=GONE)
        assert holder_of(group, read_mark(group)) == Holder("foreign", stranger.pid)


def test_a_guard_that_has_to_do_without_the_lock(group: memcg.Cgroup) -> None:
    """Where a stranger has the lock, the process that the mark names is a live guard all the same."""
    with Locker(group) as stranger:
        held_by(group, stranger, guard=os.getpid(), start=start_time(os.getpid()))
        assert holder_of(group, read_mark(group)) == Holder("guard", os.getpid())
        assert repair(group) == Repair(holder=Holder("guard", os.getpid()))
        held_by(group, stranger, guard=os.getpid(), start=start_time(os.getpid()) + 1)
        assert holder_of(group, read_mark(group)) == Holder("foreign", stranger.pid)


def test_a_lock_without_a_mark(group: memcg.Cgroup) -> None:
    """Where there is no mark, a lock is a stranger's."""
    with Locker(group) as stranger:
        assert holder_of(group, None) == Holder("foreign", stranger.pid)
        assert repair(group) == Repair()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_of_a_user_who_may_not_write(group: memcg.Cgroup) -> None:
    """Any user can lock a directory that he can open: that counts if it is his directory, or if he is root."""
    with Locker(group, user=NOBODY) as stranger:
        held_by(group, stranger)
        assert holder_of(group, read_mark(group)) == Holder("foreign", stranger.pid)
        os.chown(group.path, NOBODY, NOBODY)
        assert holder_of(group, read_mark(group)) == Holder("guard", stranger.pid)
    with Locker(group) as root:
        held_by(group, root)
        assert holder_of(group, read_mark(group)) == Holder("guard", root.pid)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, and unshare(1)")
def test_a_guard_in_another_pid_namespace(group: memcg.Cgroup) -> None:
    """The mark has the PID that the guard has in its own namespace, and that is what is compared."""
    with Locker(group, command=("unshare", "--pid", "--fork")) as guard:
        children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
        assert len(children) == 1
        pid = int(children[0])
        assert guard.inner_pid == 1 != pid
        abandon(group, mark_text(guard=1, start=start_time(pid)))
        assert holder_of(group, read_mark(group)) == Holder("guard", pid)
        abandon(group, mark_text(guard=pid, start=start_time(pid)))
        assert holder_of(group, read_mark(group)) == Holder("foreign", pid)


def test_a_lock_whose_holder_cannot_be_seen(group: memcg.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc/locks does not show who has the lock, it has to be taken for a guard's."""
    monkeypatch.setattr(tested, "_lockers", lambda directory: [])
    assert holder_of(group, None) is None
    with Locker(group) as hidden:
        held_by(group, hidden)
        assert holder_of(group, read_mark(group)) == Holder("unseen")
        assert repair(group).holder == Holder("unseen")
        assert is_held(group)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide processes")
def test_a_guard_whose_process_is_hidden(group: memcg.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a /proc that hides the processes of others (hidepid), a guard of root's cannot be judged: it counts."""

    def refuse(path: str, mode: str) -> object:
        if path == "/proc/locks":
            return open(path, mode)
        raise FileNotFoundError(path)

    with Locker(group) as guard:
        held_by(group, guard)
        monkeypatch.setattr(tested, "open", refuse, raising=False)
        mark = read_mark(group)
        assert as_nobody(lambda: holder_of(group, mark)) == Holder("unseen", guard.pid)


def test_a_lock_that_outlives_its_process(group: memcg.Cgroup) -> None:
    """What a process has locked stays so while its child has the file open. A dead guard keeps nobody from a
    repair."""
    source = """
import fcntl, os, sys, time
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(directory, fcntl.LOCK_EX)
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.001)
    print(parent, flush=True)
    sys.stdin.read()
"""
    with mock.patch("support.marks.LOCK", source):
        locker = Locker(group)
    with locker:
        locker.process.wait(timeout=60)
        abandon(group, mark_text(guard=locker.inner_pid))
        assert holder_of(group, read_mark(group)) == Holder("foreign", locker.inner_pid)
        assert is_repaired(group)


def test_looking_takes_no_lock(group: memcg.Cgroup) -> None:
    """After a look, and after a repair, the directory is free."""
    abandon(group)
    holder_of(group, read_mark(group))
    repair(group)
    with Locker(group):  # which waits for its turn
        pass
