"""A hold on a real group: OOMs, the delay, its expiry, and what can be set and read."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, KernelKill, MiB, OomEvent, OomResolved
from support.holds import NOT_KILLABLE, SPARED, Herd, held, is_stopped, kinds, take, wait_stopped
from support.marks import is_held
from support.pace import at_most
from support.processes import Worker, finish, start_hog, wait_until
from support.scripts import say, start_python

if TYPE_CHECKING:
    import subprocess

    from memcg import Cgroup, Hold, HoldEvent

OOM = "OomEvent"
RESOLVED = "OomResolved"
EXPIRED = "DelayExpired"
KILL = "KernelKill"


def is_v1(group: Cgroup) -> bool:
    return isinstance(group, memcg.CgroupV1)


# The delay runs out, or does not.


def test_who_never_acts_leaves_it_to_the_kernel(group: Cgroup) -> None:
    """With nobody acting, the process is blocked for the delay, then killed by the kernel: one kill, told once."""
    delay = at_most(0.3)
    with held(group, delay) as hold:
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        assert (began.origin, began.under_oom, began.cgroup) == (group, is_v1(group), group)
        wait_stopped(hog)
        told = [began, *hold.until(hog)]
        assert kinds(told) == [OOM, EXPIRED]
        expired = told[-1]
        assert isinstance(expired, DelayExpired)
        assert (expired.kills, expired.count, expired.cgroup) == (1, 1, group)
        assert delay <= expired.time - began.time < delay + at_most(5)
        assert finish(hog) == -signal.SIGKILL
        assert (hold.kills, hold.expirations, group.oom.kills) == (1, 1, 1)
        wait_until(lambda: hold.state == "armed", "the hold is armed again")
        assert is_held(group)


def test_who_acts_in_time_saves_it(group: Cgroup) -> None:
    """With room made in time nobody dies, and the end of the OOM is told."""
    with held(group, 20) as hold:
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        group.limit = 128 * MiB
        resolved, before = take(hold, OomResolved)
        assert kinds([began, *before]) == [OOM]
        assert began.time <= resolved.time <= time.monotonic()
        assert finish(hog) == 0
        assert (hold.kills, hold.expirations, group.oom.kills) == (0, 0, 0)
        assert hold.wait(0) is None


def test_each_oom_has_a_fresh_delay(group: Cgroup) -> None:
    """An OOM that was dealt with takes nothing from the delay of the next."""
    with held(group, 20) as hold:
        for _ in range(3):
            group.limit = 32 * MiB
            hog = start_hog(group, 64)
            began, _ = take(hold, OomEvent)
            assert hold.deadline == pytest.approx(began.time + 20, abs=at_most(0.5))
            wait_stopped(hog)
            assert hold.deadline == pytest.approx(began.time + 20, abs=at_most(0.5))
            group.limit = 128 * MiB
            assert finish(hog) == 0
            take(hold, OomResolved)
        assert hold.expirations == 0


def test_what_it_says_of_itself(group: Cgroup) -> None:
    """State and deadline follow what happens, and the counts stay after the end."""
    with held(group, 0.2) as hold:
        assert (hold.state, hold.deadline, hold.delay, hold.mechanism) == ("armed", None, 0.2, "guard")
        assert (hold.expirations, hold.kills) == (0, 0)
        assert hold.guard_locked in ("all", "hot", "none")
        assert len(set(hold.guard_pids)) == 3
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.state == "oom"
        deadline = hold.deadline
        assert deadline is not None
        assert deadline - 0.2 <= time.monotonic()
        expired, _ = take(hold, DelayExpired)
        assert deadline <= expired.time < deadline + at_most(5)
        assert (hold.state, hold.deadline) == ("armed", None)
        assert finish(hog) == -signal.SIGKILL
    assert (hold.state, hold.deadline, hold.delay) == ("ended", None, 0.2)
    assert (hold.expirations, hold.kills) == (1, 1)


def test_eight_processes_are_one_oom(group: Cgroup) -> None:
    """Processes that block later share the delay of the first. No expiry is without a kill, and those who are left
    are another OOM with a delay of its own.

    Mostly an expiry kills one. Who has begun to look for a victim by then goes on, though the killer is off."""
    with held(group, 0.1) as hold, Herd(group, 8, 64) as herd:
        herd.start()
        told: list[HoldEvent] = []
        while hold.kills < 8:
            event = hold.wait(30)
            assert event is not None
            told.append(event)
        assert herd.statuses() == [-signal.SIGKILL] * 8
        expired = [event for event in told if isinstance(event, DelayExpired)]
        assert all(event.kills >= event.count for event in expired)
        assert 4 <= sum(event.count for event in expired) == hold.expirations <= 8
        assert hold.kills == group.oom.kills == 8
        assert kinds(event for event in told if not isinstance(event, KernelKill)) == [OOM, EXPIRED] * len(expired)
        times = [event.time for event in expired]
        assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(times))


def test_a_process_that_is_killed_from_outside_ends_it(group: Cgroup) -> None:
    """An OOM is over, too, when nobody is left whom it stops."""
    with held(group, 20) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        hog.kill()
        assert finish(hog) == -signal.SIGKILL
        _, before = take(hold, OomResolved)
        assert kinds(before) == []
        assert (hold.state, hold.kills) == ("armed", 0)


def test_vain_attempts_start_no_fresh_delay(group: Cgroup) -> None:
    """Pages given one by one, by somebody else, are used up, or not enough to go on, and change nothing about the
    deadline."""
    delay = at_most(1)
    with held(group, delay) as hold:
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        deadline = hold.deadline
        told = given = 0
        while given < 50 and told < 5 and time.monotonic() < began.time + 0.8 * delay:
            group.limit = (group.limit or 0) + 16384
            given += 1
            event = hold.wait(0.1)
            told += isinstance(event, OomEvent)
            assert event is None or isinstance(event, OomEvent)
            assert hold.deadline == deadline
        assert given >= 5
        assert told == (5 if is_v1(group) else 0)
        expired, _ = take(hold, DelayExpired)
        assert began.time + delay <= expired.time < began.time + delay + at_most(5)
        assert expired.kills == 1
        assert finish(hog) == -signal.SIGKILL


def test_without_an_oom_nothing_is_told(group: Cgroup) -> None:
    """A process that stays below the limit, or above it with what can be reclaimed, is nothing to a hold."""
    with held(group, 0.05) as hold, Worker(group) as worker:
        assert worker.do("touch 16") == "done"
        assert worker.do("free") == "done"
        assert hold.wait(0.2) is None
        assert (hold.state, hold.expirations, hold.deadline) == ("armed", 0, None)


# Without an end.


def test_no_delay_is_no_deadline(group: Cgroup) -> None:
    """With None for the delay the process stays blocked until somebody acts; expire() is one way."""
    with held(group, None) as hold:
        assert hold.delay is None
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        assert (hold.state, hold.deadline) == ("oom", None)
        assert hold.wait(0.3) is None
        assert is_stopped(hog.pid)
        assert hold.expire()
        expired, _ = take(hold, DelayExpired)
        assert expired.kills == 1
        assert finish(hog) == -signal.SIGKILL


def test_leaving_a_hold_lets_the_kernel_kill(group: Cgroup) -> None:
    """When the hold ends during an OOM, the killer is on at once, and a blocked process is its."""
    with held(group, None) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
    assert finish(hog) == -signal.SIGKILL
    assert group.oom.kills == 1


def test_expiring_by_hand(group: Cgroup) -> None:
    """expire() is the end of the delay, now; with no OOM it returns False and does nothing."""
    with held(group, 60) as hold:
        assert not hold.expire()
        assert (hold.state, hold.expirations, is_held(group)) == ("armed", 0, True)
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        assert hold.expire()
        assert not hold.expire()
        expired, _ = take(hold, DelayExpired)
        assert expired.kills == 1
        assert expired.time < began.time + 30
        assert finish(hog) == -signal.SIGKILL
        assert hold.expirations == 1
        assert not hold.expire()


# Setting the delay.


def test_setting_the_delay_while_armed(group: Cgroup) -> None:
    """The next OOM has the delay that was set last; whatever hold() takes can be assigned."""
    with held(group, 60) as hold:
        hold.delay = None
        assert hold.delay is None
        hold.delay = 1.5
        assert hold.delay == 1.5
        hold.delay = datetime.timedelta(milliseconds=200)
        assert (hold.delay, hold.state, hold.deadline) == (0.2, "armed", None)
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        expired, _ = take(hold, DelayExpired)
        assert 0.2 <= expired.time - began.time < at_most(5)
        assert finish(hog) == -signal.SIGKILL


def test_setting_the_delay_during_an_oom_starts_a_fresh_one(group: Cgroup) -> None:
    """The deadline is the new delay from now on, longer, endless or shorter."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        for delay in (120.0, 30.0):
            before = time.monotonic()
            hold.delay = delay
            assert hold.deadline is not None
            assert before + delay <= hold.deadline <= time.monotonic() + delay
        hold.delay = None
        assert (hold.deadline, hold.state) == (None, "oom")
        before = time.monotonic()
        hold.delay = 0.1
        expired, _ = take(hold, DelayExpired)
        assert before + 0.1 <= expired.time < before + at_most(5)
        assert finish(hog) == -signal.SIGKILL


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "1", 0.0009, 2**31 / 1000])
def test_a_delay_that_is_refused_changes_nothing(group: Cgroup, wrong: object) -> None:
    """What hold() refuses is refused as an assignment too, and the former delay stays."""
    with held(group, 60) as hold:
        with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError), match="delay is"):
            hold.delay = wrong  # type: ignore[assignment]
        assert (hold.delay, hold.state) == (60, "armed")


