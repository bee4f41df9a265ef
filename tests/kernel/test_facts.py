"""What the kernel does and few expect, and what memcg makes of it, as real processes in a real group feel it.

More of the kind is in test_limit.py and test_control_files_v1.py (rounding, "no limit", files that differ between
kernels), test_oom_origin.py (who is told), test_oom_blocked.py (who is freed) and test_oom_removal.py (a removal
signals like an OOM).
"""

from __future__ import annotations

import contextlib
import errno
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.events import bare_eventfd, kills
from support.processes import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def worker(group: memcg.Cgroup) -> Iterator[Worker]:
    """A process in the group that uses 24 MiB."""
    with Worker(group) as worker:
        assert worker.do("touch 20") == "done"
        yield worker


@pytest.mark.parametrize(
    "text", ["\n", "K", "", " ", "0x10", "010", "0x2000000", "-2", "99999999999999999999", "4095"]
)
def test_text_that_the_kernel_takes_for_a_tiny_limit(group: memcg.Cgroup, worker: Worker, text: str) -> None:
    """What the kernel would read as 0, or in another base, is refused, and the process there lives on."""
    with group.oom.subscribe() as events:
        for file in ["limit"] + (["limit_in_bytes"] if isinstance(group, memcg.CgroupV1) else ["max", "high"]):
            with pytest.raises(memcg.InvalidValueError):
                setattr(group, file, text)
        assert group.limit == 32 * MiB
        assert worker.do("touch 1") == "done"
        assert events.wait(0) is None


def test_a_limit_rounds_down_to_a_page(group: memcg.Cgroup) -> None:
    """The kernel's documentation says up; what is read back is what holds."""
    group.limit = 32 * MiB - 1
    assert group.limit == 32 * MiB - PAGESIZE


@pytest.mark.parametrize("pid", ["0x1", "01", "1", 0, -1, True])
def test_what_the_kernel_takes_for_another_process(group: memcg.Cgroup, pid: int) -> None:
    """cgroup.procs takes numbers in any base, and 0 for the writer: only a PID above 0 is let through."""
    init, own = memcg.of(1), memcg.current()
    with pytest.raises((memcg.InvalidTypeError, memcg.InvalidValueError), match="PID"):
        group.add(pid)
    assert group.processes() == ()
    assert memcg.of(1) == init
    assert memcg.current() == own


def test_a_system_call_fails_where_a_page_fault_would_block(group_v1: memcg.CgroupV1, worker: Worker) -> None:
    """With the killer off, a read(2) that needs memory beyond the limit falls short, and nothing is told."""
    group = group_v1
    group.oom.disable()
    with group.oom.subscribe() as events:
        got = int(worker.do("read 64"))
        assert 0 < got < 16 * MiB
        assert group.peak == 32 * MiB
        assert group.failcnt > 0
        assert events.wait(0.1) is None
        assert not group.oom.under_oom


def test_a_system_call_kills_where_the_killer_is_on(group: memcg.Cgroup, worker: Worker) -> None:
    """With the killer on, the same read(2) is an OOM like any other."""
    with group.oom.subscribe() as events:
        worker.order("read 64")
        told = list(events.until(worker.process))
        assert isinstance(told[0], memcg.OomEvent)
        assert kills(told) == group.oom.kills == 1
        assert worker.process.wait() == -9


def test_creating_a_group_below_may_kill(group_v1: memcg.CgroupV1, worker: Worker) -> None:
    """A new group needs memory of its parent: at the limit, it is made, or ENOMEM, and a kill for it is told."""
    group = group_v1
    with group.oom.subscribe() as events:
        group.limit = group.usage
        created = 0
        for number in range(20):
            with contextlib.suppress(memcg.KernelError):
                group.create(f"child{number}")
                created += 1
        assert len(group.children()) == created
        worker.process.kill()
        assert kills(events.until(worker.process)) == group.oom.kills


def test_lowering_a_limit_below_what_is_used(group: memcg.Cgroup, worker: Worker) -> None:
    """It is refused, nobody is killed or told, and what was in force stays so."""
    with group.oom.subscribe() as events:
        for limit in (16 * MiB, "8M", PAGESIZE):
            with pytest.raises(memcg.LimitBelowUsageError, match="former limit stays") as caught:
                group.limit = limit
            assert caught.value.errno == errno.EBUSY
            assert caught.value.filename in (f"{group.path}/memory.limit_in_bytes", f"{group.path}/memory.max")
        assert group.limit == 32 * MiB
        assert worker.do("touch 1") == "done"
        worker.process.kill()
        assert list(events.until(worker.process)) == []
        assert group.oom.kills == 0


def test_the_counter_of_signals_is_no_counter_of_kills(group_v1: memcg.CgroupV1) -> None:
    """The bare eventfd counts far more signals than there are kills; what memcg tells is what oom_kill says."""
    group = group_v1
    with bare_eventfd(group) as bare, Worker(group) as worker, group.oom.subscribe() as events:
        assert worker.do("hogs 8 64").split() == ["-9"] * 8
        worker.process.kill()
        told = list(events.until(worker.process))
        assert bare.read(0) >= 8
        assert kills(told) == group.oom_control.oom_kill == 8
