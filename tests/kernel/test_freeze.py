"""freeze() and thaw(), which cgroup v2 has for every group."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.forked import in_child
from support.processes import Worker, finish, sleeps_in, start_hog, wait_until
from support.scripts import say, start_python

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = ["/bin/sleep", "60"]
BUSY = "print('here', flush=True)\nwhile True: pass\n"


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> Iterator[memcg.CgroupV2]:
    """A group of cgroup v2."""
    yield group_v2
    group_v2.thaw()


def is_frozen(pid: int) -> bool:
    """Whether the process sleeps where the freezer puts it."""
    return sleeps_in(f"/proc/{pid}", "do_freezer_trap") or sleeps_in(f"/proc/{pid}", "get_signal")


def cpu_time(pid: int) -> int:
    """What the process has used of the CPU, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_all_that_is_below_stops_and_goes_on(group: memcg.CgroupV2) -> None:
    """When freeze() returns, no process there runs any more; after thaw(), they run on from where they were."""
    processes = [start_python(group.create(name).create("below"), BUSY) for name in "ab"]
    assert [say(process) for process in processes] == ["here"] * 2
    group.freeze()
    assert group.cgroup_events.frozen is True
    assert (group / "a" / "below").cgroup_events.frozen is True
    used = [cpu_time(process.pid) for process in processes]
    assert [is_frozen(process.pid) for process in processes] == [True] * 2
    assert [cpu_time(process.pid) for process in processes] == used
    group.thaw()
    assert group.cgroup_freeze is False
    for process, before in zip(processes, used, strict=True):
        wait_until(lambda process=process, before=before: cpu_time(process.pid) > before, "it runs again")  # type: ignore[misc]
    group.kill()
    for process in processes:
        assert finish(process) == -9


def test_who_joins_a_frozen_group_stops_too(group: memcg.CgroupV2) -> None:
    """An empty group can be frozen; a process that is moved into it stops, and one moved out runs."""
    frozen, free = group.create("frozen"), group.create("free")
    frozen.freeze(timeout=0)
    process = start_python(free, BUSY)
    assert say(process) == "here"
    frozen.add(process.pid)
    wait_until(lambda: is_frozen(process.pid), "it is frozen")
    free.add(process.pid)
    wait_until(lambda: not is_frozen(process.pid), "it runs again")
    free.kill()
    assert finish(process) == -9


def test_starting_in_a_frozen_group_waits_for_the_thaw(group: memcg.CgroupV2) -> None:
    """popen() in a frozen group returns when that is thawed, with the child running."""
    group.freeze()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(group.popen, SLEEP)
        wait_until(lambda: bool(group.processes()), "the child has joined")
        (pid,) = group.processes()
        wait_until(lambda: is_frozen(pid), "the child is frozen")
        assert not starting.done()
        group.thaw()
        with starting.result(timeout=60) as process:
            assert process.pid == pid
            process.kill()


def test_a_second_freeze_changes_nothing(group: memcg.CgroupV2) -> None:
    """freeze() of a frozen group returns at once, and thaw() of one that is not, too."""
    with group.popen(SLEEP) as process:
        for _ in range(2):
            group.freeze()
            assert is_frozen(process.pid)
        for _ in range(2):
            group.thaw()
        wait_until(lambda: not is_frozen(process.pid), "it runs again")
        process.kill()


def test_a_group_below_a_frozen_one_stays_frozen(group: memcg.CgroupV2) -> None:
    """thaw() of a group below a frozen one takes effect once that is thawed."""
    child = group.create("child")
    with child.popen(SLEEP) as process:
        group.freeze()
        child.thaw()
        assert child.cgroup_events.frozen is True
        assert is_frozen(process.pid)
        group.thaw()
        wait_until(lambda: not is_frozen(process.pid), "it runs again")
        process.kill()


def try_to_freeze_a_throttled(group: memcg.CgroupV2) -> tuple[str, int]:
    """What freeze() says, with little time, of a process that sleeps in the kernel's throttle; and its PID."""
    for _ in range(20):
        group.high = 4 * MiB
        with Worker(group) as worker:
            worker.order("touch 16")
            wait_until(lambda: sleeps_in(f"/proc/{worker.pid}", "over_high"), "it is throttled")
            try:
                group.freeze(timeout=0.02)
            except memcg.WaitTimeoutError as error:
                return str(error), worker.pid
            finally:
                group.high = None
    pytest.fail("twenty times, a throttled process was frozen within 20 ms")


def test_who_is_not_frozen_in_time_is_named_and_all_are_thawed(group: memcg.CgroupV2) -> None:
    """A process that sleeps in the kernel does not freeze: the error says who, and where; the group runs on."""
    told, pid = try_to_freeze_a_throttled(group)
    assert re.search(rf"{pid} \(\S+\) in state \S at \S*over_high", told), told
    assert str(group.path) in told
    assert group.cgroup_freeze is False


def test_what_was_told_to_freeze_before_stays_so(group: memcg.CgroupV2) -> None:
    """Where somebody had told the group to freeze already, giving up does not thaw it."""
    for _ in range(20):
        group.high = 4 * MiB
        with Worker(group) as worker:
            worker.order("touch 16")
            wait_until(lambda: sleeps_in(f"/proc/{worker.pid}", "over_high"), "it is throttled")
            group.cgroup_freeze = True
            try:
                group.freeze(timeout=0.02)
            except memcg.WaitTimeoutError:
                assert group.cgroup_freeze is True
                return
            finally:
                group.high = None
                group.thaw()
    pytest.fail("twenty times, a throttled process was frozen within 20 ms")


def test_it_refuses_to_freeze_the_caller(group: memcg.CgroupV2) -> None:
    """From inside the group, freeze() is refused: nobody would be left to thaw it."""

    def try_it() -> bool:
        group.add(os.getpid())
        with pytest.raises(memcg.CgroupBusyError, match="this very process"):
            group.freeze()
        return group.cgroup_freeze

    assert in_child(try_it) is False


def test_a_frozen_group_is_cleaned_up(group: memcg.CgroupV2) -> None:
    """temporary() takes a frozen group, with frozen groups below, away as any other."""
    with memcg.temporary(parent=group) as inner:
        processes = [inner.create(name).popen(SLEEP) for name in "ab"]
        (inner / "a").freeze()
        inner.freeze()
    assert not inner.exists
    for process in processes:
        with process:
            assert process.wait(timeout=60) == -9


def test_memory_that_is_frozen_can_be_looked_at(group: memcg.CgroupV2) -> None:
    """A frozen process keeps its memory, and everything can be read of it and its group."""
    hog = start_hog(group, 16, stay=True)
    assert say(hog) == "done"
    group.freeze()
    assert group.usage >= 16 * MiB
    assert group.processes() == (hog.pid,)
    assert Path(f"/proc/{hog.pid}/cmdline").read_bytes()
    group.thaw()
    assert finish(hog) == 0


def test_v1_has_no_freezer_here(group_v1: memcg.CgroupV1) -> None:
    """The memory hierarchy of v1 cannot freeze, and says so."""
    for word in (group_v1.freeze, group_v1.thaw):
        with pytest.raises(memcg.NotSupportedError, match="freezer is a hierarchy of its own"):
            word()


def test_v1_has_no_pressure_and_no_reclaim_by_size(group_v1: memcg.CgroupV1) -> None:
    """What v1 cannot tell or do names what there is instead."""
    with pytest.raises(memcg.NotSupportedError, match=r"/proc/pressure/memory"):
        _ = group_v1.pressure
    with pytest.raises(memcg.NotSupportedError, match=r"force_empty\(\)"):
        group_v1.reclaim("1M")
