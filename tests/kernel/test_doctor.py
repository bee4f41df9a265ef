"""``memcg doctor`` on cgroup v1: what it says of groups whose killer is off, and what it repairs."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg.cli import doctor as tested
from support.commands import run, run_as_nobody, run_here
from support.forked import NOBODY, as_nobody, give_away, in_child
from support.marks import GONE, HOLD, OFF_BEFORE, Locker, abandon, is_off, mark_text, marks, start_time
from support.processes import Worker, wait_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

ABANDONED = 3

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """A group of cgroup v1."""
    return group_v1


def doctor(*arguments: object, status: int, say: Callable[..., tuple[int, str, str]] = run) -> str:
    """What ``memcg doctor`` prints, having ended with that *status*."""
    ended, out, errors = say("doctor", *map(str, arguments))
    assert (ended, errors) == (status, ""), out + errors
    return out


def entry(out: str, group: memcg.Cgroup) -> str:
    """What is said of one group."""
    match = re.search(rf"^{re.escape(str(group.path))}: (.*\n(?:    .*\n)*)", out, re.MULTILINE)
    return match[1] if match else ""


def test_nothing_to_say(group: memcg.CgroupV1) -> None:
    """Where no killer is off, it says so in one line, and all is well."""
    out = doctor(group.path, status=0)
    assert out == f"{group.path}: no OOM killer is off, here or below, and no hold was abandoned\n"


def test_an_abandoned_group_is_found_and_freed(group: memcg.CgroupV1) -> None:
    """An abandoned group with a process really stuck in it is named, with the process; --fix frees it."""
    with Worker(group) as worker:
        abandon(group)
        began = time.monotonic()
        worker.order("touch 64")
        wait_blocked(worker)

        said = entry(doctor(group.path, status=ABANDONED), group)
        assert said.startswith("OOM killer off, under OOM\n")
        match = re.search(r"1 process blocked(?: for ([0-9.]+) s)?: ([0-9]+) \(python.*\)\n", said)
        assert match
        assert int(match[2]) == worker.pid
        assert float(match[1] or 0) <= time.monotonic() - began + 0.1
        assert f"an abandoned hold: its guard, process {GONE}, is gone\n" in said
        assert f"to repair it: memcg doctor --fix {group.path}\n" in said
        assert is_off(group)

        out = doctor("--fix", group.path, status=0)
        assert f"repaired: {group.path}: the kernel's OOM killer is on again\n" in entry(out, group)
        assert out.endswith("\n1 group: 1 abandoned and repaired\n")
        assert worker.process.wait(timeout=30) == -signal.SIGKILL
    assert not is_off(group)
    assert marks(group) == []
    assert "no OOM killer is off" in doctor(group.path, status=0)


def test_all_groups_are_looked_at(group: memcg.CgroupV1) -> None:
    """Without GROUP it looks at all groups that can be seen; with a path of the hierarchy, at that one."""
    abandon(group)
    assert "an abandoned hold" in entry(doctor(status=ABANDONED), group)
    assert "an abandoned hold" in entry(doctor(group.cgroup_path, status=ABANDONED), group)
    doctor("--fix", group.cgroup_path, status=0)
    status, out, errors = run("doctor", group.cgroup_path + "/none")
    assert (status, out) == (1, "")
    assert errors.startswith("memcg: ")


def test_who_is_blocked_below(group: memcg.CgroupV1) -> None:
    """A process of a child that is stuck at the limit of the abandoned group counts there."""
    child = group.create("child")
    with Worker(child) as worker:
        abandon(group)
        worker.order("touch 64")
        wait_blocked(worker)
        out = doctor(group.path, status=ABANDONED)
        assert re.search(rf"1 process blocked.*: {worker.pid} ", entry(out, group))
        assert entry(out, child) == ""  # it is on
        doctor(group.path, "--fix", status=0)
        assert worker.process.wait(timeout=30) == -signal.SIGKILL


def test_who_is_blocked_by_another_limit(group: memcg.CgroupV1) -> None:
    """A process that is stuck at the limit of a child counts there, and not above, where there is no OOM."""
    group.limit = "128M"
    child = group.create("child", limit="16M")
    child.oom.disable()
    with Worker(child) as worker:
        abandon(group)
        worker.order("touch 64")
        wait_blocked(worker)
        out = doctor(group.path, status=ABANDONED)
        assert "blocked" not in entry(out, group)
        assert re.search(rf"1 process blocked.*: {worker.pid} ", entry(out, child))


def test_a_group_that_is_held(group: memcg.CgroupV1) -> None:
    """A held group is named with its guard, its owner and the delay, and never touched."""
    with Locker(group) as guard, Worker(group) as worker:
        text = mark_text(guard=guard.pid, start=start_time(guard.pid), owner=os.getpid(), delay=2_500_000_000)
        abandon(group, text)
        worker.order("touch 64")
        wait_blocked(worker)
        out = doctor("--fix", group.path, status=0)
        said = entry(out, group)
        assert re.search(
            rf"held by guard {guard.pid} for process {os.getpid()} \(.+\), with a delay of 2.5 s\n", said
        )
        assert re.search(rf"1 process blocked.*: {worker.pid} ", said)
        assert out.endswith("\n1 group: 1 held\n")
        assert is_off(group)
        assert marks(group) == [HOLD]
        wait_blocked(worker)
    assert "an abandoned hold" in entry(doctor(group.path, status=ABANDONED), group)


def test_a_group_that_is_held_with_its_killer_on(group: memcg.CgroupV1) -> None:
    """A hold that has let the kernel in is none that was left over."""
    with Locker(group) as guard:
        abandon(group, mark_text(guard=guard.pid, delay=0), killer="0")
        said = entry(doctor("--fix", group.path, status=0), group)
        assert said.startswith("OOM killer on\n")
        assert f"held by guard {guard.pid} for process {GONE}, without a limit of time\n" in said
        assert marks(group) == [HOLD]


def test_a_mark_that_is_left_over(group: memcg.CgroupV1) -> None:
    """A mark without a guard is named though the killer is on, and removed by --fix."""
    abandon(group, killer="0")
    said = entry(doctor(group.path, status=ABANDONED), group)
    assert said.startswith("OOM killer on\n    an abandoned hold")
    doctor("--fix", group.path, status=0)
    assert marks(group) == []


def test_a_killer_that_was_switched_off_by_hand(group: memcg.CgroupV1) -> None:
    """A killer that is off without a mark is nobody's business but that of who did it: it says how to undo it."""
    group.oom.disable()
    for arguments in ([], ["--fix"]):
        said = entry(doctor(*arguments, group.path, status=0), group)
        assert "switched off by hand, or by a program without a hold; to switch it on: " in said
        assert f"echo 0 > {group.path}/memory.oom_control\n" in said
        assert is_off(group)


