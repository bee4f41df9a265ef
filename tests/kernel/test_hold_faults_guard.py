"""What becomes of a held group when the guard, its keeper or its warden dies or stops: on real groups."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

import pytest

import memcg
from support.owners import AT_ALL, LONG, TIMES, Owners, Trial, assert_prompt, trial
from support.pace import at_most
from support.processes import state, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY = 0.05

GUARD, KEEPER, WARDEN = range(3)

repeated = pytest.mark.parametrize("times", TIMES)
during_or_not = pytest.mark.parametrize("during", [True, False], ids=["during an OOM", "outside one"])
fault = pytest.mark.parametrize(
    ("who", "number"),
    [
        pytest.param(GUARD, signal.SIGKILL, id="guard killed"),
        pytest.param(GUARD, signal.SIGSTOP, id="guard stopped"),
        pytest.param(KEEPER, signal.SIGKILL, id="keeper killed"),
        pytest.param(KEEPER, signal.SIGSTOP, id="keeper stopped"),
        pytest.param(WARDEN, signal.SIGKILL, id="warden killed"),
    ],
)


@pytest.fixture(scope="module")
def owners() -> Iterator[Owners]:
    """Where owners come from."""
    with Owners() as owners:
        yield owners


@repeated
@during_or_not
@pytest.mark.parametrize("owner", ["idle", "GIL held", "stopped"])
@fault
def test_one_of_the_three(
    owners: Owners, nursery: memcg.Cgroup, who: int, number: int, owner: str, during: bool, times: int
) -> None:
    """Without one of the three, everything is put back whatever the owner does, who hears of it in the end."""
    took = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            one.hang(owner)
            blocked = [one.block()] if during else []
            since = time.monotonic()
            os.kill(one.pids[who], number)
            took.append(one.wait_restored(since, *blocked))
            assert [hog.wait() for hog in blocked] == [-signal.SIGKILL] * len(blocked)
            if owner == "GIL held":
                one.owner.signal(signal.SIGUSR1)
                assert one.owner.answer() == "free"
            elif owner == "stopped":
                one.owner.signal(signal.SIGCONT)
            for order in ("use", "wait", "use"):
                assert one.owner.do(order).startswith("GuardLostError: ")
            assert one.owner.do("release") == "done"
            wait_until(lambda one=one: not one.guards_left(), "all of them have ended", 10)  # type: ignore[misc]
    assert_prompt(took)


@repeated
def test_a_new_hold_after_a_lost_one(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """The same owner can hold the group again at once, with a new guard, which keeps the delay."""
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            os.kill(one.pids[GUARD], signal.SIGKILL)
            one.wait_restored(time.monotonic())
            lost = one.pids
            assert one.owner.do("release") == "done"
            one.hold(DELAY)
            assert not set(lost) & set(one.pids)
            assert one.start_inside().do("touch", 64) == ""
            one.wait_held()
            assert one.read().kills == 1


# All at once, and one after the other.


@repeated
@during_or_not
@pytest.mark.parametrize(
    "order",
    [
        pytest.param((KEEPER, GUARD), id="keeper and guard"),
        pytest.param((WARDEN, KEEPER), id="warden and keeper"),
        pytest.param((WARDEN, GUARD), id="warden and guard"),
    ],
)
def test_two_of_the_three_at_once(
    owners: Owners, nursery: memcg.Cgroup, order: tuple[int, int], during: bool, times: int
) -> None:
    """The third one puts everything back, where two are killed at once."""
    took = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            blocked = [one.block()] if during else []
            since = time.monotonic()
            for who in order:
                with contextlib.suppress(ProcessLookupError):  # which the first one has led to
                    os.kill(one.pids[who], signal.SIGKILL)
            took.append(one.wait_restored(since, *blocked))
            assert [hog.wait() for hog in blocked] == [-signal.SIGKILL] * len(blocked)
            assert one.owner.do("use").startswith("GuardLostError: ")
    assert_prompt(took)


# The warden stops: it is the one whom nobody watches.


def stop_warden(one: Trial) -> None:
    os.kill(one.pids[WARDEN], signal.SIGSTOP)
    wait_until(lambda: state(one.pids[WARDEN]) == "T", "the warden is stopped")


@repeated
def test_a_stopped_warden(owners: Owners, nursery: memcg.Cgroup, times: int) -> None:
    """Without its warden the hold goes on: the delay holds, again and again, and the end puts everything back."""
    late = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(DELAY)
            stop_warden(one)
            for number in (1, 2):
                hog = one.start_inside()
                began = time.monotonic()
                hog.order("touch", 64)
                late.append(one.wait_killed(number) - began - DELAY)
                one.wait_held()
            assert one.owner.do("use") == f"delay {DELAY}"
            assert one.owner.do("release") == "done"
            assert not one.read().held
            one.continue_guards()
    assert min(late) >= 0
    assert max(late) <= AT_ALL
    if times >= 10:
        assert statistics.median(late) <= at_most(0.1)


@repeated
@during_or_not
@pytest.mark.parametrize("who", ["owner", "guard", "keeper"])
def test_a_stopped_warden_and_another_one(
    owners: Owners, nursery: memcg.Cgroup, who: str, during: bool, times: int
) -> None:
    """With the warden stopped, the end of the owner, the guard or the keeper is dealt with as ever."""
    took = []
    for _ in range(times):
        with trial(owners, nursery) as one:
            one.hold(LONG)
            stop_warden(one)
            blocked = [one.block()] if during else []
            since = time.monotonic()
            if who == "owner":
                one.owner.signal(signal.SIGKILL)
            else:
                os.kill(one.pids[("guard", "keeper").index(who)], signal.SIGKILL)
            took.append(one.wait_restored(since, *blocked))
            assert [hog.wait() for hog in blocked] == [-signal.SIGKILL] * len(blocked)
            one.continue_guards()
    assert_prompt(took)
