"""What an owner can do about the OOM in hand: raise the limit, kill one, move one away."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import DelayExpired, MiB, OomEvent, OomResolved
from support.holds import held, is_stopped, kinds, mark_of, take, wait_stopped
from support.processes import Worker, finish, start_hog, wait_until
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcg import Cgroup, CgroupV1, Hold

UNLIMITED = None
LIMIT = 32 * MiB


def limits(group: CgroupV1) -> tuple[int | None, int | None]:
    """The limits on memory, and on memory with swap."""
    return group.limit_in_bytes, group.memsw_limit_in_bytes


def unmoved(group: Cgroup) -> dict[str, str]:
    """What is set, but for what a hold on v2 moves by itself."""
    return {name: text for name, text in settings(group).items() if not name.endswith("/memory.high")}


@pytest.fixture
def hold(group: Cgroup) -> Iterator[Hold]:
    """A hold of the group, with a delay that nothing here waits for."""
    with held(group, 60) as hold:
        yield hold


@pytest.fixture
def stuck(group: Cgroup, hold: Hold) -> Iterator[Worker]:
    """A process that wants 64 MiB and is stopped at 32; it has been told."""
    with Worker(group) as worker:
        assert worker.do("map 64") == "done"
        worker.order("touch")
        take(hold, OomEvent)
        wait_stopped(worker)
        yield worker


def raise_again(hold: Hold, **options: object) -> None:
    """Raises the limit once more: where the raise before has ended the OOM, for a moment, at the next."""
    wait_until(lambda: hold.raise_limit(**options), "there is an OOM")  # type: ignore[arg-type]


# Raising the limit.


@pytest.mark.parametrize("way", ["by", "to"])
def test_raising_the_limit(group: Cgroup, way: str) -> None:
    """The limit goes up by or to what was said, for good."""
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M") if way == "by" else hold.raise_limit(to="96M")
        assert group.limit == 96 * MiB
        assert finish(hog) == 0
        take(hold, OomResolved)
        assert group.limit == 96 * MiB
    assert group.limit == 96 * MiB
    assert group.oom.kills == 0


@pytest.mark.parametrize(
    ("memsw", "by", "expected"),
    [
        (UNLIMITED, 64, (96, UNLIMITED)),
        (32, 64, (96, 96)),
        (48, 64, (96, 112)),
        (256, 64, (96, 256)),
    ],
    ids=["none", "equal", "above", "far above"],
)
@pytest.mark.parametrize("way", ["by", "to"])
def test_raising_both_limits(
    group_v1: CgroupV1, memsw: int | None, by: int, expected: tuple[int, int | None], way: str
) -> None:
    """The limit goes up by or to what was said, and one on memory with swap by as much where it is in the way."""
    group = group_v1
    group.memsw_limit_in_bytes = None if memsw is None else memsw * MiB
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by=by * MiB) if way == "by" else hold.raise_limit(to=32 * MiB + by * MiB)
        assert limits(group) == (expected[0] * MiB, None if expected[1] is None else expected[1] * MiB)
        assert finish(hog) == 0
        take(hold, OomResolved)
        # It was not for a while.
        assert limits(group) == (expected[0] * MiB, None if expected[1] is None else expected[1] * MiB)
    assert limits(group) == (expected[0] * MiB, None if expected[1] is None else expected[1] * MiB)
    assert group.oom.kills == 0


def test_a_limit_with_swap_that_is_hit_with_the_other(group_v1: CgroupV1) -> None:
    """With both limits the same, the one with swap is hit first: raising the other within it is no help alone."""
    group = group_v1
    group.memsw_limit_in_bytes = LIMIT
    with held(group, 60) as hold:
        hog = start_hog(group, 64)
        began, _ = take(hold, OomEvent)
        assert began.origin == group
        assert hold.raise_limit(to="96M")
        assert limits(group) == (96 * MiB, 96 * MiB)
        assert finish(hog) == 0


def test_sizes_as_text(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """Sizes are written as elsewhere, and rounded down to a page."""
    assert hold.raise_limit(by="1.5M")
    assert group.limit == LIMIT + MiB + MiB // 2
    raise_again(hold, to=96 * MiB + 1)
    assert group.limit == 96 * MiB
    assert stuck.answer() == "done"


def test_a_real_raise_starts_a_fresh_delay(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """From 1 MiB up the delay begins anew, though the process is stopped again; below, it goes on."""
    before = hold.deadline
    assert before is not None
    assert hold.raise_limit(by=MiB - 4096)
    assert hold.deadline == before
    assert hold.raise_limit(by="1M")
    assert hold.deadline is not None
    assert hold.deadline > before
    wait_stopped(stuck)
    assert hold.raise_limit(by="64M")
    assert stuck.answer() == "done"
    take(hold, OomResolved)
    assert hold.state == "armed"


def test_raising_until_resolved(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """The former limit comes back once there is room for it, and while it is away the mark has it."""
    assert hold.raise_limit(by="64M", until_resolved=True)
    assert f" limit={LIMIT} " in mark_of(group)
    assert stuck.answer() == "done"
    take(hold, OomResolved)
    assert group.limit == 96 * MiB  # as 64 are in use
    assert stuck.do("free") == "done"
    wait_until(lambda: group.limit == LIMIT, "the limit is back")
    wait_until(lambda: "limit=" not in mark_of(group), "the mark has nothing of it")
    assert hold.state == "armed"
    # And it is a limit again.
    stuck.order("touch 64")
    take(hold, OomEvent)
    assert hold.raise_limit(by="64M")
    assert stuck.answer() == "done"


@pytest.mark.parametrize(("memsw", "raised"), [(32, 96), (48, 112), (256, 256)])
def test_both_limits_come_back(group_v1: CgroupV1, memsw: int, raised: int) -> None:
    """A limit on memory with swap that was raised comes back with the other."""
    group = group_v1
    group.memsw_limit_in_bytes = memsw * MiB
    with held(group, 60) as hold, Worker(group) as worker:
        worker.order("touch 64")
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M", until_resolved=True)
        assert limits(group) == (96 * MiB, raised * MiB)
        assert worker.answer() == "done"
        take(hold, OomResolved)
        assert worker.do("free") == "done"
        wait_until(lambda: limits(group) == (LIMIT, memsw * MiB), "both limits are back")


def test_raised_again_and_again(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """Of several raises in a row, what comes back is what was before the first that was for a while."""
    assert hold.raise_limit(by="1M", until_resolved=True)
    raise_again(hold, by="1M", until_resolved=True)
    raise_again(hold, by="64M", until_resolved=True)
    assert stuck.answer() == "done"
    take(hold, OomResolved)
    assert group.limit == LIMIT + 66 * MiB
    assert stuck.do("free") == "done"
    wait_until(lambda: group.limit == LIMIT, "the limit is back")


def test_raised_for_a_while_and_then_for_good(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """A raise without until_resolved stays, and all that was raised before it."""
    assert hold.raise_limit(by="1M", until_resolved=True)
    raise_again(hold, by="64M")
    assert stuck.answer() == "done"
    take(hold, OomResolved)
    assert stuck.do("free") == "done"
    hold.close()
    assert group.limit == LIMIT + 65 * MiB


def test_the_hold_ends_before_there_is_room(group: Cgroup) -> None:
    """A limit that was raised for a while is left raised where the hold ends with more in use; nobody is hurt."""
    with Worker(group) as worker:
        with held(group, 60) as hold:
            worker.order("touch 64")
            take(hold, OomEvent)
            assert hold.raise_limit(by="64M", until_resolved=True)
            assert worker.answer() == "done"
        assert group.limit == 96 * MiB
        assert worker.do("free") == "done"
    assert group.oom.kills == 0


def test_the_hold_ends_with_room(group: Cgroup) -> None:
    """A limit that was raised for a while is taken back at the end of the hold, without waiting for a look."""
    with Worker(group) as worker:
        with held(group, 60) as hold:
            worker.order("touch 64")
            take(hold, OomEvent)
            assert hold.raise_limit(by="64M", until_resolved=True)
            assert worker.answer() == "done"
            assert worker.do("free") == "done"
        assert group.limit == LIMIT


@pytest.mark.parametrize("theirs", [80 * MiB + 4096, 200 * MiB, None])
@pytest.mark.parametrize("when", ["meanwhile", "at the end"])
def test_a_limit_that_somebody_else_writes_is_theirs(group: Cgroup, theirs: int | None, when: str) -> None:
    """What another has written meanwhile stays, also at the end of the hold."""
    with Worker(group) as worker:
        with held(group, 60) as hold:
            worker.order("touch 60")
            take(hold, OomEvent)
            assert hold.raise_limit(by="64M", until_resolved=True)
            assert worker.answer() == "done"
            group.limit = theirs
            assert worker.do("free") == "done"
            if when == "meanwhile":
                take(hold, OomResolved)
                wait_until(lambda: "limit=" not in mark_of(group), "the guard has looked")
                assert group.limit == theirs
        assert group.limit == theirs


def test_a_limit_of_somebody_else_is_raised_from(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """by= adds to the limit that there is, whoever has set it; to= below it is refused."""
    group.limit = 40 * MiB
    wait_until(lambda: group.usage > 31 * MiB and hold.state == "oom", "it has used some of that")
    with pytest.raises(memcg.InvalidValueError, match="is 40 MiB: 36700160 would not raise it"):
        hold.raise_limit(to=35 * MiB)
    assert hold.raise_limit(by="56M")
    assert group.limit == 96 * MiB
    assert stuck.answer() == "done"


REFUSED: list[tuple[dict[str, object], str]] = [
    ({}, "either to= or by="),
    ({"to": "64M", "by": "1M"}, "either to= or by="),
    ({"by": 0}, "less than a page"),
    ({"to": 0}, "less than a page"),
    ({"by": 4095}, "less than a page"),
    ({"by": -MiB}, "negative"),
    ({"by": "1MB"}, "not a size"),
    ({"by": ""}, "not a size"),
    ({"by": 1.5}, "a size is an int or a str"),
    ({"by": True}, "a size is an int or a str"),
    ({"by": 2**63}, "more than the kernel can count"),
    ({"to": "31M"}, "would not raise it"),
    ({"to": LIMIT}, "would not raise it"),
    ({"to": LIMIT + 1}, "would not raise it"),
]


def test_raises_that_are_refused(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """What is no size, or raises nothing, is refused with the reason, and nothing is changed."""
    before, deadline = unmoved(group), hold.deadline
    for options, words in REFUSED:
        with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError), match=words):
            hold.raise_limit(**options)  # type: ignore[arg-type]
        assert (unmoved(group), hold.deadline) == (before, deadline), options
    assert hold.state == "oom"
    assert is_stopped(stuck.pid)


def test_without_a_limit_in_the_end(group: Cgroup, hold: Hold, stuck: Worker) -> None:
    """The largest size that can be written is the same as none; more than that is cut off there."""
    assert hold.raise_limit(by=2**62)
    assert stuck.answer() == "done"
    assert (group.limit or 2**63) > 2**62


# Killing one.


def test_kill_one(group: Cgroup, hold: Hold) -> None:
    """The process with the most memory is killed, and who is left goes on: no expiry, no kernel kill."""
    group.limit = 64 * MiB
    with Worker(group) as large, Worker(group) as small:
        assert large.do("touch 36") == "done"
        small.order("touch 32")
        take(hold, OomEvent)
        wait_stopped(small)
        assert hold.kill_one()
        assert large.process.wait(30) == -signal.SIGKILL
        assert small.answer() == "done"
        take(hold, OomResolved)
    assert (hold.kills, hold.expirations, group.oom.kills) == (0, 0, 0)


def test_kill_one_below(group: Cgroup, hold: Hold) -> None:
    """Processes of groups below are among those to choose from."""
    group.limit = 64 * MiB
    child, other = group.create("child"), group.create("other")
    with Worker(child) as large, Worker(other) as small:
        assert large.do("touch 36") == "done"
        small.order("touch 32")
        take(hold, OomEvent)
        wait_stopped(small)
        assert hold.kill_one()
        assert large.process.wait(30) == -signal.SIGKILL
        assert small.answer() == "done"
        take(hold, OomResolved)


def test_the_killer_waits_for_the_victim(group: Cgroup) -> None:
    """A delay that runs out just after kill_one() makes no second victim."""
    group.limit = 64 * MiB
    for _ in range(5):
        with held(group, 0.05) as hold, Worker(group) as large, Worker(group) as small:
            assert large.do("touch 36") == "done"
            small.order("touch 32")
            take(hold, OomEvent)
            if not hold.kill_one():  # the delay was quicker
                take(hold, DelayExpired)
                continue
            assert large.process.wait(30) == -signal.SIGKILL
            assert small.answer() == "done"
            take(hold, OomResolved)
            assert (hold.kills, hold.expirations) == (0, 0)


def test_killing_all_one_by_one(group: Cgroup, hold: Hold) -> None:
    """Where nobody is left to kill, or no OOM is in hand any more, kill_one() returns False."""
    hog = start_hog(group, 64)
    take(hold, OomEvent)
    assert hold.kill_one()
    assert finish(hog) == -signal.SIGKILL
    wait_until(lambda: not hold.kill_one(), "there is nobody left to kill")
    take(hold, OomResolved)


# Moving one away.


def test_move(group: Cgroup, hold: Hold, stuck: Worker, nursery: memcg.Cgroup) -> None:
    """A blocked process that is moved goes on in the other group, and the limit is as before in the end."""
    with memcg.temporary(parent=nursery) as other:
        assert hold.move(stuck.pid, other)
        assert stuck.answer() == "done"
        assert stuck.pid in other.processes()
        assert other.usage > 16 * MiB
        take(hold, OomResolved)
        assert stuck.do("free") == "done"
        wait_until(lambda: group.limit == LIMIT, "the limit is back")
    assert (hold.kills, hold.expirations) == (0, 0)


def test_move_from_below(group: Cgroup, hold: Hold, nursery: memcg.Cgroup) -> None:
    """A process of a group below can be moved too."""
    child = group.create("child")
    with memcg.temporary(parent=nursery) as other, Worker(child) as worker:
        worker.order("touch 64")
        take(hold, OomEvent)
        wait_stopped(worker)
        assert hold.move(worker.pid, other)
        assert worker.answer() == "done"


def test_moving_one_lets_the_others_wait(group: Cgroup, hold: Hold, nursery: memcg.Cgroup) -> None:
    """Who is not moved, and finds no room after all, is stopped as before, with the delay of before."""
    with memcg.temporary(parent=nursery) as other, Worker(group) as first, Worker(group) as second:
        for worker in (first, second):
            assert worker.do("map 32") == "done"
        for worker in (first, second):
            worker.order("touch")
            wait_stopped(worker)
        take(hold, OomEvent)
        deadline = hold.deadline
        assert hold.move(first.pid, other)
        assert first.answer() == "done"
        wait_stopped(second)
        assert (hold.state, hold.deadline) == ("oom", deadline)
        assert hold.raise_limit(by="64M")
        assert second.answer() == "done"


def test_moves_that_are_refused(group: Cgroup, hold: Hold, stuck: Worker, nursery: memcg.Cgroup) -> None:
    """A process of another group, one that is gone, what is no PID and what is no group: each with the reason."""
    before = unmoved(group)
    with memcg.temporary(parent=nursery) as other, Worker(other) as stranger:
        with pytest.raises(memcg.InvalidValueError, match=f"process {stranger.pid} is not in .*, nor below"):
            hold.move(stranger.pid, other)
        stranger.process.kill()
        stranger.process.wait()
        with pytest.raises(memcg.ProcessNotFoundError):
            hold.move(stranger.pid, other)
        for wrong in (0, -1):
            with pytest.raises(memcg.InvalidValueError):
                hold.move(wrong, other)
        for odd in ("1", 1.0, True, None):
            with pytest.raises(memcg.InvalidTypeError):
                hold.move(odd, other)  # type: ignore[arg-type]
        with pytest.raises(memcg.InvalidTypeError, match="moved to a Cgroup"):
            hold.move(stuck.pid, str(other.path))  # type: ignore[arg-type]
    with pytest.raises(memcg.CgroupNotFoundError):
        hold.move(stuck.pid, other)
    assert (unmoved(group), hold.state) == (before, "oom")


# Without an OOM in hand.

ACTIONS = {
    "raise_limit by": lambda hold, pid, other: hold.raise_limit(by="16M"),
    "raise_limit to": lambda hold, pid, other: hold.raise_limit(to="256M", until_resolved=True),
    "raise_limit too low": lambda hold, pid, other: hold.raise_limit(to="1M"),
    "kill_one": lambda hold, pid, other: hold.kill_one(),
    "move": lambda hold, pid, other: hold.move(pid, other),
    "expire": lambda hold, pid, other: hold.expire(),
}

every_action = pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS.keys())


@every_action
def test_an_action_without_an_oom(
    group: Cgroup, hold: Hold, nursery: memcg.Cgroup, act: Callable[[Hold, int, memcg.Cgroup], bool]
) -> None:
    """It returns False and changes nothing, before an OOM and after one that is over."""
    with memcg.temporary(parent=nursery) as other, Worker(group) as worker:
        for _ in range(2):
            before = unmoved(group)
            assert act(hold, worker.pid, other) is False
            assert unmoved(group) == before
            assert (hold.state, hold.deadline) == ("armed", None)
            assert worker.do("free") == "done"
            worker.order("touch 64")
            take(hold, OomEvent)
            assert hold.raise_limit(to="128M")
            assert worker.answer() == "done"
            take(hold, OomResolved)
            assert worker.do("free") == "done"
            group.limit = LIMIT
    assert (hold.kills, hold.expirations) == (0, 0)


@every_action
@pytest.mark.parametrize("rearm", ["episode", "once"])
def test_an_action_that_comes_too_late(
    group: Cgroup, nursery: memcg.Cgroup, rearm: str, act: Callable[[Hold, int, memcg.Cgroup], bool]
) -> None:
    """After the delay has run out it returns False and changes nothing: the kernel has killed."""
    with memcg.temporary(parent=nursery) as other, Worker(group) as worker:
        with held(group, 0.01, rearm=rearm) as hold:
            hog = start_hog(group, 64)
            assert finish(hog) == -signal.SIGKILL
            assert act(hold, worker.pid, other) is False
            assert group.limit == LIMIT
            expired, _ = take(hold, DelayExpired)
            assert (expired.kills, hold.expirations) == (1, 1)
            assert worker.do("free") == "done"
            assert worker.pid in group.processes()


@every_action
def test_an_action_after_the_end(
    group: Cgroup, nursery: memcg.Cgroup, act: Callable[[Hold, int, memcg.Cgroup], bool]
) -> None:
    """A hold that was closed acts no more, and says so."""
    with held(group, 10) as hold:
        pass
    before = settings(group)
    with pytest.raises(memcg.ClosedError, match="this hold is closed"):
        act(hold, os.getpid(), nursery)
    assert settings(group) == before


@pytest.mark.slow
def test_fifty_times_until_resolved(group: Cgroup, hold: Hold) -> None:
    """Fifty OOMs are dealt with by a limit that is raised for a while: it comes back each time, nobody dies."""
    for _ in range(50):
        hog = start_hog(group, 64)
        told = [take(hold, OomEvent)[0]]
        assert hold.raise_limit(by="64M", until_resolved=True)
        assert finish(hog) == 0
        resolved, before = take(hold, OomResolved)
        assert kinds([*told, *before, resolved]) == ["OomEvent", "OomResolved"]
        wait_until(lambda: group.limit == LIMIT, "the limit is back")
    assert (hold.kills, hold.expirations, group.oom.kills) == (0, 0, 0)
