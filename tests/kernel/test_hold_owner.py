"""Holds of a process that forks, loses its guard, has many at once, or is not root's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, MiB, OomEvent, OomResolved
from memcg.oom import guard
from support.forked import as_nobody, give_away, in_child
from support.holds import assert_nothing_left, guard_is_gone, held, is_stopped, take, wait_stopped
from support.marks import is_held, marks
from support.processes import Worker, finish, start_hog, start_waiting, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcg import Cgroup, Hold

EXPIRY = ["OomEvent", "DelayExpired"]


@pytest.fixture
def hold(group: Cgroup) -> Iterator[Hold]:
    """A hold of the group, with a short delay."""
    with held(group, 0.05) as hold:
        yield hold


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads to wait in."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


# Forking.


def test_a_forked_child(group: Cgroup) -> None:
    """In a forked child every use is refused, and leaving the with block there changes nothing."""

    def use(hold: Hold) -> None:
        with hold:
            uses: tuple[Callable[[], object], ...] = (
                hold.wait,
                hold.expire,
                hold.kill_one,
                hold.fileno,
                partial(hold.raise_limit, by="1M"),
                partial(setattr, hold, "delay", 5),
                partial(list, hold),
                lambda: hold.state,
                lambda: hold.delay,
                lambda: hold.deadline,
                lambda: hold.expirations,
            )
            for each in uses:
                with pytest.raises(memcg.ClosedError, match="belongs to the process that this one forked from"):
                    each()

    with held(group, 30) as hold:
        in_child(partial(use, hold))
        assert is_held(group)
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


def test_a_forked_child_can_make_its_own(group: Cgroup) -> None:
    """It has a guard of its own, and is refused what its parent holds."""
    first, second = group.create("first", limit=16 * MiB), group.create("second", limit=16 * MiB)

    def use() -> tuple[int, int, int]:
        with pytest.raises(memcg.AlreadyHeldError):
            first.oom.hold(10)
        with second.oom.hold(10) as own:
            return own.guard_pids

    with held(first, 10) as hold:
        pids = in_child(use)
        assert not set(pids) & set(hold.guard_pids)
        assert_nothing_left(second, pids)
        assert hold.state == "armed"


# The guard is lost.


@pytest.mark.parametrize("which", [0, 1, 2], ids=["guard", "keeper", "warden"])
def test_a_lost_guard(group: Cgroup, which: int) -> None:
    """Whichever of the three is killed: each use says that the guard is lost, and nothing is left."""
    uses: tuple[Callable[[Hold], object], ...] = (
        lambda hold: hold.wait(30),
        lambda hold: hold.wait(0),
        lambda hold: list(hold),
        lambda hold: list(hold.until(os.getpid())),
        lambda hold: hold.raise_limit(by="1M"),
        lambda hold: hold.kill_one(),
        lambda hold: hold.move(os.getpid(), hold._group),
        lambda hold: hold.expire(),
        lambda hold: setattr(hold, "delay", 5),
        lambda hold: hold.state,
        lambda hold: hold.delay,
        lambda hold: hold.deadline,
        lambda hold: hold.expirations,
    )
    with group.oom.hold(30) as hold:
        os.kill(hold.guard_pids[which], signal.SIGKILL)
        # What is first in using it may be quicker than the rest of the guard's processes are in ending.
        for number in range(len(uses)):
            use = uses[number]
            with pytest.raises(memcg.GuardLostError, match=f"process {hold.guard_pids[0]}.* is gone"):
                use(hold)
        assert hold.kills == 0
        assert hold.guard_locked in ("all", "hot", "none")
    assert_nothing_left(group, hold.guard_pids)
    with held(group, 30) as hold:  # a new one has a new guard
        assert hold.state == "armed"


def test_a_guard_that_is_lost_while_somebody_waits(group: Cgroup, pool: ThreadPoolExecutor) -> None:
    """Whoever waits is told at once."""
    with group.oom.hold(30) as hold:
        waiting = start_waiting(pool, hold.wait)
        os.kill(hold.guard_pids[0], signal.SIGKILL)
        with pytest.raises(memcg.GuardLostError):
            waiting.result(30)
    assert_nothing_left(group, hold.guard_pids)


def test_a_guard_that_is_lost_amid_an_oom(group: Cgroup) -> None:
    """The kernel gets the process that was stopped, and the owner hears why."""
    with group.oom.hold(30) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        wait_stopped(hog)
        os.kill(hold.guard_pids[0], signal.SIGKILL)
        assert finish(hog) == -signal.SIGKILL
        with pytest.raises(memcg.GuardLostError):
            list(hold)
    assert_nothing_left(group, hold.guard_pids)


# Several.


def test_one_guard_for_all_holds(nursery: memcg.Cgroup) -> None:
    """Holds of one process share one guard, which goes with the last of them; a later one has a new one."""
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(memcg.temporary(parent=nursery, limit="16M")) for _ in range(5)]
        holds = [group.oom.hold(30) for group in groups]
        pids = {hold.guard_pids for hold in holds}
        assert len(pids) == 1
        (first,) = pids
        for hold in holds[:-1]:
            hold.close()
            assert holds[-1].state == "armed"
        assert not guard_is_gone(first[:1])
        with groups[0].oom.hold(30) as again:
            assert again.guard_pids == first
        holds[-1].close()
        wait_until(lambda: guard_is_gone(first), "the guard is gone")
        with groups[0].oom.hold(30) as again:
            assert not set(again.guard_pids) & set(first)


def test_ooms_of_several_groups(nursery: memcg.Cgroup) -> None:
    """Each group has its own OOM, delay and end."""
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(memcg.temporary(parent=nursery, limit="32M")) for _ in range(4)]
        holds = [
            stack.enter_context(group.oom.hold(0.1 if number % 2 else 30)) for number, group in enumerate(groups)
        ]
        hogs = [start_hog(group, 48) for group in groups]
        for number, hold in enumerate(holds):
            event, _ = take(hold, OomEvent)
            assert event.cgroup == groups[number]
        for number, hold in enumerate(holds):
            if number % 2:
                assert take(hold, DelayExpired)[0].kills == 1
            else:
                assert is_stopped(hogs[number].pid)
                assert hold.raise_limit(by="64M")
                take(hold, OomResolved)
        assert [finish(hog) for hog in hogs] == [0, -9, 0, -9]


def test_threads_that_make_and_end_holds(nursery: memcg.Cgroup) -> None:
    """Many threads at once make, use and end holds, and nothing is left of any."""
    pids: set[tuple[int, int, int]] = set()

    def use(number: int) -> None:
        with memcg.temporary(parent=nursery, limit="16M") as group:
            for _ in range(5):
                with group.oom.hold(30) as hold:
                    pids.add(hold.guard_pids)
                    assert hold.wait(0) is None
                    hold.delay = 20 + number
                    assert (hold.delay, hold.state) == (20 + number, "armed")
                assert not is_held(group)
                assert marks(group) == []

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    wait_until(lambda: all(map(guard_is_gone, pids)), "all guards are gone")
    assert guard._current is None


def test_asyncio_with_several(nursery: memcg.Cgroup) -> None:
    """Tasks of one loop that each deal with a group of their own."""

    async def handle() -> None:
        with memcg.temporary(parent=nursery, limit="32M") as group, group.oom.hold(30) as hold:
            hog = start_hog(group, 48)
            async for event in hold.until(hog):
                if isinstance(event, OomEvent):
                    hold.raise_limit(by="32M")
            assert finish(hog) == 0

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(*(handle() for _ in range(4))), 60)

    asyncio.run(main())


# Without root.


def test_an_unprivileged_owner(group: Cgroup) -> None:
    """Who was given a group holds it, acts, and lets the delay run out; the guard is that user's, too."""
    given, group = group, group.create("job", limit=32 * MiB)
    home = given.create("home")
    given.limit = None
    for each in (given, group, home):
        give_away(each.path)

    def use() -> tuple[int, int, int]:
        with group.oom.hold(30) as hold:
            hog = own_hog(group, 64)
            take(hold, OomEvent)
            assert hold.raise_limit(by="64M", until_resolved=True)
            assert os.waitstatus_to_exitcode(os.waitpid(hog, 0)[1]) == 0
            take(hold, OomResolved)
            wait_until(lambda: group.limit == 32 * MiB, "the limit is back")
            hold.delay = 0.05
            hog = own_hog(group, 64)
            assert take(hold, DelayExpired)[0].kills == 1
            assert os.waitstatus_to_exitcode(os.waitpid(hog, 0)[1]) == -signal.SIGKILL
            hold.delay = 30
            hog = own_hog(group, 64)
            take(hold, OomEvent)
            assert hold.kill_one()
            assert os.waitstatus_to_exitcode(os.waitpid(hog, 0)[1]) == -signal.SIGKILL
            assert os.stat(f"/proc/{hold.guard_pids[0]}").st_uid in (0, os.getuid())
            return hold.guard_pids

    pids = as_nobody(use, inside=home)
    assert_nothing_left(group, pids)


def own_hog(group: Cgroup, mib: int) -> int:
    """A child of this process that joins *group* by itself and touches that many MiB; its PID."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            group.add(os.getpid())
            memory = bytearray(mib * MiB)
            assert len(memory) == mib * MiB
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_acting_from_another_thread(group: Cgroup, pool: ThreadPoolExecutor) -> None:
    """One thread waits for events, others act and read; none gets another's answer."""
    stop = threading.Event()

    def act(hold: Hold) -> int:
        number = 0
        while not stop.is_set():
            assert hold.expire() is False
            assert hold.delay == 30
            assert hold.state == "armed"
            number += 1
        return number

    child = group.create("child", limit=16 * MiB)
    with held(group, 30) as hold:
        waiting = start_waiting(pool, hold.wait)
        acting = [pool.submit(act, hold) for _ in range(3)]
        with Worker(child) as worker:
            worker.order("touch 16")
            assert isinstance(waiting.result(30), memcg.KernelKill)
        stop.set()
        assert all(each.result(30) > 0 for each in acting)
