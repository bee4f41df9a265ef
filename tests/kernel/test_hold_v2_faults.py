"""What becomes of a group of cgroup v2 when the guard's worker fails; and of all that a hold has set there."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, MiB, OomEvent
from support.holds import Owner, assert_nothing_left, held, mark_of, take, wait_stopped, with_worker
from support.marks import is_held
from support.pace import at_most
from support.processes import Worker, finish, start_hog, state, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcg import CgroupV2

LIMIT = 32 * MiB
HIGH = 100 * MiB
GUARD, KEEPER, WARDEN, WORKER = range(4)


@pytest.fixture
def group(group_v2: CgroupV2) -> CgroupV2:
    """A group of cgroup v2, with a limit of 32 MiB."""
    return group_v2


def stop(pid: int) -> None:
    """Stops a process, and waits until it is."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(pid) == "T", f"process {pid} is stopped")


# The worker.


def test_a_worker_that_is_stopped(group: CgroupV2) -> None:
    """Without an answer about what can be reclaimed, the OOM comes all the same, and its delay."""
    with held(group, 0.1) as hold:
        stop(with_worker(hold.guard_pids)[WORKER])
        hog = start_hog(group, 64)
        expired, _ = take(hold, DelayExpired)
        assert expired.kills == 1
        assert finish(hog) == -signal.SIGKILL
        wait_until(lambda: hold.state == "armed", "it is armed again")
        hold.delay = 60
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


@pytest.mark.parametrize("during", [True, False], ids=["during an OOM", "outside one"])
def test_a_worker_that_is_killed(group: CgroupV2, during: bool) -> None:
    """Everything is put back, and the owner is told."""
    with group.oom.hold(60) as hold:
        pids = with_worker(hold.guard_pids)
        hog = start_hog(group, 64) if during else None
        if hog:
            take(hold, OomEvent)
            wait_stopped(hog)
        os.kill(pids[WORKER], signal.SIGKILL)
        wait_until(lambda: not is_held(group), "all is put back", at_most(2))
        with pytest.raises(memcg.GuardLostError):
            hold.wait(30)
        assert hog is None or finish(hog) == -signal.SIGKILL
    assert_nothing_left(group, pids)


def test_a_worker_that_goes_on_after_the_hold(group: CgroupV2) -> None:
    """A worker that was stopped with something to do writes to no other group in its next life."""
    other = group.create("other", limit=LIMIT)
    job = group.create("job", limit=LIMIT)
    group.limit = None
    with other.oom.hold(60) as keeps_the_guard:
        pids = with_worker(keeps_the_guard.guard_pids)
        with job.oom.hold(60) as hold:
            stop(pids[WORKER])
            hog = start_hog(job, 64)
            take(hold, OomEvent)
        assert finish(hog) == -signal.SIGKILL
        with job.oom.hold(60) as hold:
            os.kill(pids[WORKER], signal.SIGCONT)
            hog = start_hog(job, 64)
            take(hold, OomEvent)
            assert hold.raise_limit(by="64M")
            assert finish(hog) == 0
            assert (keeps_the_guard.state, keeps_the_guard.false_freezes) == ("armed", 0)
    assert_nothing_left(group, pids)


# All that is set.


def kill(which: int) -> Callable[[Owner], None]:
    return lambda owner: os.kill([*with_worker(owner.guard_pids)][which], signal.SIGKILL)


FAULTS: dict[str, Callable[[Owner], None]] = {
    "released": lambda owner: void(owner.release()),
    "owner killed": lambda owner: owner.process.kill(),
    "guard killed": kill(GUARD),
    "guard stopped": lambda owner: os.kill(owner.guard_pids[GUARD], signal.SIGSTOP),
    "keeper killed": kill(KEEPER),
    "keeper stopped": lambda owner: os.kill(owner.guard_pids[KEEPER], signal.SIGSTOP),
    "warden killed": kill(WARDEN),
    "worker killed": kill(WORKER),
}


def void(_: object) -> None:
    """For what returns something that nobody wants."""


@pytest.mark.parametrize("when", ["armed", "frozen", "raised"])
@pytest.mark.parametrize("fault", FAULTS)
def test_all_is_as_before(group: CgroupV2, fault: str, when: str) -> None:
    """However the hold ends: ``high``, ``freeze`` and a limit that was raised for a while are what they were."""
    group.high = HIGH
    with Owner(group, 60) as owner, Worker(group) as worker:
        pids = with_worker(owner.guard_pids)
        if when != "armed":
            worker.order("touch 64")
            owner.next("OomEvent")
            wait_stopped(worker)
        if when == "raised":
            assert owner.do("hold.raise_limit(by='64M', until_resolved=True)") is True
            assert worker.answer() == "done"
            assert group.max == LIMIT + 64 * MiB
            assert f" limit={LIMIT} " in mark_of(group)
            assert worker.do("free") == "done"
        FAULTS[fault](owner)
        wait_until(lambda: not is_held(group) or group.high == HIGH, "high is back", at_most(2))
        wait_until(lambda: not group.cgroup_freeze, "it is thawed", at_most(2))
        if when == "frozen":
            assert worker.process.wait(60) == -signal.SIGKILL
        else:
            assert worker.do("touch 1") == "done"
        owner.abandon()
        assert group.max == LIMIT
        assert_nothing_left(group, pids, high=HIGH)
