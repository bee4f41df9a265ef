"""OOMs on cgroup v2: what the counters of the kernel leave to be found out."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB, Oom
from memcg.notify.oom_v2 import IN_VAIN, LOOK_AGAIN, OomWatch
from memcg.notify.v2 import OomSourceV2
from support.cache import fill_cache
from support.events import hogged, kills, kinds, next_kill, origins, take_all
from support.processes import HOG, Worker, finish, finished, start_hog, wait_until

if TYPE_CHECKING:
    from memcg import Event


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


def test_thirty_kills_in_a_burst_are_thirty(group: memcg.CgroupV2) -> None:
    """The kernel signals once in 10 ms at most: however many kills lie between two signals, each is told once."""
    with Worker(group) as worker, group.oom.subscribe() as idle, group.oom.subscribe() as busy:
        worker.order("hogs 30 64")
        told: list[Event] = []
        while kills(told) < 30:
            told += next_kill(busy)
        assert worker.answer().split() == ["-9"] * 30
        done = finished(worker)
        assert kills(busy.until(done)) == 0
        late = list(idle.until(done))
    assert kills(told) == kills(late) == group.events.oom_kill == 30
    assert kinds(late) == [memcg.OomEvent, memcg.KernelKill]
    assert set(origins(told)) == set(origins(late)) == {group}


def test_a_limit_that_is_written_below_usage_is_an_oom(group: memcg.CgroupV2) -> None:
    """The kernel counts hundreds of OOMs while the writer waits for victims to die: one is told in a look."""
    group.max = 128 * MiB
    hogs = [start_hog(group, 20, stay=True) for _ in range(4)]
    wait_until(lambda: group.usage > 80 * MiB, "they have touched their memory")
    with group.oom.subscribe() as events:
        group.max = 40 * MiB
        told = take_all(events)
        told += events.until(finished_one(hogs))
        assert kinds(told)[:2] == [memcg.OomEvent, memcg.KernelKill]
        assert set(origins(told)) == {group}
        assert kills(told) == group.events.oom_kill
        assert 1 <= kills(told) <= 4
        assert len(origins(told)) <= group.events.oom
    for hog in hogs:
        finish(hog)


def finished_one(hogs: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """The first that has ended."""
    wait_until(lambda: any(hog.poll() is not None for hog in hogs), "one was killed")
    return next(hog for hog in hogs if hog.returncode is not None)


def test_a_group_that_is_killed_as_a_whole(group: memcg.CgroupV2) -> None:
    """With memory.oom.group, the kernel counts the first victim twice: three killed processes are told as 3."""
    group.oom_group = True
    with group.oom.subscribe() as events:
        others = [start_hog(group, 1, stay=True) for _ in range(2)]
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "done\n"
        told = hogged(group, 64, events)
        assert [finish(other) for other in others] == [-9, -9]
        told += take_all(events)
    assert kills(told) == 3
    assert sum(event.groups for event in told if isinstance(event, memcg.KernelKill)) == 1
    assert (group.events.oom_kill, group.events.oom_group_kill) == (4, 1)


def test_a_kill_of_one_is_no_kill_of_a_group(group: memcg.CgroupV2) -> None:
    """Usually nothing is killed as a whole."""
    with group.oom.subscribe() as events:
        (kill,) = [event for event in hogged(group, 64, events) if isinstance(event, memcg.KernelKill)]
    assert (kill.count, kill.groups) == (1, 0)


def test_nobody_is_stopped(group: memcg.CgroupV2) -> None:
    """under_oom is False on v2, in the event and of the source."""
    with closing(OomSourceV2(group)) as source, Worker(group) as worker:
        assert worker.do("hogs 1 64") == "-9"
        told = source.collect(None)
        assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
        assert isinstance(told[0], memcg.OomEvent)
        assert not told[0].under_oom
        assert not source.under_oom


def test_kills_are_known_when_the_process_is_gone(group: memcg.CgroupV2) -> None:
    """The kernel counts a kill before it sends the signal: at the moment of the exit, a look finds it."""
    with group.oom.subscribe() as events:
        for number in range(1, 11):
            hog = start_hog(group, 64)
            os.waitid(os.P_PID, hog.pid, os.WEXITED | os.WNOWAIT)
            assert group.events.oom_kill == number
            assert kills(take_all(events)) == 1
            assert finish(hog) == -9


# Looking again.


def test_after_a_hit_it_looks_again_until_the_kill_is_told(group: memcg.CgroupV2) -> None:
    """When the limit has been hit, looks are planned within a millisecond; after the kill, none."""
    with closing(OomWatch(group, Oom())) as watch, Worker(group) as worker:
        assert not watch.look(None, 1.0)
        assert watch.due is None
        group.max = 12 * MiB
        fill_cache(group, 24)
        assert group.events.max > 0, "the limit was not hit"
        assert not watch.look(None, 2.0)
        assert watch.due == 2.0 + LOOK_AGAIN[0]
        assert not watch.look([], 2.0)  # too early
        assert watch.due == 2.0 + LOOK_AGAIN[0]
        assert worker.do("hogs 1 64") == "-9"
        told = watch.look([], watch.due)
        assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
        assert watch.due is None


def test_looks_end_when_nothing_comes(group: memcg.CgroupV2) -> None:
    """A limit that is hit without an OOM leads to a bounded number of looks, and soon to none at all."""
    with closing(OomWatch(group, Oom())) as watch:
        group.max = 12 * MiB
        now, looks = 1.0, []
        for _ in range(IN_VAIN + 2):
            before = group.events.max
            fill_cache(group, 24)
            assert group.events.max > before, "the limit was not hit"
            now += 0.01
            assert not watch.look(None, now)
            count = 0
            while watch.due is not None:
                now = watch.due
                assert not watch.look([], now)
                count += 1
            looks.append(count)
    assert looks == [len(LOOK_AGAIN)] * IN_VAIN + [0, 0]
    assert group.events.oom == 0


def test_reclaim_that_works_is_no_oom(group: memcg.CgroupV2) -> None:
    """A group that is at its limit again and again, and lives by reclaim, tells nothing."""
    with group.oom.subscribe() as events:
        group.max = 12 * MiB
        fill_cache(group, 24)
        assert group.events.max > 0
        assert events.wait(0.1) is None


# Where the kernel cannot say whose limit it was.

HIDDEN = """
import ctypes, os, signal, subprocess, sys
signal.alarm(60)
libc = ctypes.CDLL(None, use_errno=True)
NEWCGROUP, NEWNS, PRIVATE, DETACH = 0x02000000, 0x00020000, 0x40000, 2
point, hog = sys.argv[1].encode(), sys.argv[2]
assert libc.unshare(NEWCGROUP | NEWNS) == 0
assert libc.mount(None, b"/", None, PRIVATE | 0x4000, None) == 0
assert libc.umount2(point, DETACH) == 0
assert libc.mount(b"cgroup2", point, b"cgroup2", 0, None) == 0
import memcg
assert memcg.current() == memcg.root()
os.mkdir(point + b"/supervisor")
with open(point + b"/supervisor/cgroup.procs", "w") as file:
    file.write("0")
job = memcg.root().create("job")
with job.oom.subscribe() as events:
    process = job.popen([sys.executable, "-I", "-S", hog, "160"], stdin=subprocess.DEVNULL)
    for event in events.until(process):
        print(type(event).__name__, getattr(event, "origin", ""), getattr(event, "count", ""))
    assert process.wait() == -9
"""
"""Run in a group, which then is all that can be seen of the hierarchy."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces here")
def test_a_limit_that_cannot_be_seen(group: memcg.CgroupV2) -> None:
    """In a container, an OOM by a limit outside is told, and its origin is None, not a guess."""
    group.max = 128 * MiB
    inside = group.create("inside")
    process = inside.popen(
        [sys.executable, "-c", HIDDEN, str(memcg.root().path), str(HOG)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert out.splitlines() == ["OomEvent None ", "KernelKill  1"]
