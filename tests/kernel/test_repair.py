"""What a repair puts back of an abandoned hold of cgroup v1, and what it leaves alone: on real groups."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import memcg
from memcg import MiB
from memcg.oom import repair as tested
from memcg.oom.marks import Holder, holder_of, read_mark
from memcg.oom.repair import Repair, repair
from support.forked import NOBODY, as_nobody, give_away, in_child
from support.marks import GONE, HOLD, OFF_BEFORE, Locker, abandon, is_off, mark_text, marks
from support.processes import Worker, wait_blocked, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ON_AGAIN = "the kernel's OOM killer is on again"
REMOVED = "the mark of the hold is removed"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a group away")


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """A group of cgroup v1."""
    return group_v1


def done(report: Repair) -> list[tuple[str, str]]:
    """What was put back, by the name of the group or file; nothing failed."""
    assert report.failed == ()
    return [(Path(each.path).name, each.what) for each in report.done]


# What is put back.


def test_a_blocked_process_is_freed(group: memcg.CgroupV1) -> None:
    """The kernel kills who is stuck in an abandoned group, as soon as that is repaired."""
    with Worker(group) as worker:
        abandon(group)
        worker.order("touch 64")
        wait_blocked(worker)
        assert done(repair(group)) == [(group.name, ON_AGAIN), (group.name, REMOVED)]
        assert worker.process.wait(timeout=30) == -9
    assert marks(group) == []
    assert repair(group) == Repair()


def test_what_was_inherited_is_switched_on(group: memcg.CgroupV1) -> None:
    """Children and grandchildren, made below an abandoned group, have inherited its switch, and lose it."""
    abandon(group)
    child = group.create("child")
    grandchild = child.create("grandchild")
    other = group.create("other")
    assert is_off(child)
    assert is_off(grandchild)
    report = done(repair(group))
    assert sorted(report[:-2]) == [(name, ON_AGAIN) for name in ("child", "grandchild", "other")]
    assert report.index(("grandchild", ON_AGAIN)) < report.index(("child", ON_AGAIN))
    assert report[-2:] == [(group.name, ON_AGAIN), (group.name, REMOVED)]
    assert [each.oom.killer_enabled for each in (group, child, grandchild, other)] == [True] * 4


def test_what_is_somebody_elses_is_left_alone(group: memcg.CgroupV1) -> None:
    """A child whose killer was off before, or that has a hold of its own, stays off with all below it."""
    before, own = group.create("before"), group.create("own")
    before.oom.disable()
    below = before.create("below")
    os.setxattr(before.path, OFF_BEFORE, b"1")
    abandon(own)
    abandon(group)
    assert done(repair(group)) == [(group.name, ON_AGAIN), (group.name, REMOVED)]
    assert is_off(before)
    assert is_off(below)
    assert is_off(own)
    assert marks(before) == []
    assert marks(own) == [HOLD]


def test_below_a_child_that_is_on(group: memcg.CgroupV1) -> None:
    """A grandchild that is off below a child that is on has not inherited that from the hold, and stays off."""
    child = group.create("child")
    grandchild = child.create("grandchild")
    grandchild.oom.disable()
    abandon(group)
    assert done(repair(group)) == [(group.name, ON_AGAIN), (group.name, REMOVED)]
    assert is_off(grandchild)


def test_a_mark_that_is_left_over(group: memcg.CgroupV1) -> None:
    """Where the killer is on already, what was inherited is still put right, and the mark goes."""
    abandon(group)
    group.create("child")
    group.oom.enable()
    assert done(repair(group)) == [("child", ON_AGAIN), (group.name, REMOVED)]


def test_a_child_made_during_the_repair(group: memcg.CgroupV1, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes a child at the last moment before the killer is on again does not leave that one off."""
    abandon(group)
    child = group.create("child")
    switch_on = tested._RepairerV1._switch_on

    def make_one_first(repairer: tested._RepairerV1, group: memcg.CgroupV1) -> None:
        if "late" not in group.name:
            group.create("late").create("later")
        switch_on(repairer, group)

    monkeypatch.setattr(tested._RepairerV1, "_switch_on", make_one_first)
    assert repair(group).failed == ()
    assert [each.cgroup_path for each in group.walk() if is_off(each)] == []
    assert (child / "late" / "later").oom.killer_enabled


