"""Real holds by a guard that is built with sanitizers, which end it at its first mistake and leave a report."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

import memcg.oom.guard
from memcg import DelayExpired, GuardLostError, MiB, OomEvent, OomResolved, Overridden, Removed
from support.holds import Herd, assert_nothing_left, held, take
from support.processes import finish, start_hog, wait_blocked, wait_until
from support.sanitized import MISTAKE, compile_sanitized, directory_or_skip, sanitized_guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import CgroupV1

LIMIT = 32 * MiB


@pytest.fixture(autouse=True)
def _sanitized(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Holds are by the sanitized guard, which has nothing to report afterwards."""
    guard = sanitized_guard()
    monkeypatch.setattr(memcg.oom.guard, "PROGRAM", guard.program)
    yield
    assert guard.report() == ""


@pytest.mark.parametrize(("arguments", "report"), [([], "signed integer overflow"), (["x"], "AddressSanitizer")])
def test_mistakes_are_reported(arguments: list[str], report: str) -> None:
    """A program with a mistake in it, built in the same way, dies of that and leaves a report."""
    directory = directory_or_skip() / report.split()[0]
    directory.mkdir()
    source = directory / "mistake.c"
    source.write_text(MISTAKE)
    mistaken = compile_sanitized(directory, "mistake", source)
    assert subprocess.run([str(mistaken.program), *arguments], env={}, check=False).returncode != 0
    assert report in mistaken.report()


@pytest.mark.parametrize("rearm", ["episode", "once"])
def test_expiry(group: CgroupV1, rearm: str) -> None:
    """The delay runs out again and again, or once, with a total and without."""
    for total in (None, 0.15):
        with held(group, 0.1, rearm=rearm, total=total) as hold:
            hogs = [start_hog(group, 64) for _ in range(2)]
            take(hold, DelayExpired)
            assert [finish(hog) for hog in hogs] == [-signal.SIGKILL] * 2
            hold.delay = 0.2
            hog = start_hog(group, 64)
            assert finish(hog) == -signal.SIGKILL


def test_actions(group: CgroupV1) -> None:
    """The limit is raised, for a while and for good; a process is killed, one is moved, one is left to expire."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="16M", until_resolved=True)
        take(hold, OomEvent)
        assert hold.raise_limit(to="128M", until_resolved=True)
        take(hold, OomResolved)
        assert finish(hog) == 0
        wait_until(lambda: group.limit == LIMIT, "the limit is back")

        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.kill_one()
        assert finish(hog) == -signal.SIGKILL
        take(hold, OomResolved)

        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert group.parent is not None
        assert hold.move(hog.pid, group.parent)
        assert finish(hog) == 0
        take(hold, OomResolved)
        wait_until(lambda: group.limit == LIMIT, "the limit is back")

        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.expire()
        assert finish(hog) == -signal.SIGKILL


def test_children(group: CgroupV1) -> None:
    """Groups made during the hold, one below the other, are seen to; their kills count."""
    with held(group, 0.2) as hold:
        paths = [group.path / f"{number}" for number in range(20)]
        paths += [path / "child" for path in paths]
        paths += [path / "grandchild" for path in paths[20:]]
        for path in paths:
            path.mkdir()
        children = [memcg.open(path) for path in paths]
        wait_until(lambda: all(child.oom.killer_enabled for child in children), "all have the killer on")
        hog = start_hog(children[-1], 64)
        expired, _ = take(hold, DelayExpired)
        assert expired.kills == 1
        assert finish(hog) == -signal.SIGKILL
        for path in reversed(paths):
            path.rmdir()


def test_a_group_that_goes(group: CgroupV1) -> None:
    """The end of a held group is told."""
    with memcg.temporary(parent=group, limit="8M") as child, held(child, 60) as hold:
        child.path.rmdir()
        take(hold, Removed)


def test_somebody_else_who_enables_the_killer(group: CgroupV1) -> None:
    """That ends the hold, and another may begin before the first is closed."""
    with group.oom.hold(60) as hold:
        group.oom.enable()
        take(hold, Overridden)
        with group.oom.hold(60) as other:
            hold.close()
            child = group.path / "child"
            child.mkdir()
            wait_until(lambda: memcg.open(child).oom.killer_enabled, "the child is seen to")
            assert other.state == "armed"
            child.rmdir()
    assert_nothing_left(group)


def test_many_at_once(group: CgroupV1) -> None:
    """Eight processes that block at once are all killed in the end."""
    with held(group, 0.05), Herd(group, 8, 64) as herd:
        herd.start()
        assert herd.statuses() == [-signal.SIGKILL] * 8


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_guard_that_is_lost(group: CgroupV1, which: int) -> None:
    """Whichever of the three dies during an OOM, what is left of the sanitized guard puts everything back."""
    with group.oom.hold(60) as hold:
        pids = hold.guard_pids
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_blocked(hog)
        os.kill(pids[which], signal.SIGKILL)
        assert finish(hog) == -signal.SIGKILL
        with pytest.raises(GuardLostError):
            for _ in hold:
                pass
    assert_nothing_left(group, pids)


def test_many_holds(nursery: memcg.Cgroup) -> None:
    """A guard holds a hundred groups, of which some come and go."""
    with memcg.temporary(parent=nursery) as parent:
        holds = []
        for number in range(100):
            (parent.path / f"{number}").mkdir()
            group = memcg.open(parent.path / f"{number}")
            group.limit = LIMIT
            holds.append(group.oom.hold(60))
            if number % 3 == 2:
                holds.pop(0).close()
        pids = holds[0].guard_pids
        for hold in holds:
            hold.close()
        for group in parent.children():
            assert_nothing_left(group, pids)
            group.path.rmdir()
