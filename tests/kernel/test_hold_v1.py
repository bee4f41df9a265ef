"""What only cgroup v1 has around a held group: a switch, which groups below inherit, and others can write to."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, KernelKill, MiB, OomEvent, Overridden
from support.holds import Herd, assert_nothing_left, held, is_locked, kinds, take
from support.marks import is_off, marks
from support.processes import Worker, finish, is_blocked, start_hog, wait_blocked, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcg import CgroupV1


@pytest.fixture
def group(group_v1: CgroupV1) -> CgroupV1:
    """A group of cgroup v1."""
    return group_v1


@pytest.fixture(autouse=True)
def trial(request: pytest.FixtureRequest) -> int:
    """Which trial this is."""
    return getattr(request, "param", 1)


repeated = pytest.mark.parametrize(
    "trial", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 51))], indirect=True
)
"""Made once, and fifty times in the long run."""


def all_on(group: CgroupV1) -> bool:
    """Whether the killer is on in all groups below."""
    return all(each == group or each.oom.killer_enabled for each in group.walk())


# Groups below.


def test_children_made_during_a_hold(group: CgroupV1) -> None:
    """Children and grandchildren inherit the switch; it is on again in all of them, and the hold goes on."""
    with held(group, 10) as hold:
        for number in range(10):
            child = group.create(f"c{number}").create("grandchild").create("below")
            assert child.exists
        wait_until(lambda: all_on(group), "the killer is on in all groups below")
        assert is_off(group)
        assert hold.state == "armed"
        assert hold.wait(0) is None


def test_children_made_very_fast(group: CgroupV1) -> None:
    """A tree that grows while the guard is busy with it is seen to as a whole, and at the end at the latest."""
    done = threading.Event()

    def grow() -> None:
        for number in range(30):
            (group.path / f"c{number}" / "d" / "e").mkdir(parents=True)
        done.set()

    group.limit = 128 * MiB
    with held(group, 10):
        thread = threading.Thread(target=grow)
        thread.start()
        wait_until(done.is_set, "the tree is there")
        thread.join()
        wait_until(lambda: all_on(group), "the killer is on in all groups below")


def test_children_made_at_the_very_end(group: CgroupV1) -> None:
    """Whatever moment the hold ends at, no child that was made meanwhile has the killer off."""
    group.limit = 128 * MiB
    stop = threading.Event()
    errors: list[OSError] = []

    def grow() -> None:
        number = 0
        while not stop.is_set() and number < 100:
            try:
                (group.path / f"c{number}" / "d").mkdir(parents=True)
            except OSError as error:
                errors.append(error)
            number += 1

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(5):
            group.oom.hold(10).close()
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert_nothing_left(group)


@repeated
def test_children_made_during_an_expiry(group: CgroupV1) -> None:
    """While the killer is on for an expiry, and is switched off again, children are made: all have it on."""
    group.limit = 16 * MiB
    spare = group.create("spare")  # as a group that is stuck has no memory for a new one
    stop = threading.Event()
    made = 0

    def grow() -> None:
        nonlocal made
        while not stop.is_set() and made < 2000:
            try:
                (spare.path / f"c{made}").mkdir()
                made += 1
            except OSError:
                time.sleep(0.001)

    with held(group, 0.02) as hold:
        thread = threading.Thread(target=grow)
        with Herd(group, 8, 32) as herd:
            herd.start()
            thread.start()
            try:
                while hold.kills < 8:
                    assert hold.wait(30) is not None
            finally:
                stop.set()
                thread.join()
            assert herd.statuses() == [-signal.SIGKILL] * 8
        wait_until(lambda: all_on(group), "the killer is on in all groups below")
    assert made > 0


def test_a_child_whose_killer_was_off_before(group: CgroupV1) -> None:
    """It is somebody's will, there and below, and left alone; those beside it are not."""
    theirs = group.create("theirs")
    theirs.oom.disable()
    below = theirs.create("below")
    with group.oom.hold(10) as hold:
        ours = group.create("ours")
        wait_until(lambda: ours.oom.killer_enabled, "the killer is on in the new one")
        assert is_off(theirs)
        assert is_off(below)
    wait_until(lambda: not is_locked(group), "the guard is done")
    assert hold.state == "ended"
    assert is_off(theirs)
    assert is_off(below)
    assert (marks(theirs), marks(below), marks(group)) == ([], [], [])
    assert group.oom.killer_enabled


