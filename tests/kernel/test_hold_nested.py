"""Holds within holds, of two owners, and a held group below one that is stuck."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, KernelKill, MiB, OomEvent
from support.holds import Owner, assert_nothing_left, held, mark_of, take, wait_stopped
from support.marks import is_held, is_off, marks
from support.pace import at_most
from support.processes import Worker, finish, is_blocked, start_hog, wait_blocked, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Cgroup, CgroupV1


@pytest.fixture(autouse=True)
def trial(request: pytest.FixtureRequest) -> int:
    """Which trial this is."""
    return getattr(request, "param", 1)


repeated = pytest.mark.parametrize(
    "trial", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 51))], indirect=True
)
"""Made once, and fifty times in the long run."""


@pytest.fixture
def outer(nursery: memcg.Cgroup) -> Iterator[Cgroup]:
    """A group with a limit of 64 MiB, to put others in."""
    with memcg.temporary(parent=nursery, limit="64M") as outer:
        yield outer


@pytest.fixture
def inner(outer: Cgroup) -> Cgroup:
    """A group below it, with a limit of 32 MiB."""
    return outer.create("inner", limit=32 * MiB)


# Holds within holds, of two owners.


def test_nested_holds_the_inner_expires(outer: Cgroup, inner: Cgroup) -> None:
    """The inner limit is hit: the inner hold's delay runs out, the outer hold has nothing to do with it."""
    with Owner(outer, 60) as owner, held(inner, 0.1) as hold:
        hog = start_hog(inner, 48)
        expired, _ = take(hold, DelayExpired)
        assert expired.kills == 1
        assert finish(hog) == -signal.SIGKILL
        assert owner.do("(hold.state, hold.expirations)") == ["armed", 0]
        assert is_held(outer)
        assert is_held(inner)
    assert_nothing_left(outer)
    assert [each.kind for each in owner.told if each.kind != "KernelKill"] == []


@pytest.mark.filterwarnings("ignore:.* has a limit of:RuntimeWarning")
@repeated
def test_nested_holds_the_outer_expires(outer: Cgroup, inner: Cgroup) -> None:
    """The outer limit is hit by a process of the inner group: told with its origin, and left to its owner."""
    inner.limit = 200 * MiB
    with Owner(outer, 0.15) as owner, held(inner, 0.05) as hold:
        hog = start_hog(inner, 128)
        began, _ = take(hold, OomEvent)
        assert began.origin == outer
        assert owner.next("OomEvent").origin == str(outer.path)
        assert (hold.state, hold.deadline) == ("armed", None)
        assert owner.next("DelayExpired").kills == 1
        assert finish(hog) == -signal.SIGKILL
        assert (hold.state, hold.expirations) == ("armed", 0)
        killed, _ = take(hold, KernelKill)
        assert killed.count == 1
        assert is_held(inner)
    assert_nothing_left(outer)


@pytest.mark.parametrize("first", ["inner", "outer"])
@repeated
def test_nested_holds_both_at_once(outer: Cgroup, inner: Cgroup, first: str) -> None:
    """With the inner group stuck, the outer hits its own limit, of which the kernel tells nobody: each of the two
    has its OOM and its delay, whichever runs out first, and kills in its own group only."""
    delays = [at_most(delay) for delay in {"inner": (0.3, 3.0), "outer": (3.0, 0.2)}[first]]
    beside = outer.create("beside")
    with Owner(outer, delays[1]) as owner, held(inner, delays[0]) as hold:
        with Worker(inner) as small, Worker(beside) as large:
            assert large.do("map 48") == "done"
            Path(f"/proc/{large.pid}/oom_score_adj").write_text("1000")  # of the two the kernel is to choose this
            small.order("touch 40")
            take(hold, OomEvent)
            wait_stopped(small)
            large.order("touch")
            wait_stopped(large)
            if first == "outer":
                assert owner.next("DelayExpired").kills == 1
                assert large.process.wait(30) == -signal.SIGKILL
                assert hold.expirations == 0
                assert hold.kills == 0
                wait_stopped(small)
                assert hold.state == "oom"
                assert hold.expire()
                assert take(hold, DelayExpired)[0].kills == 1
                assert small.process.wait(30) == -signal.SIGKILL
            else:
                expired, _ = take(hold, DelayExpired)
                if not expired.kills:  # with a page of room, it got as far as the outer limit, and waits there
                    assert owner.do("hold.raise_limit(by='64M')")
                assert small.process.wait(30) == -signal.SIGKILL
                # Its memory goes to the one that waits, whose OOM is over with that.
                assert large.answer() == "done"
                assert owner.do("hold.expirations") == 0
        wait_until(lambda: is_held(outer) and is_held(inner), "both hold on")
    assert_nothing_left(outer)
    ooms = [each for each in owner.told if each.kind == "OomEvent"]
    assert {each.origin for each in ooms} == {str(outer.path)}


