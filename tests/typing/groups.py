"""What type checkers see of groups and their control files. Checked by mypy, never run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from typing_extensions import assert_type

import memcg
from memcg import (
    Cgroup,
    CgroupEvents,
    CgroupStat,
    CgroupStatLocal,
    CgroupV1,
    CgroupV2,
    CpuPressure,
    IrqPressure,
    MemoryEvents,
    MemoryStat,
    MemoryStatV1,
    MemoryStatV2,
    NumaStatV1,
    NumaStatV2,
    OomController,
    OomControlV1,
    Peak,
    Pressure,
    PressureLine,
    SwapEvents,
)


def finding() -> None:
    """Groups that are found may be of either version; isinstance and match narrow."""
    assert_type(memcg.root(), Cgroup)
    assert_type(memcg.current(), Cgroup)
    assert_type(memcg.of(1), Cgroup)
    assert_type(memcg.open("/jobs"), Cgroup)
    assert_type(memcg.open(Path("/jobs")), Cgroup)
    with memcg.temporary(limit="512M") as group:
        assert_type(group, Cgroup)
    with memcg.temporary(limit=None, parent=group, name="a") as group:
        assert_type(group, Cgroup)
    if isinstance(group, CgroupV1):
        assert_type(group, CgroupV1)
        assert_type(group.stat, MemoryStatV1)
    match memcg.root():
        case CgroupV1() as v1:
            assert_type(v1, CgroupV1)
        case CgroupV2() as v2:
            assert_type(v2, CgroupV2)
            assert_type(v2.stat, MemoryStatV2)


def portable(group: Cgroup) -> None:
    """The words that mean the same on both versions."""
    assert_type(group.usage, int)
    assert_type(group.limit, int | None)
    assert_type(group.peak, int)
    assert_type(group.stat, MemoryStat)
    assert_type(group.stat.anon, int)
    assert_type(group.pressure, Pressure)
    assert_type(group.pressure.some, PressureLine)
    assert_type(group.pressure.full.avg10, float)
    assert_type(group.reclaim("64M"), bool)
    assert_type(group.populated, bool)
    group.kill()
    group.kill(timeout=None)
    group.freeze(timeout=1)
    group.thaw()
    assert_type(group.processes(), tuple[int, ...])
    assert_type(group.path, Path)
    assert_type(group.name, str)
    assert_type(group.cgroup_path, str)
    assert_type(group.exists, bool)
    assert_type(group.oom, OomController)
    assert_type(group.oom.killer_enabled, bool)
    assert_type(group.oom.kills, int)
    group.limit = "512M"
    group.limit = 1 << 30
    group.limit = None


def what_is_reached_is_of_the_same_class(group: Cgroup, v1: CgroupV1, v2: CgroupV2) -> None:
    """From a CgroupV1 one gets to CgroupV1, from a CgroupV2 to CgroupV2, from a Cgroup to Cgroup."""
    assert_type(group / "x", Cgroup)
    assert_type(group.parent, Cgroup | None)
    assert_type(group.children(), tuple[Cgroup, ...])
    assert_type(v1 / "x" / "y", CgroupV1)
    assert_type(v1.parent, CgroupV1 | None)
    assert_type(v1.children(), tuple[CgroupV1, ...])
    assert_type(v1.walk(), Iterator[CgroupV1])
    assert_type(v1.create("x", limit="1G"), CgroupV1)
    assert_type(v1.create("x").create("y").limit_in_bytes, int | None)
    assert_type(v2 / "x" / "y", CgroupV2)
    assert_type(v2.parent, CgroupV2 | None)
    assert_type(v2.children(), tuple[CgroupV2, ...])
    assert_type(v2.walk(), Iterator[CgroupV2])
    assert_type(v2.create("x", limit="1G"), CgroupV2)


def control_files_of_a_group(v1: CgroupV1) -> None:
    """On a group, a control file is its value."""
    assert_type(v1.limit_in_bytes, int | None)
    assert_type(v1.soft_limit_in_bytes, int | None)
    assert_type(v1.memsw_limit_in_bytes, int | None)
    assert_type(v1.kmem_limit_in_bytes, int | None)
    assert_type(v1.kmem_tcp_limit_in_bytes, int | None)
    assert_type(v1.usage_in_bytes, int)
    assert_type(v1.max_usage_in_bytes, int)
    assert_type(v1.failcnt, int)
    assert_type(v1.swappiness, int)
    assert_type(v1.stat, MemoryStatV1)
    assert_type(v1.stat.cache, int)
    assert_type(v1.stat.swap, int | None)
    assert_type(v1.stat.hierarchical_memory_limit, int | None)
    assert_type(v1.numa_stat, NumaStatV1)
    assert_type(v1.numa_stat.total[None], int)
    assert_type(v1.oom_control, OomControlV1)
    assert_type(v1.oom_control.under_oom, bool)
    assert_type(v1.oom_control.oom_kill, int | None)
    assert_type(v1.use_hierarchy, bool)
    assert_type(v1.cgroup_procs, tuple[int, ...])
    assert_type(v1.tasks, tuple[int, ...])
    assert_type(v1.release_agent, str)
    assert_type(v1.kmem_slabinfo, str)


def control_files_of_a_v2_group(v2: CgroupV2) -> None:
    """The same of cgroup v2."""
    assert_type(v2.current, int)
    assert_type(v2.peak, int)
    assert_type(v2.min, int | None)
    assert_type(v2.low, int | None)
    assert_type(v2.high, int | None)
    assert_type(v2.max, int | None)
    assert_type(v2.stat, MemoryStatV2)
    assert_type(v2.stat.anon, int)
    assert_type(v2.stat.swapcached, int | None)
    assert_type(v2.numa_stat, NumaStatV2)
    assert_type(v2.numa_stat.anon[0], int)
    assert_type(v2.events, MemoryEvents)
    assert_type(v2.events.oom_kill, int | None)
    assert_type(v2.events_local, MemoryEvents)
    assert_type(v2.oom_group, bool)
    assert_type(v2.swap_current, int)
    assert_type(v2.swap_peak, int)
    assert_type(v2.swap_high, int | None)
    assert_type(v2.swap_max, int | None)
    assert_type(v2.swap_events, SwapEvents)
    assert_type(v2.zswap_current, int)
    assert_type(v2.zswap_max, int | None)
    assert_type(v2.zswap_writeback, bool)
    assert_type(v2.cgroup_type, str)
    assert_type(v2.cgroup_procs, tuple[int, ...])
    assert_type(v2.cgroup_threads, tuple[int, ...])
    assert_type(v2.cgroup_controllers, tuple[str, ...])
    assert_type(v2.cgroup_subtree_control, tuple[str, ...])
    assert_type(v2.cgroup_events, CgroupEvents)
    assert_type(v2.cgroup_events.frozen, bool | None)
    assert_type(v2.cgroup_freeze, bool)
    assert_type(v2.cgroup_stat, CgroupStat)
    assert_type(v2.cgroup_stat_local, CgroupStatLocal)
    assert_type(v2.cgroup_max_depth, int | None)
    assert_type(v2.cgroup_max_descendants, int | None)
    assert_type(v2.cgroup_pressure, bool)
    assert_type(v2.pressure, Pressure)
    assert_type(v2.cpu_pressure, CpuPressure)
    assert_type(v2.cpu_pressure.full, PressureLine | None)
    assert_type(v2.io_pressure, Pressure)
    assert_type(v2.irq_pressure, IrqPressure)


def control_files_of_the_class() -> None:
    """On the class, a control file is itself."""
    assert_type(CgroupV1.limit_in_bytes, memcg.LimitFile)
    assert_type(CgroupV1.usage_in_bytes, memcg.ControlFile[int])
    assert_type(CgroupV1.stat, memcg.ControlFile[MemoryStatV1])
    assert_type(CgroupV1.oom_control, memcg.WritableControlFile[OomControlV1, bool])
    assert_type(CgroupV1.force_empty, memcg.CommandFile)
    assert_type(CgroupV1.pressure_level, memcg.EventSource)
    assert_type(CgroupV1.cgroup_event_control, memcg.EventControlFile)
    assert_type(CgroupV2.max, memcg.LimitFile)
    assert_type(CgroupV2.current, memcg.ControlFile[int])
    assert_type(CgroupV2.stat, memcg.ControlFile[MemoryStatV2])
    assert_type(CgroupV2.reclaim, memcg.ReclaimFile)
    assert_type(CgroupV2.cgroup_kill, memcg.CommandFile)
    assert_type(CgroupV2.oom_group, memcg.WritableControlFile[bool, bool])
    assert_type(CgroupV1.limit_in_bytes.name, str)
    assert_type(CgroupV1.limit_in_bytes.since, str)
    assert_type(CgroupV1.limit_in_bytes.unit, str)


def control_files_with_a_group(v1: CgroupV1) -> None:
    """A control file of the class can be asked about any group."""
    assert_type(CgroupV1.memsw_limit_in_bytes.exists(v1), bool)
    assert_type(CgroupV1.limit_in_bytes.read(v1), int | None)
    assert_type(CgroupV1.stat.read(v1), MemoryStatV1)


def assigning(v1: CgroupV1, v2: CgroupV2) -> None:
    """What a control file takes can be wider than what it gives."""
    v1.limit_in_bytes = "512M"
    v1.limit_in_bytes = 1 << 29
    v1.limit_in_bytes = None
    v1.oom_control = True
    v1.swappiness = 60
    v1.use_hierarchy = True
    v1.release_agent = "/sbin/agent"
    v2.max = "512M"
    v2.high = None
    v2.low = 1 << 20
    v2.oom_group = True
    v2.cgroup_type = "threaded"
    v2.cgroup_max_depth = None
    v2.cgroup_subtree_control = "+memory -pids"
    v2.cgroup_subtree_control = ["+memory", "-pids"]


def methods_of_v2(v2: CgroupV2) -> None:
    """The same of cgroup v2, and marks of one's own."""
    assert_type(v2.cgroup_kill, Callable[[], None])
    assert_type(v2.reclaim(1 << 20), bool)
    v2.reclaim("64M", swappiness=0)
    v2.reclaim("64M", swappiness="max")
    with v2.measure_peak() as peak:
        assert_type(peak, Peak)
        assert_type(peak.value, int)
        peak.reset()
    assert_type(v2.measure_swap_peak(), Peak)


def methods(v1: CgroupV1, event: memcg.EventFD, counter: memcg.Counter) -> None:
    """Files that are not read are methods."""
    assert_type(v1.force_empty, Callable[[], None])
    v1.force_empty()
    v1.cgroup_event_control(event, CgroupV1.oom_control)
    v1.cgroup_event_control(event, CgroupV1.usage_in_bytes, "64000000")
    v1.cgroup_event_control(event, CgroupV1.pressure_level, "low,local")
    v1.reset_failcnt()
    v1.reset_failcnt("memsw")
    v1.reset_max_usage(counter)
    assert_type(counter, Literal["memory", "memsw", "kmem", "kmem.tcp"])