def test_an_oom_of_a_child_is_not_the_holds(group: CgroupV1) -> None:
    """A group below, at its own limit, with its killer off by its owner, is none of this hold's business."""
    child = group.create("child", limit=8 * MiB)
    child.oom.disable()
    with group.oom.hold(0.05) as hold, Worker(child) as worker:
        worker.order("touch 16")
        wait_blocked(worker)
        assert hold.wait(0.3) is None
        assert (hold.state, hold.expirations) == ("armed", 0)
        assert is_blocked(worker.pid)
        child.oom.enable()
        killed, before = take(hold, KernelKill)
        assert (killed.count, kinds(before)) == (1, [])
        assert worker.process.wait(30) == -signal.SIGKILL
    wait_until(lambda: not is_locked(group), "the guard is done")
    assert_nothing_left(group)


# Others who write.


def test_a_killer_that_somebody_switches_on(group: CgroupV1) -> None:
    """It ends the hold, as somebody wants it so: the last event says that, and nothing is written any more."""
    with group.oom.hold(10) as hold:
        group.oom.enable()
        over, before = take(hold, Overridden)
        assert (over.cgroup, kinds(before)) == (group, [])
        assert hold.state == "ended"
        with pytest.raises(memcg.ClosedError, match="somebody else has written to the group's OOM switch"):
            hold.wait(0)
        assert list(hold) == []
        wait_until(lambda: not is_locked(group) and not marks(group), "lock and mark are gone")
        # What they do next is theirs too.
        group.oom.disable()
    assert is_off(group)
    group.oom.enable()


@repeated
def test_a_killer_that_somebody_switches_on_amid_an_oom(group: CgroupV1) -> None:
    """The kernel kills, which is no expiry of this hold."""
    with held(group, 10) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_blocked(hog)
        group.oom.enable()
        assert finish(hog) == -signal.SIGKILL
        take(hold, Overridden)
        assert (hold.state, hold.expirations) == ("ended", 0)
        assert group.oom.kills == 1


def test_actions_after_somebody_else_took_over(group: CgroupV1) -> None:
    """A hold that is over acts no more."""
    acts: tuple[Callable[[memcg.Hold], object], ...] = (
        lambda hold: hold.raise_limit(by="1M"),
        lambda hold: hold.kill_one(),
        lambda hold: hold.expire(),
        lambda hold: setattr(hold, "delay", 5),
    )
    with held(group, 10) as hold:
        group.oom.enable()
        take(hold, Overridden)
        for act in acts:
            with pytest.raises(memcg.ClosedError, match="somebody else"):
                act(hold)
        assert (hold.delay, hold.deadline, hold.expirations, hold.kills) == (10, None, 0, 0)
    assert group.limit == 32 * MiB


def test_a_killer_that_somebody_switches_off_again(group: CgroupV1) -> None:
    """Writing what is there already changes nothing."""
    with held(group, 10) as hold:
        group.oom.disable()
        assert hold.wait(0.1) is None
        assert hold.state == "armed"


def test_a_killer_that_somebody_switches_off_after_an_expiry(group: CgroupV1) -> None:
    """While the killer is the kernel's, by rearm="once", who switches it off wants it off, and keeps it so."""
    with held(group, 0.02, rearm="once") as hold:
        hog = start_hog(group, 64)
        take(hold, DelayExpired)
        assert finish(hog) == -signal.SIGKILL
        assert hold.state == "handed_over"
        group.oom.disable()
        take(hold, Overridden)
        wait_until(lambda: not marks(group), "the mark is gone")
        assert is_off(group)
        group.oom.enable()
