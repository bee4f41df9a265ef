"""What type checkers see of holds. Checked by mypy, never run."""

import subprocess
from datetime import timedelta
from typing import Literal

from typing_extensions import assert_never, assert_type

import memcg
from memcg import Cgroup, CgroupV1, DelayExpired, Hold, HoldEvent, HoldState, Locked, OomEvent, Rearm, Subscription


def making(group: CgroupV1, rearm: Rearm) -> None:
    """A delay is a number, a timedelta or None; the rest is given by name."""
    with group.oom.hold(10) as hold:
        assert_type(hold, Hold)
    group.oom.hold(0.5, total=timedelta(minutes=1), rearm="once", takeover=True).close()
    group.oom.hold(timedelta(seconds=10), rearm=rearm).close()
    group.oom.hold(None, total=None).close()
    group.oom.hold()  # type: ignore[call-arg]
    group.oom.hold("10s")  # type: ignore[arg-type]
    group.oom.hold(10, 20)  # type: ignore[call-arg]
    group.oom.hold(10, rearm="twice")  # type: ignore[arg-type]
    group.oom.hold(10, takeover=None)  # type: ignore[arg-type]


def reading(hold: Hold) -> None:
    """What there is to be read, and what cannot be set."""
    assert_type(hold.delay, float | None)
    assert_type(hold.deadline, float | None)
    assert_type(hold.state, HoldState)
    assert_type(hold.expirations, int)
    assert_type(hold.kills, int)
    assert_type(hold.mechanism, Literal["guard", "kernel"])
    assert_type(hold.guard_locked, Locked)
    assert_type(hold.guard_pids, tuple[int, int, int])
    assert_type(hold.closed, bool)
    hold.deadline = 5.0  # type: ignore[misc]
    hold.state = "armed"  # type: ignore[misc]
    hold.kills = 0  # type: ignore[misc]


def setting(hold: Hold) -> None:
    """The delay takes what it took at the start."""
    hold.delay = 10
    hold.delay = 0.5
    hold.delay = None
    hold.delay = timedelta(seconds=1)
    hold.delay = "10s"  # type: ignore[assignment]


def every_state_is_known(state: HoldState) -> bool:
    """HoldState is a closed set of words."""
    match state:
        case "armed" | "oom" | "expired" | "handed_over":
            return True
        case "ended":
            return False
        case _:
            assert_never(state)


def every_other_word_is_known(rearm: Rearm, locked: Locked) -> None:
    """So are Rearm and Locked."""
    match rearm:
        case "episode" | "once":
            pass
        case _:
            assert_never(rearm)
    match locked:
        case "all" | "hot" | "none":
            pass
        case _:
            assert_never(locked)


def acting(hold: Hold, other: Cgroup) -> None:
    """Actions say whether there was something to act on."""
    assert_type(hold.raise_limit(to="512M"), bool)
    assert_type(hold.raise_limit(by=memcg.MiB, until_resolved=True), bool)
    assert_type(hold.kill_one(), bool)
    assert_type(hold.move(1, other), bool)
    assert_type(hold.expire(), bool)
    hold.raise_limit("512M")  # type: ignore[call-arg]
    hold.raise_limit(by=1.5)  # type: ignore[arg-type]
    hold.move("1", other)  # type: ignore[arg-type]
    hold.move(1, "/other")  # type: ignore[arg-type]


async def waiting(hold: Hold, process: subprocess.Popen[bytes]) -> None:
    """A hold is a subscription to its events."""
    subscription: Subscription[HoldEvent] = hold
    assert_type(subscription.wait(0), HoldEvent | None)
    assert_type(hold.wait(), HoldEvent | None)
    assert_type(await hold.next(), HoldEvent)
    for event in hold.until(process):
        assert_type(event, HoldEvent)
        if isinstance(event, OomEvent):
            assert_type(event.origin, Cgroup | None)
        if isinstance(event, DelayExpired):
            assert_type((event.kills, event.count), tuple[int, int])
    async for event in hold:
        assert_type(event, HoldEvent)
    other: Subscription[memcg.Event] = hold  # type: ignore[assignment]
    assert other is hold
