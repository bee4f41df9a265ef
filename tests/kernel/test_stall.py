"""Stalls of the whole machine, which both versions of cgroup have."""

from __future__ import annotations

import os
import select
import selectors
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import pytest

import memcg
from memcg import Stall
from support.forked import as_nobody, in_child
from support.pace import at_most
from support.processes import start_waiting, wait_until
from support.strain import has_any_window, strained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg import Subscription, SystemStalled

LITTLE = Stall("some", stall=0.001, window=2)
"""What a process that hits its limit all the time leads to on either version."""


@pytest.fixture
def stalls() -> Iterator[Subscription[SystemStalled]]:
    """A subscription that little is needed for."""
    with memcg.system.subscribe(LITTLE) as stalls:
        yield stalls


def test_the_pressure_of_the_machine(group: memcg.Cgroup) -> None:
    """What processes had to wait in all grows while one waits; shares are percentages."""
    before = memcg.system.pressure
    assert 0 <= before.full.total <= before.some.total
    assert 0 <= before.some.avg10 <= 100
    with strained(group):
        wait_until(lambda: memcg.system.pressure.some.total > before.some.total, "a stall is counted")
    assert repr(memcg.system) == "memcg.system"


def test_a_stall_is_told_with_its_trigger(group: memcg.Cgroup, stalls: Subscription[SystemStalled]) -> None:
    """It arrives while it lasts, again and again, once in a window at most."""
    began = time.monotonic()
    with strained(group):
        first, second = stalls.wait(at_most(30)), stalls.wait(at_most(30))
    assert first is not None
    assert second is not None
    assert first.trigger == second.trigger == LITTLE
    assert began <= first.time
    assert first.time + 1 < second.time <= time.monotonic()


def test_several_triggers_on_one_subscription(group: memcg.Cgroup) -> None:
    """Each stall says which trigger it is of."""
    triggers = {LITTLE, Stall("some", stall=0.002, window=4)}
    with memcg.system.subscribe(*triggers, LITTLE) as stalls, strained(group):
        assert repr(stalls) == "<memcg.Subscription armed of the machine>"
        told: set[Stall] = set()
        while told != triggers:
            stall = stalls.wait(at_most(30))
            assert stall is not None
            told.add(stall.trigger)


@pytest.mark.anyio
async def test_a_stall_on_an_event_loop(group: memcg.Cgroup, stalls: Subscription[SystemStalled]) -> None:
    """asyncio and trio poll before memcg does, and the kernel forgets what a poll has found: it is told anyway."""
    with anyio.fail_after(at_most(30)), strained(group):
        assert (await stalls.next()).trigger == LITTLE


@pytest.mark.anyio
async def test_cancelling_loses_no_stall(group: memcg.Cgroup, stalls: Subscription[SystemStalled]) -> None:
    """A wait that is given up again and again, until one of them is in time, gives it all the same."""
    with anyio.fail_after(at_most(30)), strained(group):
        told: list[SystemStalled] = []
        while not told:
            with anyio.move_on_after(0.001):
                told.append(await stalls.next())


def test_the_file_stays_readable_until_the_stall_is_taken(
    group: memcg.Cgroup, stalls: Subscription[SystemStalled]
) -> None:
    """Whoever carries the file may look as often as they like."""
    with strained(group), selectors.DefaultSelector() as selector:
        selector.register(stalls, selectors.EVENT_READ)
        assert selector.select(at_most(30))
        for _ in range(3):
            assert selector.select(0)
            assert select.select([stalls], [], [], 0)[0]
        assert stalls.wait(0) is not None


def test_until_a_process_has_exited(group: memcg.Cgroup, stalls: Subscription[SystemStalled]) -> None:
    """until() works as with a group."""
    with strained(group) as worker:
        for stall in stalls.until(worker.process):
            assert stall.trigger == LITTLE
            worker.process.kill()
    assert list(stalls.until(worker.process)) == []


def test_closing_in_another_thread() -> None:
    """A thread that waits for stalls is woken, and a second close() does nothing."""
    with ThreadPoolExecutor(1) as pool, memcg.system.subscribe(Stall("full", stall=2, window=2)) as stalls:
        waiting = start_waiting(pool, lambda: list(stalls))
        stalls.close()
        assert waiting.result(timeout=30) == []


def test_a_forked_child_does_no_harm(group: memcg.Cgroup, stalls: Subscription[SystemStalled]) -> None:
    """A child cannot use it, and closing it there leaves the parent's as it is."""

    def use() -> None:
        with pytest.raises(memcg.ClosedError, match="forked from"):
            stalls.wait(0)
        stalls.close()

    in_child(use)
    with strained(group):
        assert stalls.wait(at_most(30)) is not None


def test_nothing_is_left_open() -> None:
    """Subscribing and closing, and being refused, leave no file."""
    before = set(os.listdir("/proc/self/fd"))
    memcg.system.subscribe(Stall("some", window=2), Stall("full", window=2)).close()
    with pytest.raises(memcg.InvalidTypeError):
        memcg.system.subscribe(Stall("some", window=2), memcg.Oom())  # type: ignore[arg-type]
    assert set(os.listdir("/proc/self/fd")) - before <= {str(fd) for fd in range(64) if is_bell(fd)}


def is_bell(fd: int) -> bool:
    """Whether it is the eventfd that wakes waiters, which stays open once it is there."""
    try:
        return "eventfd" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False


def test_only_stalls_are_told_of_the_machine() -> None:
    """Other triggers are of groups, and none at all is a mistake."""
    with pytest.raises(memcg.InvalidTypeError, match=r"Stall\(\) alone, not Oom\(\)"):
        memcg.system.subscribe(memcg.Oom())  # type: ignore[arg-type]
    with pytest.raises(memcg.InvalidValueError, match="say what to wait for"):
        memcg.system.subscribe()


def refused_window(window: float) -> str:
    """What is said of such a window; "" where it is taken."""
    try:
        memcg.system.subscribe(Stall("some", stall=0.1, window=window)).close()
    except memcg.InvalidValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("window", "nearest"), [(0.5, 2), (1, 2), (3, 4), (7.5, 8), (9.5, 10)])
def test_windows_without_privileges(window: float, nearest: int) -> None:
    """Whoever lacks CAP_SYS_RESOURCE is told so, and which window would do; that one does."""
    message = as_nobody(lambda: refused_window(window))
    assert "CAP_SYS_RESOURCE" in message
    assert f"window={nearest} would do" in message
    assert as_nobody(lambda: refused_window(nearest)) == ""


def test_windows_with_privileges() -> None:
    """With CAP_SYS_RESOURCE, any window from half a second up is taken, on every kernel."""
    if not has_any_window():
        pytest.skip("this process lacks CAP_SYS_RESOURCE")
    for window in (0.5, 1, 3.3, 10):
        assert refused_window(window) == ""
