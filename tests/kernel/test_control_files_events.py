"""cgroup.event_control: eventfds that the kernel adds to."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import CgroupV1, EventFD, MiB
from support.processes import Worker, finish, start_hog, wait_blocked
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def group(group_v1: CgroupV1) -> CgroupV1:
    """All of this is of cgroup v1."""
    return group_v1


@pytest.fixture
def event() -> Iterator[EventFD]:
    """An eventfd with nothing in it."""
    with EventFD() as event:
        yield event


def test_a_usage_threshold_signals_when_crossed_either_way(group: CgroupV1, event: EventFD) -> None:
    """usage_in_bytes with a size signals when usage rises past it, and when it falls below it again."""
    group.cgroup_event_control(event, CgroupV1.usage_in_bytes, str(8 * MiB))
    assert event.try_read() is None
    with Worker(group) as worker:
        assert worker.do("touch 2") == "done"
        assert event.try_read() is None
        assert worker.do("touch 14") == "done"
        assert event.read(timeout=30) == 1
        assert worker.do("free") == "done"
        assert event.read(timeout=30) == 1


def test_a_threshold_of_memory_with_swap(group: CgroupV1, event: EventFD) -> None:
    """memsw_usage_in_bytes takes a size in the same way."""
    if not CgroupV1.memsw_usage_in_bytes.exists(group):
        pytest.skip("this kernel does not account for swap")
    group.cgroup_event_control(event, CgroupV1.memsw_usage_in_bytes, "8M")
    assert finish(start_hog(group, 16)) == 0
    assert event.read(timeout=30) >= 1


@pytest.mark.parametrize(
    "arguments", ["low", "medium", "critical", "low,local", "low,hierarchy", "critical,default"]
)
def test_pressure_signals_when_reclaim_fails(group: CgroupV1, event: EventFD, arguments: str) -> None:
    """pressure_level with a level, and a mode where wanted, signals when the limit is hit."""
    group.cgroup_event_control(event, CgroupV1.pressure_level, arguments)
    assert event.try_read() is None
    assert finish(start_hog(group, 64)) == -9
    assert event.read(timeout=30) >= 1


def test_pressure_in_this_very_group_only(group: CgroupV1, event: EventFD) -> None:
    """In the mode "local", the pressure of a child's limit is not told to the parent; with "hierarchy" it is."""
    child = group.create("child", limit="16M")
    group.cgroup_event_control(event, CgroupV1.pressure_level, "low,local")
    with EventFD() as above:
        group.cgroup_event_control(above, group.pressure_level, "low,hierarchy")
        assert finish(start_hog(child, 24)) == -9
        assert above.read(timeout=30) >= 1
        assert event.try_read() is None


def test_oom_control_signals_an_oom(group: CgroupV1, event: EventFD) -> None:
    """oom_control takes no argument, and signals once where a process gets stuck."""
    group.oom.disable()
    group.cgroup_event_control(event, CgroupV1.oom_control)
    hog = start_hog(group, 64)
    wait_blocked(hog)
    assert event.read(timeout=30) == 1
    group.limit = 128 * MiB
    assert finish(hog) == 0


def test_removal_signals_too(group: CgroupV1, event: EventFD) -> None:
    """The removal of the group adds 1 to each registered eventfd."""
    with memcg.temporary(parent=group) as removed:
        assert isinstance(removed, CgroupV1)
        removed.cgroup_event_control(event, CgroupV1.usage_in_bytes, "8M")
    assert event.read(timeout=30) == 1


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (CgroupV1.stat, ""),
        (CgroupV1.limit_in_bytes, "8M"),
        (CgroupV1.cgroup_procs, ""),
        (CgroupV1.force_empty, ""),
        (CgroupV1.cgroup_event_control, ""),
        (CgroupV1.pressure_level, ""),
        (CgroupV1.pressure_level, "Low"),
        (CgroupV1.pressure_level, "low,"),
        (CgroupV1.pressure_level, "low,everywhere"),
        (CgroupV1.usage_in_bytes, "half"),
        (CgroupV1.usage_in_bytes, "1M 2M"),
    ],
)
def test_what_is_no_source_is_refused(
    group: CgroupV1, event: EventFD, source: memcg.ControlFile[object], arguments: str
) -> None:
    """A file that tells nothing, or an argument that its source does not take, is refused by the kernel."""
    with pytest.raises(memcg.KernelError, match="no source of events, or not with these arguments") as caught:
        group.cgroup_event_control(event, source, arguments)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == f"{group.path}/cgroup.event_control"


@pytest.mark.parametrize("source", [0, "memory.usage_in_bytes", None])
def test_a_source_is_a_control_file(group: CgroupV1, event: EventFD, source: memcg.ControlFile[object]) -> None:
    """The value or the name of a control file in its place is refused, with what is meant."""
    with pytest.raises(memcg.InvalidTypeError, match=r"such as CgroupV1\.oom_control"):
        group.cgroup_event_control(event, source, "8M")


@pytest.mark.parametrize("arguments", [8 * MiB, b"8M", None, "8M\n", "8M\0"])
def test_arguments_are_one_line_of_text(group: CgroupV1, event: EventFD, arguments: str) -> None:
    """Arguments that are no text, or end before their end, are refused and never reach the kernel."""
    with pytest.raises((memcg.InvalidTypeError, memcg.InvalidValueError)):
        group.cgroup_event_control(event, CgroupV1.usage_in_bytes, arguments)


@pytest.mark.parametrize("event", [3, None])
def test_what_is_signalled_is_an_eventfd(group: CgroupV1, event: EventFD) -> None:
    """A number in place of the EventFD is refused."""
    with pytest.raises(memcg.InvalidTypeError):
        group.cgroup_event_control(event, CgroupV1.oom_control)


def test_a_closed_eventfd_is_refused(group: CgroupV1, event: EventFD) -> None:
    """An eventfd that was closed cannot be registered, nor can whatever has its number now."""
    event.close()
    with pytest.raises(memcg.ClosedError):
        group.cgroup_event_control(event, CgroupV1.oom_control)


def test_a_missing_source_is_refused(group: CgroupV1, event: EventFD) -> None:
    """A source that this kernel lacks raises as reading it does, and nothing changes."""
    before = settings(group)
    with pytest.raises(memcg.ControlFileMissingError, match="oom_delay_millisecs"):
        group.cgroup_event_control(event, CgroupV1.oom_delay_millisecs)
    assert settings(group) == before
