"""What a held group itself can do to a hold, and several holds to one another: on real groups, again and again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from support.marks import is_held, is_off
from support.owners import AT_ALL, LONG, STORM, TIMES, Owners, trial
from support.pace import at_most
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY = 0.05

repeated = pytest.mark.parametrize("times", TIMES)


@pytest.fixture(scope="module")
def owners() -> Iterator[Owners]:
    """Where owners come from."""
    with Owners() as owners:
        yield owners


# Groups below, which on cgroup v1 inherit the switch.


@contextlib.contextmanager
def making_groups(top: memcg.Cgroup, most: int = 40) -> Iterator[None]:
    """Makes children and grandchildren of *top* meanwhile, one after the other."""
    done = threading.Event()

    def make() -> None:
        for number in range(most):
            for name in ("", "/grand", "/grand/grand"):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        os.mkdir(f"{top.path}/{number}{name}")
                    except OSError as error:
                        if error.errno != errno.ENOMEM:  # as the group is at its limit
                            raise
            if done.wait(0.001):
                return

    with contextlib.ExitStack() as last:
        thread = threading.Thread(target=make)
        thread.start()
        last.callback(thread.join)
        last.callback(done.set)
        yield


def count_off(top: memcg.Cgroup) -> int:
    """How many groups below *top* have their killer off."""
    return sum(is_off(group) for group in top.walk() if group != top)


def count_below(top: memcg.Cgroup) -> int:
    return sum(1 for _ in top.walk()) - 1


@repeated
@pytest.mark.usefixtures("group_v1")
def test_groups_made_during_the_hold(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Each has its killer on soon after it was made, though it inherits the switch, and whatever comes later."""
    made = 0
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            with making_groups(one.group, 10):
                wait_until(lambda one=one: count_below(one.group) == 30, "all are made")  # type: ignore[misc]
            wait_until(lambda one=one: count_off(one.group) == 0, "all are on")  # type: ignore[misc]
            assert one.read().held
            one.owner.signal(signal.SIGKILL)
            one.wait_restored(time.monotonic())
            wait_until(lambda one=one: not one.guards_left(), "the guard has ended")  # type: ignore[misc]
            made += count_below(one.group)
            assert count_off(one.group) == 0
    assert made == 30 * times