def test_what_is_below_an_abandoned_group(group: memcg.CgroupV1) -> None:
    """Inherited switches are found and repaired, those that were off before or are held are left alone."""
    before, own = group.create("before"), group.create("own")
    before.oom.disable()
    below_before = before.create("below")
    os.setxattr(before.path, OFF_BEFORE, b"1")
    abandon(group)
    child = group.create("child")
    grandchild = child.create("grandchild")
    with Locker(own) as guard:
        abandon(own, mark_text(guard=guard.pid))
        below_own = own.create("below")
        out = doctor(group.path, status=ABANDONED)
        for each in (child, grandchild):
            said = entry(out, each)
            assert f"inherited from {group.path}, whose hold is abandoned\n" in said
            assert f"to repair it: memcg doctor --fix {group.path}\n" in said
        for each in (before, below_before):
            assert "switched off by hand" in entry(out, each)
        assert f"held by guard {guard.pid}" in entry(out, own)
        assert f"inherited from {own.path}, which is held" in entry(out, below_own)
        counts = "1 abandoned, 2 switched off by hand, 2 inherited, 1 held, 1 below a held group"
        assert out.endswith(f"\n7 groups: {counts}\n")

        out = doctor(child.path, "--fix", status=ABANDONED)  # the group that it comes from is not to be touched
        assert f"to repair it: memcg doctor --fix {group.path}\n" in entry(out, child)
        assert is_off(child)

        out = doctor(group.path, "--fix", status=0)
        assert f"repaired, with {group.path}\n" in entry(out, grandchild)
        assert [is_off(each) for each in (group, child, grandchild)] == [False] * 3
        assert [is_off(each) for each in (before, below_before, own, below_own)] == [True] * 4
        assert (marks(before), marks(own)) == ([], [HOLD])


