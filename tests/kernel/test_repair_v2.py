"""What a repair puts back of an abandoned hold of cgroup v2, and what it leaves alone: on real groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from memcg.oom.repair import Repair, repair
from support.commands import run
from support.forked import as_nobody
from support.marks import HOLD, abandon, is_held, marks
from support.processes import Worker

if TYPE_CHECKING:
    from memcg import CgroupV2

LIMIT = 32 * MiB
REMOVED = "the mark of the hold is removed"


@pytest.fixture
def group(group_v2: CgroupV2) -> CgroupV2:
    """A group of cgroup v2, with a limit of 32 MiB."""
    return group_v2


def done(report: Repair) -> list[tuple[str, str]]:
    """What was put back, by the name of the group or file; nothing failed."""
    assert report.failed == ()
    return [(Path(each.path).name, each.what) for each in report.done]


def leave(group: CgroupV2, text: str) -> None:
    """Leaves a mark of a hold that is gone."""
    os.setxattr(group.path, HOLD, f"guard=1 start=1 switch=memory.high {text}".encode())


def test_a_frozen_group_is_freed(group: CgroupV2) -> None:
    """Thawed, with ``high`` as it was; and then there is nothing left to repair."""
    with Worker(group) as worker:
        abandon(group)
        assert is_held(group)
        expected = [("memory.high", "back to max"), (group.name, "thawed"), (group.name, REMOVED)]
        assert done(repair(group)) == expected
        assert worker.do("touch 1") == "done"
    assert (group.high, group.cgroup_freeze, marks(group)) == (None, False, [])
    assert repair(group) == Repair()


@pytest.mark.parametrize(
    ("text", "high", "after"),
    [
        pytest.param("high=-1", 16, None, id="to none"),
        pytest.param("high=31457280", 16, 30, id="to what it was"),
        pytest.param("high=-1", None, None, id="is there already"),
        pytest.param("high=16777216", 30, 30, id="somebody has raised it since"),
        pytest.param("", 16, 16, id="the mark says nothing"),
        pytest.param("high=x", 16, 16, id="the mark makes no sense"),
    ],
)
def test_memory_high_comes_back(group: CgroupV2, text: str, high: int | None, after: int | None) -> None:
    """It goes up to what it was, and never down."""
    group.high = high and high * MiB
    leave(group, text)
    assert done(repair(group))[-1] == (group.name, REMOVED)
    assert group.high == (after and after * MiB)


@pytest.mark.parametrize("said", [True, False], ids=["by the hold", "by somebody else"])
def test_a_group_that_is_frozen(group: CgroupV2, said: bool) -> None:
    """It is thawed where the hold has frozen it, and left frozen where that was another."""
    leave(group, "high=-1 frozen=1" if said else "high=-1")
    group.freeze()
    repair(group)
    assert group.cgroup_freeze is not said
    group.thaw()


@pytest.mark.parametrize(
    ("now", "after"), [(64, 32), (65, 65), (None, None)], ids=["raised", "by somebody else", "taken away"]
)
def test_a_raised_limit_is_taken_back(group: CgroupV2, now: int | None, after: int | None) -> None:
    """A limit that still is what the hold made it comes back."""
    group.max = now and now * MiB
    leave(group, f"high=-1 limit={LIMIT} raised={64 * MiB}")
    assert done(repair(group))[-1] == (group.name, REMOVED)
    assert group.max == (after and after * MiB)


def test_a_raised_limit_stays_where_it_is_needed(group: CgroupV2) -> None:
    """Where more is used than the former limit, nobody is killed for it."""
    group.max = 64 * MiB
    with Worker(group) as worker:
        assert worker.do("touch 40") == "done"
        leave(group, f"high=-1 limit={LIMIT} raised={64 * MiB}")
        assert any("left at 64 MiB" in what for _, what in done(repair(group)))
        assert group.max == 64 * MiB
        assert worker.process.poll() is None


def test_a_user_who_may_not_write(group: CgroupV2) -> None:
    """Who may not write is told so, of each file, and the mark stays."""
    abandon(group)
    report = as_nobody(lambda: repair(group))
    assert [Path(str(getattr(error, "filename", ""))).name for error in report.failed] == [
        "memory.high",
        "cgroup.freeze",
    ]
    assert all(isinstance(error, memcg.AccessDeniedError) for error in report.failed)
    assert marks(group) == [HOLD]
    assert repair(group).failed == ()


def test_the_doctor(group: CgroupV2) -> None:
    """``memcg doctor`` finds an abandoned hold, says what it has left, and --fix puts it back."""
    with Worker(group) as worker:
        abandon(group)
        status, out, errors = run("doctor", str(group.path))
        assert (status, errors) == (3, "")
        assert f"{group.path}: memory.high 16 MiB, frozen\n" in out
        assert "an abandoned hold: its guard" in out
        status, out, errors = run("doctor", "--fix", str(group.path))
        assert (status, errors) == (0, "")
        assert f"repaired: {group.path}: thawed\n" in out
        assert worker.do("touch 1") == "done"
    assert (group.high, group.cgroup_freeze, marks(group)) == (None, False, [])


def test_the_doctor_leaves_a_held_group_alone(group: CgroupV2) -> None:
    """A held group is named with its guard, and never touched."""
    with group.oom.hold(2.5) as hold:
        high = group.high
        status, out, errors = run("doctor", "--fix", str(group.path))
        assert (status, errors) == (0, "")
        assert f"held by guard {hold.guard_pids[0]} for process {os.getpid()}" in out
        assert "with a delay of 2.5 s" in out
        assert (hold.state, group.high) == ("armed", high)