def test_nested_holds_ended_in_any_order(outer: Cgroup, inner: Cgroup) -> None:
    """The outer hold ends first, or the inner: what is held yet stays off, and the rest is on."""
    with held(inner, 10), Owner(outer, 10) as owner:
        owner.release()
        wait_until(lambda: not is_held(outer), "the outer group is free")
        assert is_held(inner)
        assert mark_of(inner)
    assert_nothing_left(outer)
    with Owner(outer, 10) as owner:
        with inner.oom.hold(10):
            assert is_held(inner)
        wait_until(lambda: not is_held(inner) and not marks(inner), "the inner group is free")
        assert is_held(outer)
        assert owner.do("hold.state") == "armed"
    assert_nothing_left(outer)


# The OOM of an ancestor.


@pytest.mark.parametrize("is_near", [False, True], ids=["far", "near"])
@repeated
@pytest.mark.usefixtures("group_v1")
def test_an_ancestor_that_is_stuck(outer: CgroupV1, inner: CgroupV1, is_near: bool) -> None:
    """The parent's killer is off, and its limit is hit by a process of the held child: it is told with its origin,
    starts no delay, and is never expired here, however near the child is to its own limit."""
    outer.oom.disable()
    with held(inner, 0.1) as hold, Worker(inner) as worker, Worker(outer) as other:
        assert other.do("touch 38") == "done"
        worker.order("touch 26")
        began, _ = take(hold, OomEvent)
        assert began.origin == outer
        wait_blocked(worker)
        assert inner.oom.under_oom
        if is_near:
            inner.limit = inner.usage + 65536
        until = time.monotonic() + 0.25
        while time.monotonic() < until:
            event = hold.wait(0.1)
            assert event is None or (isinstance(event, OomEvent) and event.origin == outer)
            assert (hold.state, hold.deadline, hold.expirations) == ("armed", None, 0)
        assert is_blocked(worker.pid)
        assert hold.raise_limit(by="64M") is False
        assert hold.kill_one() is False
        inner.limit = 64 * MiB
        outer.limit = 200 * MiB
        assert worker.answer() == "done"
        assert (hold.kills, hold.expirations) == (0, 0)
    outer.oom.enable()


@repeated
@pytest.mark.usefixtures("group_v1")
def test_an_own_oom_behind_that_of_an_ancestor(outer: CgroupV1, inner: CgroupV1) -> None:
    """While the parent is stuck, the held group hits its own limit, of which the kernel tells nobody: it has its
    delay all the same, and its expiry kills in it."""
    outer.oom.disable()
    with held(inner, 0.15) as hold, Worker(outer) as above, Worker(inner) as worker:
        assert worker.do("touch 20") == "done"
        assert worker.do("map 10") == "done"
        above.order("touch 60")
        began, _ = take(hold, OomEvent)
        assert began.origin == outer
        wait_blocked(above)
        inner.limit = inner.usage
        worker.order("touch")
        wait_blocked(worker)
        expired, before = take(hold, DelayExpired)
        began = next(event for event in before if isinstance(event, OomEvent) and event.origin == inner)
        assert 0.15 <= expired.time - began.time < 5
        assert expired.kills == 1
        assert worker.process.wait(30) == -signal.SIGKILL
        assert is_off(outer)
        outer.limit = 200 * MiB
        assert above.answer() == "done"
    outer.oom.enable()