def test_a_hold_within_an_abandoned_one(group: memcg.CgroupV1) -> None:
    """Where both are abandoned, both are repaired."""
    child = group.create("child")
    abandon(child)
    abandon(group)
    doctor("--fix", group.path, status=0)
    assert [is_off(each) for each in (group, child)] == [False, False]
    assert [marks(each) for each in (group, child)] == [[], []]


@needs_root
def test_a_strangers_lock(group: memcg.CgroupV1) -> None:
    """A user who locks the directory cannot keep it from being repaired, and is named."""
    with Locker(group, user=NOBODY) as stranger:
        abandon(group, mark_text(guard=stranger.pid, start=start_time(stranger.pid)))
        said = entry(doctor(group.path, status=ABANDONED), group)
        assert f"is gone; process {stranger.pid} has it locked, and is no guard\n" in said
        doctor("--fix", group.path, status=0)
    assert not is_off(group)


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare(1)")
def test_a_guard_outside_of_the_container(group: memcg.CgroupV1) -> None:
    """A lock whose holder cannot be seen, as from within a container, is taken for a guard's, and is respected."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "memcg"]
    with Locker(group) as guard:
        abandon(group, mark_text(guard=guard.pid, start=start_time(guard.pid)))
        said = entry(doctor("--fix", group.path, status=0, say=lambda *words: run(*words, command=inside)), group)
        assert "held, by a guard that cannot be seen from here" in said
        assert is_off(group)
    doctor("--fix", group.path, status=0, say=lambda *words: run(*words, command=inside))
    assert not is_off(group)


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare(1)")
def test_a_guard_inside_a_container(group: memcg.CgroupV1) -> None:
    """The owner of a hold in another PID namespace is named as it is known there."""
    with Locker(group, command=("unshare", "--pid", "--fork", "--kill-child")) as guard:
        abandon(group, mark_text(guard=guard.inner_pid, owner=7))
        said = entry(doctor("--fix", group.path, status=0), group)
        assert re.search(r"held by guard [0-9]+ for process 7 of its own PID namespace, ", said)


def test_a_user_without_rights(group: memcg.CgroupV1) -> None:
    """Anyone may look, and is told what he could not see or repair, and what would help."""
    with Worker(group) as worker:
        abandon(group)
        worker.order("touch 64")
        wait_blocked(worker)
        said = entry(doctor(group.path, status=ABANDONED, say=run_as_nobody), group)
        assert "1 thread perhaps blocked (only root can see where they sleep)\n" in said
        assert "an abandoned hold" in said
        status, out, errors = run_as_nobody("doctor", "--fix", str(group.path))
        assert status == ABANDONED
        assert "not repaired, for the reasons below\n" in entry(out, group)
        assert re.fullmatch(
            rf"memcg: \[Errno 13\] cannot write 0 to memory.oom_control: Permission denied: run as root .*: "
            rf"'{group.path}/memory.oom_control'\n",
            errors,
        )
        wait_blocked(worker)


def test_a_user_repairs_what_is_his(group: memcg.CgroupV1) -> None:
    """The owner of a group needs no root."""
    give_away(group.path)
    as_nobody(lambda: abandon(group))
    doctor("--fix", group.path, status=0, say=run_as_nobody)
    assert not is_off(group)


@needs_root
def test_what_cannot_be_read(group: memcg.CgroupV1) -> None:
    """A group that may not be looked at is reported, once, and the others are looked at all the same."""
    hidden, other = group.create("a-hidden"), group.create("b-other")
    os.chmod(hidden.path, 0o700)
    abandon(other)
    status, out, errors = run_as_nobody("doctor", str(group.path))
    assert status == ABANDONED
    assert "an abandoned hold" in entry(out, other)
    assert re.fullmatch(rf"memcg: \[Errno 13\] cannot .*: Permission denied: .*{hidden.path}.*\n", errors)
    os.removexattr(other.path, HOLD)
    other.oom.enable()
    assert run_as_nobody("doctor", str(group.path))[0] == 1


@needs_root
def test_a_mark_that_a_user_has_made_up(group: memcg.CgroupV1) -> None:
    """What a user may not do himself, root does not do for him, and says so."""
    os.chown(group.path, NOBODY, NOBODY)
    group.oom.disable()
    as_nobody(lambda: os.setxattr(group.path, HOLD, mark_text().encode()))
    status, out, errors = run("doctor", "--fix", str(group.path))
    assert status == ABANDONED
    assert "not repaired, for the reasons below\n" in entry(out, group)
    assert "the mark on the group may be by a user who may not write this file" in errors
    assert is_off(group)


@pytest.mark.parametrize("text", [b"", b"\0\xff\n", b"guard=x", b"\x1b[2J" * 1000])
def test_a_mark_that_makes_no_sense(group: memcg.CgroupV1, text: bytes) -> None:
    """A mark that cannot be read is one of an unknown guard, and is repaired."""
    abandon(group, text)
    out = doctor(group.path, status=ABANDONED)
    assert "an abandoned hold: its guard, whichever it was, is gone\n" in entry(out, group)
    doctor("--fix", group.path, status=0)
    assert marks(group) == []


def test_names_that_play_tricks(group: memcg.CgroupV1) -> None:
    """A name with escape sequences, or of no encoding, comes out as something that can be read."""
    for name, shown in ((b"a\x1b[2Jb", r"a\x1b[2Jb"), (b"a\xffb", r"a\udcffb"), ("ä b".encode(), "ä b")):
        child = group.create(os.fsdecode(name))
        child.oom.disable()
        out = doctor(group.path, status=0)
        assert f"{group.path}/{shown}: OOM killer off\n" in out
        assert "\x1b" not in out
        child.remove()


@pytest.mark.parametrize("fix", [[], ["--fix"]], ids=["look", "fix"])
@pytest.mark.parametrize("step", ["_diagnose", "_source", "read_mark", "holder_of", "repair", "_is_on"])
def test_a_group_that_goes_meanwhile(
    group: memcg.CgroupV1, step: str, fix: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups that are removed while they are looked at, or repaired, are no error."""
    gone = group.create("gone")
    child = gone.create("child")
    abandon(gone)
    child.oom.disable()
    original: Callable[..., object] = getattr(tested, step)

    def remove_first(group: memcg.CgroupV1, *more: object) -> object:
        if group == child and child.exists:
            child.remove()
        if group == gone and step != "read_mark" and gone.exists:
            for each in gone.children():
                each.remove()
            gone.remove()
        return original(group, *more)

    monkeypatch.setattr(tested, step, remove_first)
    status, _, errors = in_child(lambda: run_here("doctor", *fix, str(group.path)))
    assert errors == ""
    assert status in (0, ABANDONED)
    assert run("doctor", "--fix", str(group.path))[0] == 0


