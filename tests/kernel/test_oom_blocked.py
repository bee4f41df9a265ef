"""With the killer off, on cgroup v1: what frees a process that is stopped by an OOM, and what does not."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.events import kills, kinds, origins, settle
from support.processes import Worker, finish, is_blocked, start_hog, state, wait_blocked, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """All of this is of cgroup v1."""
    return group_v1


@dataclass
class Stuck:
    """A group of 32 MiB whose killer is off and whose one process wants 64 MiB; the OOM has been told."""

    group: memcg.CgroupV1
    worker: Worker
    events: memcg.Subscription

    def stays(self) -> None:
        """Proves that the process is blocked as before, and that nothing was told.

        A process that was woken in vain would be told as another OOM."""
        assert self.events.wait(0.1) is None
        assert is_blocked(self.worker.pid)
        assert self.group.oom.under_oom
        assert self.group.oom.kills == 0

    def goes_on(self) -> None:
        """Proves that the process got its memory, and that nothing was told."""
        assert self.worker.answer() == "done"
        assert self.events.wait(0) is None
        assert not self.group.oom.under_oom
        assert self.group.oom.kills == 0


@pytest.fixture
def stuck(group: memcg.CgroupV1) -> Iterator[Stuck]:
    """A group that is out of memory."""
    group.oom.disable()
    with Worker(group) as worker, group.oom.subscribe() as events:
        worker.order("touch 64")
        event = events.wait(30)
        assert isinstance(event, memcg.OomEvent)
        wait_blocked(worker)
        settle(events)
        yield Stuck(group, worker, events)


def test_raising_the_limit_frees_it(stuck: Stuck) -> None:
    """With room for all that it wants, the process goes on."""
    stuck.group.limit = 128 * MiB
    stuck.goes_on()


def test_no_limit_frees_it(stuck: Stuck) -> None:
    """Taking the limit away is raising it."""
    stuck.group.limit = None
    stuck.goes_on()


def test_raising_the_limit_too_little_is_one_more_oom(stuck: Stuck) -> None:
    """The process uses what it got and blocks again, which is told once."""
    stuck.group.limit = 33 * MiB
    assert isinstance(stuck.events.wait(30), memcg.OomEvent)
    wait_blocked(stuck.worker)
    assert stuck.group.usage == 33 * MiB
    stuck.stays()


def test_writing_what_is_there_already_changes_nothing(stuck: Stuck) -> None:
    """The same limit, or a killer switched off again, wakes nobody and is told to nobody."""
    stuck.group.limit = stuck.group.limit
    stuck.group.limit_in_bytes = 32 * MiB
    stuck.group.oom.disable()
    stuck.stays()


def test_switching_the_killer_on_kills(stuck: Stuck) -> None:
    """The process tries again, the kernel kills it: one more OomEvent, and one KernelKill."""
    stuck.group.oom.enable()
    told = list(stuck.events.until(stuck.worker.process))
    assert kinds(told) == [memcg.OomEvent, memcg.KernelKill]
    assert kills(told) == stuck.group.oom.kills == 1
    assert stuck.worker.process.wait() == -signal.SIGKILL


def test_memory_that_another_process_gives_back_frees_it(group: memcg.CgroupV1) -> None:
    """Room made by someone else in the group is enough."""
    group.oom.disable()
    with Worker(group) as other, Worker(group) as worker, group.oom.subscribe() as events:
        assert [other.do(order) for order in ("touch 1", "free", "touch 20")] == ["done"] * 3
        worker.order("touch 20")
        assert isinstance(events.wait(30), memcg.OomEvent)
        wait_blocked(worker)
        assert other.do("free") == "done"
        # It may have blocked again on the way, as memory comes back bit by bit.
        assert worker.answer() == "done"
        assert not group.oom.under_oom
    assert group.oom.kills == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_frees_another(group: memcg.CgroupV1, number: signal.Signals) -> None:
    """The memory of a process that was ended by a signal goes to who waits for it."""
    group.oom.disable()
    with Worker(group) as other, Worker(group) as worker, group.oom.subscribe() as events:
        assert other.do("touch 20") == "done"
        worker.order("touch 20")
        assert isinstance(events.wait(30), memcg.OomEvent)
        wait_blocked(worker)
        other.process.send_signal(number)
        assert other.process.wait() == -number
        assert worker.answer() == "done"
        assert not group.oom.under_oom
    assert group.oom.kills == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
def test_a_fatal_signal_ends_it(stuck: Stuck, number: signal.Signals) -> None:
    """A blocked process can be ended from outside, by any signal whose default is to end it."""
    stuck.worker.process.send_signal(number)
    assert stuck.worker.process.wait(timeout=30) == -number
    assert list(stuck.events.until(stuck.worker.process)) == []
    assert not stuck.group.oom.under_oom
    assert stuck.group.oom.kills == 0


def test_one_of_two_that_is_killed_frees_the_other(group: memcg.CgroupV1) -> None:
    """Two processes stopped by one OOM are told once; ending one lets the other go on."""
    group.oom.disable()
    with Worker(group) as first, Worker(group) as second, group.oom.subscribe() as events:
        for worker in (first, second):
            assert worker.do("map 24") == "done"  # mmap(2) itself would fail for want of memory
        for worker in (first, second):
            worker.order("touch")
        assert isinstance(events.wait(30), memcg.OomEvent)
        wait_blocked(first)
        wait_blocked(second)
        first.process.kill()
        assert first.process.wait() == -signal.SIGKILL
        assert second.answer() == "done"
        assert kills(events.until(first.process)) == 0


def test_a_handled_signal_waits_until_it_is_free(stuck: Stuck) -> None:
    """A signal that has a handler is delivered only once there is memory again."""
    stuck.worker.process.send_signal(signal.SIGUSR1)
    stuck.stays()
    stuck.group.limit = None
    assert stuck.worker.answer() == "signalled"
    stuck.goes_on()


def test_sigstop_waits_until_it_is_free(stuck: Stuck) -> None:
    """SIGSTOP does not turn a blocked process into a stopped one; it does once there is memory."""
    stuck.worker.process.send_signal(signal.SIGSTOP)
    stuck.stays()
    stuck.group.limit = None
    wait_until(lambda: state(stuck.worker.pid) == "T", "the process is stopped")
    assert stuck.group.usage < 33 * MiB
    stuck.worker.process.send_signal(signal.SIGCONT)
    stuck.goes_on()


def test_moving_it_away_does_not_free_it(stuck: Stuck, nursery: memcg.Cgroup) -> None:
    """It waits for the group that it came from; one page more there, and it goes on, charged to the new one."""
    with memcg.temporary(parent=nursery) as other:
        other.add(stuck.worker.pid)
        assert stuck.worker.pid in other.processes()
        assert stuck.worker.pid not in stuck.group.processes()
        stuck.stays()
        stuck.group.limit = 32 * MiB + PAGESIZE
        stuck.goes_on()
        assert other.usage > 16 * MiB
        assert stuck.group.usage <= 32 * MiB + PAGESIZE


def test_the_group_cannot_be_removed(stuck: Stuck) -> None:
    """A blocked process keeps its group in use, and the error names it."""
    with pytest.raises(memcg.CgroupBusyError, match=f"process {stuck.worker.pid}"):
        stuck.group.remove()
    stuck.stays()


def test_lowering_the_limit_is_refused(stuck: Stuck) -> None:
    """What blocked processes hold cannot be reclaimed: the limit stays, and nobody is killed or told."""
    with pytest.raises(memcg.LimitBelowUsageError, match="former limit stays"):
        stuck.group.limit = 16 * MiB
    assert stuck.group.limit == 32 * MiB
    stuck.stays()


def test_no_child_can_be_created(stuck: Stuck) -> None:
    """A new group needs memory of its parent: ENOMEM, with the reason, and nothing is left half made."""
    with pytest.raises(memcg.KernelError, match="parent cgroup, is at its limit") as caught:
        stuck.group.create("child")
    assert caught.value.errno == errno.ENOMEM
    assert stuck.group.children() == ()
    stuck.stays()


def test_who_joins_blocks_too(stuck: Stuck, nursery: memcg.Cgroup) -> None:
    """A process may join a stuck group; it is stopped at its next page, without another OOM being told."""
    with Worker(nursery) as other:
        assert other.do("map 16") == "done"
        stuck.group.add(other.pid)
        assert other.pid in stuck.group.processes()
        other.order("touch")
        wait_blocked(other)
        stuck.stays()
        stuck.group.limit = None
        assert other.answer() == "done"
        stuck.goes_on()


def test_the_switch_of_a_group_below_only_wakes(group: memcg.CgroupV1) -> None:
    """The switch of the group over its limit decides: a child's wakes who waits, in vain, which is told once."""
    group.oom.disable()
    child = group.create("child")
    with Worker(child) as worker, group.oom.subscribe() as events:
        worker.order("touch 64")
        assert isinstance(events.wait(30), memcg.OomEvent)
        settle(events)
        child.oom.enable()
        event = events.wait(30)
        assert origins(filter(None, [event])) == [group]
        wait_blocked(worker)
        Stuck(group, worker, events).stays()
        group.limit = None
        Stuck(group, worker, events).goes_on()


def test_the_killer_of_a_child_does_not_act_for_its_parent(group: memcg.CgroupV1) -> None:
    """With the parent's killer on, a process over the parent's limit dies, whatever its own group's switch."""
    child = group.create("child")
    child.oom.disable()
    hog = start_hog(child, 64)
    assert finish(hog) == -signal.SIGKILL
    assert child.oom.kills == group.oom.kills == 1


def test_the_switch_of_the_parent_does_not_act_for_its_child(group: memcg.CgroupV1) -> None:
    """With the child's killer on, a process over the child's limit dies, whatever the parent's switch."""
    child = group.create("child", limit=8 * MiB)
    group.oom.disable()
    hog = start_hog(child, 16)
    assert finish(hog) == -signal.SIGKILL
    assert child.oom.kills == group.oom.kills == 1
