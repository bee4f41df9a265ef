"""Whether a hold on cgroup v2 comes before the kernel's killer, whatever runs into the limit, and only then."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, KernelKill, MiB, OomEvent, OomResolved
from support.cache import fill_cache
from support.holds import Herd, held, kinds, take
from support.pace import at_most
from support.processes import Worker, finish, start_hog, wait_until
from support.scripts import say, start_python

if TYPE_CHECKING:
    from memcg import CgroupV2

LIMIT = 32 * MiB

POPULATE = """
import mmap, sys
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
print("ready", flush=True)
sys.stdin.readline()
mmap.mmap(-1, int(sys.argv[1]) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print("done", flush=True)
"""


@pytest.fixture
def group(group_v2: CgroupV2) -> CgroupV2:
    """A group of cgroup v2, with a limit of 32 MiB."""
    return group_v2


@pytest.mark.parametrize("number", [1, 4, 16, 64, 128])
def test_no_kill_before_the_freeze(group: CgroupV2, number: int) -> None:
    """However many touch memory at once, the group stands still before the kernel kills, and all of them live."""
    limit = max(64, 4 * number // 2) * MiB
    mib = 2 * limit // MiB // number
    group.limit = limit
    with held(group, 60) as hold, Herd(group, number, mib) as herd:
        herd.start()
        told = [take(hold, OomEvent)[0]]
        wait_until(lambda: hold.frozen, "the group is frozen")
        assert (group.oom.kills, hold.kills) == (0, 0), hold.headroom
        assert group.current < limit
        assert hold.raise_limit(to=4 * limit)
        assert herd.statuses() == [0] * number
        resolved, before = take(hold, OomResolved)
        assert kinds([*told, *before, resolved]) == ["OomEvent", "OomResolved"]
        print(f"{number} processes: headroom {hold.headroom / MiB} MiB, false freezes {hold.false_freezes}")
    assert group.oom.kills == 0


@pytest.mark.parametrize("number", [4, 16])
def test_many_that_nobody_helps(group: CgroupV2, number: int) -> None:
    """Expiry after expiry, each kills, and in the end nobody is left."""
    with held(group, 0.05) as hold, Herd(group, number, 64) as herd:
        herd.start()
        while hold.kills < number:
            event = hold.wait(60)
            assert event is not None, (hold.state, hold.kills)
            assert not (isinstance(event, KernelKill) and event.missed)
        assert herd.statuses() == [-signal.SIGKILL] * number
        assert hold.expirations <= number
        assert hold.kills == group.oom.kills


@pytest.mark.parametrize("cycles", [5, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_cycles(group: CgroupV2, cycles: int) -> None:
    """Again and again: an OOM, a limit that is raised for a while, its end, and the limit is back."""
    with held(group, 60) as hold, Worker(group) as worker:
        for cycle in range(cycles):
            worker.order("touch 48")
            _, before = take(hold, OomEvent)
            assert kinds(before) == [], cycle
            assert hold.raise_limit(by="32M", until_resolved=True)
            assert worker.answer() == "done"
            _, before = take(hold, OomResolved)
            assert kinds(before) == [], cycle
            assert worker.do("free") == "done"
            wait_until(lambda: group.max == LIMIT, "the limit is back")
            assert (hold.state, hold.frozen) == ("armed", False)
        assert (hold.kills, hold.expirations, group.oom.kills, hold.false_freezes) == (0, 0, 0, 0)


def test_all_in_one_system_call(group: CgroupV2) -> None:
    """Memory that is populated in one call, of eight times the limit, cannot be stopped: the kernel kills, which
    is told as a kill that the hold did not come before."""
    with held(group, 60) as hold:
        process = start_python(group, POPULATE, "256")
        assert say(process) == "ready"
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        told = list(hold.until(process))
        assert process.wait(60) == -signal.SIGKILL
        process.communicate()
        kills = [event for event in told if isinstance(event, KernelKill)]
        assert [(event.count, event.missed) for event in kills] == [(1, True)], told
        wait_until(lambda: hold.state == "armed" and not group.cgroup_freeze, "it is over")
        # And the next OOM is the hold's.
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


def test_a_group_that_is_killed_as_one(group: CgroupV2) -> None:
    """With memory.oom.group, one expiry kills all, each of them counted once."""
    group.oom_group = True
    with held(group, 0.05) as hold, Herd(group, 4, 64) as herd:
        herd.start()
        expired, before = take(hold, DelayExpired)
        assert kinds(before) == ["OomEvent"]
        assert (expired.kills, expired.count) == (4, 1)
        assert herd.statuses() == [-signal.SIGKILL] * 4
        wait_until(lambda: hold.state == "armed", "it is over")
        assert (hold.kills, hold.expirations) == (4, 1)


@pytest.mark.timeout(at_most(60))
def test_page_cache_is_no_oom(group: CgroupV2) -> None:
    """Files of ten times the limit are read, with some of it in use: no OOM, and nobody is frozen for it."""
    with held(group, 60) as hold, Worker(group) as worker:
        assert worker.do("touch 8") == "done"
        for _ in range(10):
            fill_cache(group, LIMIT // MiB)
        assert hold.wait(0) is None
        assert (hold.state, hold.false_freezes, hold.expirations, group.oom.kills) == ("armed", 0, 0, 0)
        assert not hold.frozen


def test_what_can_be_given_back_is_no_oom(group: CgroupV2) -> None:
    """Memory that is touched and given back, again and again, up to just below the line."""
    with held(group, 60) as hold, Worker(group) as worker:
        for _ in range(5):
            assert worker.do("touch 14") == "done"
            assert worker.do("free") == "done"
        assert hold.wait(0) is None
        assert (hold.state, hold.false_freezes) == ("armed", 0)


def test_an_oom_below_by_the_groups_own_limit(group: CgroupV2) -> None:
    """Who is below is frozen with the group, and the kernel chooses among all."""
    first, second = group.create("first"), group.create("second")
    with held(group, 0.1) as hold, Worker(first) as worker:
        assert worker.do("touch 4") == "done"
        hog = start_hog(second, 64)
        expired, before = take(hold, DelayExpired)
        assert (kinds(before), expired.kills) == (["OomEvent"], 1)
        assert finish(hog) == -signal.SIGKILL
        assert worker.do("touch 1") == "done"
        assert memcg.open(first.path).oom.kills == 0