# Only once, and in all.


def test_rearm_once(group: Cgroup) -> None:
    """After the first expiry the killer stays on, until the delay is set; then it begins anew."""
    with held(group, 0.1, rearm="once") as hold:
        for round_ in range(1, 3):
            hog = start_hog(group, 64)
            expired, before = take(hold, DelayExpired)
            assert (kinds(before), expired.kills) == ([OOM], 1)
            assert finish(hog) == -signal.SIGKILL
            assert (hold.state, hold.deadline) == ("handed_over", None)
            assert not is_held(group)
            # Nobody holds this one back.
            hog = start_hog(group, 64)
            killed, before = take(hold, KernelKill)
            assert (kinds(before), killed.count) == ([OOM], 1)
            assert finish(hog) == -signal.SIGKILL
            assert (hold.state, hold.expirations, hold.kills) == ("handed_over", round_, 2 * round_)
            hold.delay = 0.1
            assert (hold.state, is_held(group)) == ("armed", True)


def test_rearm_once_counts_expiries_only(group: Cgroup) -> None:
    """With "once", an OOM that was dealt with in time uses nothing up."""
    with held(group, 10, rearm="once") as hold:
        for _ in range(2):
            group.limit = 32 * MiB
            hog = start_hog(group, 64)
            take(hold, OomEvent)
            group.limit = 128 * MiB
            assert finish(hog) == 0
            take(hold, OomResolved)
            assert (hold.state, is_held(group)) == ("armed", True)