def test_a_nesting_deeper_than_python_likes(group: memcg.CgroupV1) -> None:
    """However deeply a user has nested groups, all of them are looked at and repaired."""
    abandon(group)
    deepest: memcg.CgroupV1 = group
    for _ in range(150):
        deepest = deepest.create("d")

    def shallow() -> tuple[int, str, str]:
        run_here("doctor", str(deepest.path))  # imports what it needs
        sys.setrecursionlimit(len(inspect.stack()) + 100)
        return run_here("doctor", "--fix", str(group.path))

    try:
        assert is_off(deepest)
        status, out, errors = in_child(shallow)
        assert (status, errors) == (0, "")
        assert out.endswith("151 groups: 1 abandoned and repaired, 150 inherited and repaired\n")
        assert not is_off(deepest)
    finally:
        for _ in range(150):
            above = deepest.parent
            deepest.remove()
            assert above is not None
            deepest = above


def test_an_output_that_nobody_reads(group: memcg.CgroupV1) -> None:
    """Where the reader goes away, as in ``memcg doctor | head``, what was to be repaired is repaired."""
    abandon(group)
    reading, writing = os.pipe()
    os.close(reading)
    status, _, errors = run("doctor", "--fix", str(group.path), stdout=writing)
    os.close(writing)
    assert (status, errors) == (1, "")
    assert not is_off(group)


def test_help_tells_the_exit_status() -> None:
    """What a script needs to know stands in the help."""
    status, out, _ = run("doctor", "--help")
    assert status == 0
    assert re.search(r"^  3  an abandoned hold was found", out, re.MULTILINE)