@pytest.mark.parametrize("writes", range(4))
def test_a_repair_that_is_broken_off(group: memcg.CgroupV1, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a repair got before it was killed, the next one does all the rest."""
    abandon(group)
    group.create("child").create("grandchild").create("great-grandchild")
    original, left = tested._Repairer._write, [writes]

    def give_up(repairer: tested._Repairer, group: memcg.CgroupV1, name: str, value: int) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        original(repairer, group, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(tested._Repairer, "_write", give_up)
        with pytest.raises(KeyboardInterrupt):
            repair(group)
    assert marks(group) == [HOLD]
    assert len(done(repair(group))) == 5 - writes
    assert [each.cgroup_path for each in group.walk() if is_off(each)] == []
    assert marks(group) == []


def test_several_repairs_at_once(group: memcg.CgroupV1) -> None:
    """Of many who repair the same group, each thing is put back by one, and none fails."""
    for _ in range(10):
        abandon(group)
        child = group.create("child")
        start = threading.Barrier(8)

        def run(start: threading.Barrier = start) -> Repair:
            start.wait()
            return repair(group)

        with ThreadPoolExecutor(8) as pool:
            reports = [future.result() for future in [pool.submit(run) for _ in range(8)]]
        assert sorted(each for report in reports for each in done(report)) == sorted(
            [("child", ON_AGAIN), (group.name, ON_AGAIN), (group.name, REMOVED)]
        )
        child.remove()


# Limits that were raised for a while.


def limits(group: memcg.CgroupV1) -> tuple[int | None, int | None]:
    """In MiB: memory, and memory with swap."""
    memsw = group.memsw_limit_in_bytes
    return (group.limit or 0) // MiB or None, memsw // MiB if memsw else None


def raised(former: int, now: int, former_memsw: int, now_memsw: int) -> str:
    """The text of a mark of a hold that has raised limits, in MiB; -1 is no limit."""
    keys = ("limit", "raised", "memsw", "raised_memsw")
    sizes = (former, now, former_memsw, now_memsw)
    return mark_text(**{key: size * MiB if size > 0 else size for key, size in zip(keys, sizes, strict=True)})


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        pytest.param((32, 64, 40, 72), (64, 72), (32, 40), id="both"),
        pytest.param((32, 64, -1, -1), (64, None), (32, None), id="memory alone"),
        pytest.param((32, -1, 40, -1), (None, None), (32, 40), id="from none"),
        pytest.param((32, 32, 40, 72), (32, 72), (32, 40), id="swap alone"),
        pytest.param((32, 64, 0, 0), (64, 72), (32, 72), id="as without swap accounting"),
        pytest.param((32, 64, 40, 72), (65, 72), (65, 72), id="somebody has raised it since"),
        pytest.param((32, 64, 40, 72), (63, 72), (63, 72), id="somebody has lowered it since"),
        pytest.param((32, 64, 40, 72), (64, 80), (32, 80), id="somebody has changed the other"),
        pytest.param((64, 32, 72, 40), (32, 40), (32, 40), id="never upwards"),
        pytest.param((-1, 32, -1, 40), (32, 40), (32, 40), id="never to none"),
        pytest.param((0, 32, 0, 40), (32, 40), (32, 40), id="never to nothing"),
    ],
)
def test_a_raised_limit_is_taken_back(
    group: memcg.CgroupV1,
    text: tuple[int, int, int, int],
    before: tuple[int | None, int | None],
    after: tuple[int | None, int | None],
) -> None:
    """A limit that still is what the hold made it comes back to what it was; nobody else's, and never upwards."""
    group.limit = None
    group.memsw_limit_in_bytes = None
    if before[0]:
        group.limit = before[0] * MiB
    if before[1]:
        group.memsw_limit_in_bytes = before[1] * MiB
    abandon(group, raised(*text))
    report = done(repair(group))
    assert limits(group) == after
    assert report[-1] == (group.name, REMOVED)


def test_a_raised_limit_stays_where_it_is_needed(group: memcg.CgroupV1) -> None:
    """Where more is used than the former limit, the raised one stays, which is said, and nobody is killed."""
    group.memsw_limit_in_bytes = group.limit = 64 * MiB
    with Worker(group) as worker:
        assert worker.do("touch 40") == "done"
        abandon(group, raised(32, 64, 32, 64))
        report = done(repair(group))
        assert limits(group) == (64, 64)
        assert [name for name, what in report if "left at 64 MiB" in what] == [
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
        ]
        assert report[-1] == (group.name, REMOVED)
        assert worker.process.poll() is None


# Marks that anybody may have made.


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\0\xff",
        b"guard",
        b"guard=-5 start=x",
        b"guard=1_0 start= 7 owner=+3",
        b"guard=99999999999999999999999",
        b"switch=../../../../etc/passwd",
        b"switch=memory.limit_in_bytes guard=1",
        b"switch=memory.oom_delay_millisecs",
        b"limit=4096 raised=33554432",
        b"limit=1 raised=-1 memsw=x",
        b"a=b " * 10_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_mark_that_makes_no_sense(group: memcg.CgroupV1, text: bytes) -> None:
    """Whatever stands in a mark, it can be read and repaired, and does no harm."""
    abandon(group, text)
    mark = read_mark(group)
    assert mark is not None
    holder_of(group, mark)
    report = done(repair(group))
    assert report[-1] == (group.name, REMOVED)
    assert is_off(group) == (mark.switch != "memory.oom_control")
    assert limits(group)[0] == (None if b"limit=4096" in text else 32)


def refused(report: Repair) -> list[str]:
    """The files that could not be put back."""
    assert all(isinstance(error, memcg.AccessDeniedError) for error in report.failed)
    return [str(getattr(error, "filename", "")) for error in report.failed]


def test_a_user_who_may_not_write(group: memcg.CgroupV1) -> None:
    """Who may not write is told so, of each file, with the remedy, and the mark stays."""
    abandon(group)
    child = group.create("child")
    report = as_nobody(lambda: repair(group))
    assert refused(report) == [f"{each.path}/memory.oom_control" for each in (child, group)]
    assert all("run as root (sudo)" in str(error) for error in report.failed)
    assert report.done == ()
    assert marks(group) == [HOLD]


def test_a_user_repairs_what_is_his(group: memcg.CgroupV1) -> None:
    """The owner of a group repairs it, and what is below it, without root."""
    give_away(group.path)
    abandon(group)
    as_nobody(lambda: group.create("child"))
    assert len(done(as_nobody(lambda: repair(group)))) == 3
    assert [each for each in group.walk() if is_off(each)] == []


def as_user_marks(group: memcg.CgroupV1, text: str) -> None:
    """A user leaves a mark."""
    as_nobody(lambda: os.setxattr(group.path, HOLD, text.encode()))


@needs_root
def test_root_does_nothing_for_a_user_that_he_may_not(group: memcg.CgroupV1) -> None:
    """In a user's directory, with control files that he may not write, his mark has root write nothing."""
    os.chown(group.path, NOBODY, NOBODY)
    group.limit = 64 * MiB
    group.oom.disable()
    as_user_marks(group, raised(32, 64, 0, 0))
    report = repair(group)
    assert refused(report) == [f"{group.path}/{name}" for name in ("memory.oom_control", "memory.limit_in_bytes")]
    assert "by a user who may not write this file" in str(report.failed[0])
    assert is_off(group)
    assert limits(group)[0] == 64
    assert marks(group) == [HOLD]


@needs_root
@pytest.mark.parametrize(
    ("directory", "file", "allowed"),
    [
        pytest.param((0, 0o755), (0, 0o644), True, id="root's"),
        pytest.param((NOBODY, 0o755), (NOBODY, 0o644), True, id="the user's"),
        pytest.param((NOBODY, 0o555), (NOBODY, 0o444), True, id="the user's, who can change that"),
        pytest.param((NOBODY, 0o755), (0, 0o644), False, id="root's file in the user's directory"),
        pytest.param((NOBODY, 0o755), (0, 0o666), True, id="a file that all may write"),
        pytest.param((0, 0o757), (0, 0o644), False, id="a directory that all may write"),
        pytest.param((0, 0o757), (0, 0o646), True, id="and the file too"),
        pytest.param((0, 0o775), (0, 0o644), False, id="a directory that its group may write"),
        pytest.param((0, 0o775), (0, 0o664), True, id="and the file too, of the same group"),
    ],
)
def test_what_the_author_of_a_mark_may_write(
    group: memcg.CgroupV1, directory: tuple[int, int], file: tuple[int, int], allowed: bool
) -> None:
    """A repair writes to a file if everybody who could have left the mark may write it."""
    abandon(group)
    control = group.path / "memory.oom_control"
    for path, (owner, mode) in ((control, file), (group.path, directory)):
        os.chown(path, owner, owner)
        os.chmod(path, mode)
    report = repair(group)
    assert refused(report) == ([] if allowed else [str(control)])
    assert is_off(group) != allowed


@needs_root
def test_a_mark_that_only_root_can_set(group: memcg.CgroupV1) -> None:
    """A trusted attribute, for where there are no user ones, is a mark too, and is root's."""
    os.chown(group.path, NOBODY, NOBODY)
    group.oom.disable()
    os.setxattr(group.path, "trusted.memcg.hold", mark_text(guard=GONE, owner=5).encode())
    mark = read_mark(group)
    assert mark is not None
    assert mark.owner == 5
    assert done(repair(group)) == [(group.name, ON_AGAIN), (group.name, REMOVED)]
    assert marks(group) == []


@needs_root
def test_a_mark_of_roots_is_not_hidden(group: memcg.CgroupV1) -> None:
    """A user who owns the directory cannot hide root's live hold behind a mark of his own."""
    os.chown(group.path, NOBODY, NOBODY)
    group.oom.disable()
    with Locker(group) as guard:
        os.setxattr(group.path, "trusted.memcg.hold", mark_text(guard=guard.pid).encode())
        as_user_marks(group, mark_text())
        assert holder_of(group, read_mark(group)) == Holder("guard", guard.pid)
        assert repair(group).holder == Holder("guard", guard.pid)
        assert is_off(group)


# Groups that go.


def test_a_group_that_is_gone(group: memcg.CgroupV1) -> None:
    """There is nothing to repair in a group that was removed, or whose place another one has taken."""
    child = group.create("child")
    abandon(child)
    child.remove()
    with pytest.raises(memcg.CgroupRemovedError):
        read_mark(child)
    assert repair(child) == Repair()
    other = group.create("child")
    abandon(other)
    assert repair(child) == Repair()
    assert is_off(other)


@pytest.mark.parametrize("step", ["_switch_on", "_lower", "_forget", "_write"])
def test_a_group_that_goes_during_the_repair(
    group: memcg.CgroupV1, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the group is removed, the repair ends without an error."""
    child = group.create("child")
    abandon(child, raised(32, 64, 0, 0))
    original: Callable[..., None] = getattr(tested._RepairerV1, step)

    def remove_first(*arguments: object) -> None:
        if child.exists:
            child.remove()
        original(*arguments)

    monkeypatch.setattr(tested._RepairerV1, step, remove_first)
    assert repair(child).failed == ()
    assert not child.exists


def test_nothing_is_left_open_in_a_child(group: memcg.CgroupV1) -> None:
    """A process that is forked during a repair does not keep the lock."""
    abandon(group)
    reading, writing = os.pipe()
    forked: list[int] = []
    original = tested._Repairer.run

    def fork_first(repairer: tested._Repairer) -> Repair:
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        forked.append(pid)
        return original(repairer)

    with mock.patch.object(tested._Repairer, "run", fork_first):
        assert repair(group).failed == ()
    assert in_child(lambda: holder_of(group, None)) is None
    os.close(writing)
    os.close(reading)
    os.waitpid(forked[0], 0)
    wait_until(lambda: not group.processes(), "nobody is left in the group")