@repeated
@pytest.mark.usefixtures("group_v1")
def test_groups_made_during_an_expiry(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """None that is made while the killer goes on and off again keeps it off."""
    made = 0
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(DELAY)
            hog = one.block()
            with making_groups(one.group, 200):
                one.wait_killed()
                assert hog.wait() == -signal.SIGKILL
                one.wait_held()
                wait_until(lambda one=one: count_below(one.group) > 0, "one was made")  # type: ignore[misc]
            wait_until(lambda one=one: count_off(one.group) == 0, "all are on")  # type: ignore[misc]
            made += count_below(one.group)
    assert made >= times


@repeated
@pytest.mark.usefixtures("group_v1")
@pytest.mark.parametrize(
    ("who", "number"),
    [
        pytest.param("owner", signal.SIGKILL, id="owner killed"),
        pytest.param("guard", signal.SIGKILL, id="guard killed"),
        pytest.param("guard", signal.SIGSTOP, id="guard stopped"),
        pytest.param("keeper", signal.SIGKILL, id="keeper killed"),
        pytest.param("keeper", signal.SIGSTOP, id="keeper stopped"),
    ],
)
def test_groups_made_while_the_guard_dies(
    owners: Owners, nursery: memcg.Cgroup, who: str, number: int, times: int
) -> None:
    """None that is made while everything is put back keeps its killer off."""
    made = 0
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            with making_groups(one.group):
                wait_until(lambda one=one: count_below(one.group) > 8, "some are made")  # type: ignore[misc]
                if who == "owner":
                    one.owner.signal(number)
                else:
                    os.kill(one.pids[("guard", "keeper").index(who)], number)
                one.wait_restored(time.monotonic())
                wait_until(lambda one=one: not one.guards_left(), "all of them have ended")  # type: ignore[misc]
            made += count_below(one.group)
            assert count_off(one.group) == 0
    assert made > 8 * times


# Processes.


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command of a fork storm: storm.c."""
    program = tmp_path_factory.mktemp("storm") / "storm"
    subprocess.run(["cc", "-O2", "-o", program, STORM], check=True)
    # At each return from the kernel, it may have to write to the rseq(2) area, which after a fork is a page to be
    # copied. Without memory for that, it sends SIGSEGV, and the parent would not get far.
    return ("/usr/bin/env", "GLIBC_TUNABLES=glibc.pthread.rseq=0", str(program))


@repeated
def test_32_processes_at_once(owners: Owners, nursery: memcg.Cgroup, storm: tuple[str, ...], times: int) -> None:
    """However many are blocked by an OOM, they have one delay together, and one of them is killed."""
    kills = Counter[tuple[int, int]]()
    for _ in range(times):
        with trial(owners, nursery, limit="64M") as one:
            one.hold(DELAY)
            one.owner.order("watch", 1)
            parent = one.start_inside(victim=False)
            began = time.monotonic()
            parent.order("become_another_program", *storm, 32, 4)
            killed = one.wait_killed()
            assert DELAY <= killed - began <= DELAY + AT_ALL
            kills.update((killed, expiries) for killed, expiries in json.loads(one.owner.answer()))
    assert_one_kill_each(kills)


def assert_one_kill_each(kills: Counter[tuple[int, int]]) -> None:
    """Proves that no expiry killed nobody, and that hardly any killed more than one process.

    A victim may be gone, and the next process be in want of its memory, before the guard gets a processor."""
    print(dict(kills))
    assert all(killed >= expiries for killed, expiries in kills), kills
    more = sum(number for (killed, expiries), number in kills.items() if killed > expiries)
    assert more <= 1 + kills.total() // 4, kills


@repeated
def test_a_page_freed_again_and_again(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Wake-ups that help nobody give no more time: the delay runs from the first process that was blocked."""
    late = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(DELAY)
            hog = one.start_inside()
            began = time.monotonic()
            hog.order("flicker", 4)
            late.append(one.wait_killed() - began - DELAY)
            assert hog.wait() == -signal.SIGKILL
            wait_until(lambda one=one: one.owner.do("counts") == "1 1 armed", "the OOM is over")  # type: ignore[misc]
    assert min(late) >= 0
    assert max(late) <= AT_ALL
    if times >= 10:
        assert statistics.median(late) <= at_most(0.1)


@pytest.mark.parametrize("expiries", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_a_fork_storm(owners: Owners, nursery: memcg.Cgroup, storm: tuple[str, ...], expiries: int) -> None:
    """Of a group that is under OOM all the time, a process is killed at each expiry: never none."""
    with trial(owners, nursery, limit="32M") as one:
        one.hold(DELAY)
        one.owner.order("watch", expiries)
        # Each of them has at least 1 MiB, of 32, and in the end it is quiet.
        one.start_inside(victim=False).order("become_another_program", *storm, expiries * 3 // 2 + 40, 1)
        told = json.loads(one.owner.answer())
        assert_one_kill_each(Counter((killed, count) for killed, count in told))


# Several holds.


@repeated
def test_two_holds_on_one_group(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """The second is refused, by the same process and by another one, and told who holds the group."""
    for _ in range(times):
        with trial(owners, nursery) as one:
            other = one.start()
            one.hold(LONG)
            refused = one.owner.do("hold", LONG, one.group.path)
            assert refused.startswith("AlreadyHeldError: ")
            assert "this very process" in refused
            refused = other.do("hold", LONG, one.group.path)
            assert refused.startswith("AlreadyHeldError: ")
            assert f"process {one.owner.pid} (its guard is process {one.pids[0]})" in refused
            assert one.read().held
            assert one.owner.do("release") == "done"
            one.note_guards(other.do("hold", LONG, one.group.path))
            assert one.read().held


@repeated
def test_a_race_for_one_group(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Of eight processes that hold a group at the same time, one does, and the others are told which."""
    for _ in range(times):
        with trial(owners, nursery) as one:
            racers = [one.owner, *(one.start() for _ in range(7))]
            for racer in racers:
                racer.order("hold", LONG, one.group.path)
            answers = {racer.pid: racer.answer() for racer in racers}
            (winner,) = (pid for pid, answer in answers.items() if answer[0].isdigit())
            for pid, answer in answers.items():
                if pid == winner:
                    one.note_guards(answer)
                else:
                    assert answer.startswith("AlreadyHeldError: ")
                    assert f"by process {winner} " in answer


@pytest.mark.slow
def test_a_thousand_groups(owners: Owners, nursery: memcg.Cgroup) -> None:
    """One guard keeps the delay of many groups under OOM at once, of 1,000, and needs no more than 1 MiB."""
    with trial(owners, nursery) as one:
        is_v1 = isinstance(one.group, memcg.CgroupV1)
        limit, mib, number = ("2M", 8, 100) if is_v1 else ("16M", 24, 20)  # on v2, a group needs 8 MiB of headroom
        one.group.limit = None
        paths = [one.group.create(f"{number}", limit=limit).path for number in range(1000)]
        one.hold(at_most(2), *paths)
        for pid in one.pids:
            status = Path(f"/proc/{pid}/status").read_text().split()
            assert int(status[status.index("VmRSS:") + 1]) <= 1024
        one.start().order("hogs", mib, *paths[:: 1000 // number])
        late, kills = json.loads(one.owner.do("lateness", number))
        assert kills == [1] * number, Counter(kills)
        assert min(late) >= 0
        assert max(late) <= at_most(0.1)
        assert one.owner.do("release") == "done"
        assert not any(is_held(group) for group in one.group.walk())