def test_total_bounds_ooms_that_follow_one_another(group: Cgroup) -> None:
    """Two OOMs without a pause share the total: the second has what the first has left, and then the killer stays
    on until there has been a second without an OOM."""
    delay, total = at_most(0.3), at_most(0.5)
    with held(group, delay, total=total) as hold:
        with Herd(group, 4, 64) as herd:
            herd.start()
            first, before = take(hold, DelayExpired)
            began = next(event for event in before if isinstance(event, OomEvent))
            assert delay <= first.time - began.time < delay + at_most(5)
            second, _ = take(hold, DelayExpired)
            assert 0.3 * delay <= second.time - first.time < delay
            assert herd.statuses() == [-signal.SIGKILL] * 4
        over = time.monotonic()
        assert hold.state == "handed_over"
        assert not is_held(group)
        wait_until(lambda: hold.state == "armed", "the hold is armed again")
        assert time.monotonic() - over > 0.8
        assert is_held(group)
        assert (hold.expirations, group.oom.kills) == (2, 4)
        while hold.wait(0):
            pass
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        expired, _ = take(hold, DelayExpired)
        assert 0.8 * delay < expired.time - began.time < delay + at_most(5)
        assert finish(hog) == -signal.SIGKILL
        assert hold.kills == group.oom.kills == 5


def test_setting_the_delay_gives_a_fresh_total(group: Cgroup) -> None:
    """A group whose total is used up is taken back by setting the delay."""
    with held(group, 0.1, total=0.1) as hold:
        hog = start_hog(group, 64)
        take(hold, DelayExpired)
        assert finish(hog) == -signal.SIGKILL
        assert (hold.state, is_held(group)) == ("handed_over", False)
        hold.delay = 0.1
        assert (hold.state, is_held(group)) == ("armed", True)
        hog = start_hog(group, 64)
        assert take(hold, DelayExpired)[0].kills == 1
        assert finish(hog) == -signal.SIGKILL


# Kills that are nobody's expiry, and expiries that kill nobody.


def test_a_kill_below_is_a_kernel_kill(group: Cgroup) -> None:
    """A group below that runs into its own limit is the kernel's business: its kill is told, and is no expiry."""
    child = group.create("child", limit=8 * MiB)
    with held(group, 20) as hold:
        assert not is_held(child)
        hog = start_hog(child, 16)
        assert finish(hog) == -signal.SIGKILL
        killed, before = take(hold, KernelKill)
        assert (killed.count, killed.cgroup, kinds(before)) == (1, group, [])
        assert (hold.kills, hold.expirations, hold.state) == (1, 0, "armed")


def test_a_victim_in_a_group_below_counts(group: Cgroup) -> None:
    """The kernel counts a kill where the victim was: the expiry has it all the same."""
    child = group.create("child")
    with held(group, 0.1) as hold:
        hog = start_hog(child, 64)
        expired, before = take(hold, DelayExpired)
        assert (expired.kills, kinds(before)) == (1, [OOM])
        assert finish(hog) == -signal.SIGKILL
        assert hold.wait(0.2) is None
        assert (hold.kills, child.oom.kills, group.oom.kills) == (1, 1, 1)


def start_not_killable(group: Cgroup) -> subprocess.Popen[str]:
    """A process whose memory is charged to *group*, where the kernel's killer cannot take it."""
    if is_v1(group):
        process = start_python(memcg.current(), NOT_KILLABLE, str(group.path))
    elif os.geteuid() == 0:
        process = start_python(group, SPARED)
    else:
        pytest.skip("only root can have the kernel's killer spare a process")
    assert say(process) == "ready"
    return process


def touch(process: subprocess.Popen[str], mib: int) -> None:
    """Has that process touch so much."""
    assert process.stdin is not None
    process.stdin.write(f"{mib}\n")
    process.stdin.flush()


def take_handed_over(hold: Hold) -> DelayExpired:
    """The expiry that killed nobody. What is told of the process that tries again for ever is left out."""
    expired, before = take(hold, DelayExpired)
    assert kinds(before) == [OOM]
    assert (expired.kills, hold.kills) == (0, 0)
    return expired


@pytest.mark.slow  # as it is about a second of waiting
def test_nothing_to_kill(group: Cgroup) -> None:
    """Where the kernel finds nobody to kill, the killer stays on after a second; setting the delay takes the group
    back, and so does the end of the OOM."""
    with held(group, 0.1) as hold:
        process = start_not_killable(group)
        with process:
            touch(process, 64)
            expired = take_handed_over(hold)
            assert (hold.state, is_held(group), hold.expirations) == ("handed_over", False, 1)
            assert time.monotonic() - expired.time > 0.9
            hold.delay = 60
            wait_until(lambda: hold.state == "oom" and is_held(group), "the OOM is in hand again")
            assert hold.expire()
            take_handed_over(hold)
            assert (hold.state, hold.expirations) == ("handed_over", 2)
            group.limit = 128 * MiB
            assert say(process) == "done"
            wait_until(lambda: hold.state == "armed", "the hold is armed again")
            assert is_held(group)
            process.communicate(timeout=30)
        assert group.oom.kills == 0


# Many times.


@pytest.mark.slow
def test_fifty_expiries(group: Cgroup) -> None:
    """Fifty OOMs that nobody deals with: fifty kills, each at the delay, and none too many."""
    late = []
    with held(group, 0.05) as hold:
        for _ in range(50):
            hog = start_hog(group, 64)
            began, _ = take(hold, OomEvent)
            told = [began, *hold.until(hog)]
            assert kinds(told) == [OOM, EXPIRED]
            expired = told[-1]
            assert isinstance(expired, DelayExpired)
            assert expired.kills == 1
            assert finish(hog) == -signal.SIGKILL
            late.append(expired.time - began.time - 0.05)
        assert (hold.kills, hold.expirations, group.oom.kills) == (50, 50, 50)
    assert min(late) >= 0
    assert statistics.median(late) < 0.05
    assert max(late) < 1


@pytest.mark.slow
def test_fifty_ooms_dealt_with(group: Cgroup) -> None:
    """Fifty OOMs dealt with in time: nobody dies, each has a fresh delay, and each end is told."""
    with held(group, 30) as hold:
        for _ in range(50):
            group.limit = 32 * MiB
            hog = start_hog(group, 64)
            began, _ = take(hold, OomEvent)
            assert hold.deadline == pytest.approx(began.time + 30, abs=1)
            assert hold.raise_limit(by="64M")
            assert finish(hog) == 0
            _, before = take(hold, OomResolved)
            assert set(kinds(before)) <= {OOM}
        assert (hold.kills, hold.expirations, group.oom.kills) == (0, 0, 0)


@pytest.mark.slow
def test_two_hundred_expiries_under_oom(group: Cgroup) -> None:
    """Where processes go on blocking, no expiry is without a kill."""
    with held(group, 0.02) as hold:
        expiries = in_vain = 0
        while hold.expirations < 200:
            with Herd(group, 20, 64) as herd:
                before, late = hold.kills, 0
                herd.start()
                while hold.kills < before + 20:
                    event = hold.wait(30)
                    assert event is not None
                    if isinstance(event, KernelKill):
                        late += event.count
                    elif isinstance(event, DelayExpired):
                        expiries += event.count
                        # Who had begun to look for a victim at the expiry before may have made room meanwhile.
                        in_vain += event.kills + late < event.count
                        late = 0
                assert herd.statuses() == [-signal.SIGKILL] * 20
        assert (expiries, in_vain) == (hold.expirations, 0)
        assert hold.kills == group.oom.kills
