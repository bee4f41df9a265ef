"""Every control file of a cgroup v2 directory that concerns memory, and those of the cgroup core.

The names are the kernel's, without ``memory.`` and with underscores for dots; core files keep their prefix. Files
are listed as in Documentation/admin-guide/cgroup-v2.rst; ``since`` is the Linux version that brought each.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

from ..cgroupfs.files import CommandFile, ControlFile, LimitFile, ReclaimFile, WritableControlFile
from ..cgroupfs.formats import (
    format_controllers,
    format_count,
    format_flag,
    parse_bytes,
    parse_count,
    parse_flag,
    parse_lines,
    parse_text,
    parse_words,
)
from ..errors import InvalidValueError, shown
from .pressure import CpuPressure, IrqPressure, Pressure
from .stat_v2 import (
    CgroupEvents,
    CgroupStat,
    CgroupStatLocal,
    MemoryEvents,
    MemoryStatV2,
    NumaStatV2,
    SwapEvents,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_THREADED = {errno.EOPNOTSUPP: "the group is threaded (cgroup.type): ask the first one above that is not"}


def _format_type(value: str) -> bytes:
    if value != "threaded":
        raise InvalidValueError(f"a cgroup can only be made 'threaded', not {shown(value)}")
    return b"threaded"


class ControlFilesV2:
    """The control files, as attributes; the base of `CgroupV2`.

    The root of the hierarchy has ``stat``, ``numa_stat``, ``reclaim``, the pressure files and some of the core.
    Other groups have the files of ``memory.`` where their parent enables the controller, which `Cgroup.create`
    sees to; ``pressure`` is always there.
    """

    __slots__ = ()

    # Memory: what is used, and how much may be.

    current: ControlFile[int] = ControlFile("memory.current", parse_bytes, since="4.5", unit="bytes", often=True)
    """Memory that is charged to the group and those below, up to 64 pages per CPU ahead of what they use."""
    peak: ControlFile[int] = ControlFile("memory.peak", parse_bytes, since="5.19", unit="bytes")
    """The most that ``current`` has been; see `CgroupV2.measure_peak`."""
    min: LimitFile = LimitFile("memory.min", since="4.18", version=2)
    """Usage up to this is never reclaimed."""
    low: LimitFile = LimitFile("memory.low", since="4.5", version=2)
    """Usage up to this is reclaimed only where nothing else can be."""
    high: LimitFile = LimitFile("memory.high", since="4.5", version=2, often=True)
    """Above this, processes are throttled and have to reclaim, and nothing is killed; None is no limit.

    Lowering it below ``current`` reclaims at once, and takes as long as that takes.
    """
    max: LimitFile = LimitFile("memory.max", since="4.5", version=2, often=True)
    """The most that ``current`` may be; None is no limit.

    Lowering it below what cannot be reclaimed **kills processes**, often more than needed; lowering
    `Cgroup.limit` does not.
    """
    stat: ControlFile[MemoryStatV2] = ControlFile("memory.stat", MemoryStatV2.parse, since="4.5", often=True)
    """What the memory is used for, in bytes, and counts of events."""
    numa_stat: ControlFile[NumaStatV2] = ControlFile(
        "memory.numa_stat", NumaStatV2.parse, since="5.10", unit="bytes"
    )
    """Bytes on each NUMA node."""
    reclaim: ReclaimFile = ReclaimFile("memory.reclaim", since="5.19")
    """A method that reclaims a number of bytes, and returns whether it got as many."""
    pressure: ControlFile[Pressure] = ControlFile("memory.pressure", Pressure.parse, since="4.20", often=True)
    """How long processes had to wait for memory."""

    # Out of memory.

    events: ControlFile[MemoryEvents] = ControlFile(
        "memory.events", MemoryEvents.parse, since="4.5", unit="count", often=True
    )
    """How often limits were hit and processes killed, in the group and those below.

    Where cgroup2 is mounted with ``memory_localevents``, only in the group itself.
    """
    events_local: ControlFile[MemoryEvents] = ControlFile(
        "memory.events.local", MemoryEvents.parse, since="5.2", unit="count", often=True
    )
    """The same of this very group."""
    oom_group: WritableControlFile[bool, bool] = WritableControlFile(
        "memory.oom.group", parse_flag, format_flag, since="4.19"
    )
    """Whether the OOM killer kills all processes of the group and those below, or one."""

    # Swap; only where swap is accounted for.

    swap_current: ControlFile[int] = ControlFile(
        "memory.swap.current", parse_bytes, since="4.5", unit="bytes", often=True
    )
    """Swap that is used, which is not part of ``current``."""
    swap_peak: ControlFile[int] = ControlFile("memory.swap.peak", parse_bytes, since="6.5", unit="bytes")
    """The most that ``swap_current`` has been; see `CgroupV2.measure_swap_peak`."""
    swap_high: LimitFile = LimitFile("memory.swap.high", since="5.8", version=2)
    """Above this, processes are throttled."""
    swap_max: LimitFile = LimitFile("memory.swap.max", since="4.5", version=2)
    """The most that ``swap_current`` may become; 0 is no swap at all, None no limit."""
    swap_events: ControlFile[SwapEvents] = ControlFile(
        "memory.swap.events", SwapEvents.parse, since="4.18", unit="count", often=True
    )
    """How often limits on swap were hit."""
    zswap_current: ControlFile[int] = ControlFile(
        "memory.zswap.current", parse_bytes, since="5.19", unit="bytes", often=True
    )
    """Memory that is used for compressed swap."""
    zswap_max: LimitFile = LimitFile("memory.zswap.max", since="5.19", version=2)
    """The most that ``zswap_current`` may be; 0 is no zswap, None no limit."""
    zswap_writeback: WritableControlFile[bool, bool] = WritableControlFile(
        "memory.zswap.writeback", parse_flag, format_flag, since="6.8"
    )
    """Whether zswap may write to the swap device what it cannot keep."""

    # The cgroup core.

    cgroup_type: WritableControlFile[str, Literal["threaded"]] = WritableControlFile(
        "cgroup.type", parse_text, _format_type, since="4.14"
    )
    """``"domain"``, ``"domain threaded"``, ``"domain invalid"`` or ``"threaded"``; not in the root.

    Only the last can be assigned; it takes the memory files away.
    """
    cgroup_procs: ControlFile[tuple[int, ...]] = ControlFile(
        "cgroup.procs", parse_lines, since="4.5", hints=_THREADED
    )
    """The PIDs in this very group, in no order, some perhaps twice; 0 is a process of another PID namespace."""
    cgroup_threads: ControlFile[tuple[int, ...]] = ControlFile("cgroup.threads", parse_lines, since="4.14")
    """The thread IDs in this very group."""
    cgroup_controllers: ControlFile[tuple[str, ...]] = ControlFile("cgroup.controllers", parse_words, since="4.5")
    """The controllers that the group has."""
    cgroup_subtree_control: WritableControlFile[tuple[str, ...], str | Iterable[str]] = WritableControlFile(
        "cgroup.subtree_control",
        parse_words,
        format_controllers,
        since="4.5",
        hints={
            errno.EBUSY: "a group that has processes cannot enable controllers for its children, nor can one be "
            "disabled that a child has enabled for its own",
            errno.ENOENT: "the group does not have that controller: see cgroup.controllers",
            errno.EINVAL: "there is no such controller",
            errno.EOPNOTSUPP: "the group is in a threaded subtree, which has no memory controller",
        },
    )
    """The controllers that its children have. What is assigned enables and disables, as ``"+memory -pids"``."""
    cgroup_events: ControlFile[CgroupEvents] = ControlFile(
        "cgroup.events", CgroupEvents.parse, since="4.5", often=True
    )
    """Whether there are processes, and whether they are frozen; not in the root."""
    cgroup_freeze: WritableControlFile[bool, bool] = WritableControlFile(
        "cgroup.freeze", parse_flag, format_flag, since="5.2"
    )
    """Whether the group was told to freeze; see `Cgroup.freeze`, which waits until it has. Not in the root."""
    cgroup_kill: CommandFile = CommandFile("cgroup.kill", since="5.14", hints=_THREADED)
    """A method that kills all processes of the group and those below, at once; see `Cgroup.kill`, which waits."""
    cgroup_stat: ControlFile[CgroupStat] = ControlFile("cgroup.stat", CgroupStat.parse, since="4.14")
    """How many groups there are below."""
    cgroup_stat_local: ControlFile[CgroupStatLocal] = ControlFile(
        "cgroup.stat.local", CgroupStatLocal.parse, since="6.18"
    )
    """How long the group has been frozen; not in the root."""
    cgroup_max_depth: WritableControlFile[int | None, int | None] = WritableControlFile(
        "cgroup.max.depth", parse_count, format_count, since="4.14", unit="count"
    )
    """How many levels of groups there may be below; None is no limit."""
    cgroup_max_descendants: WritableControlFile[int | None, int | None] = WritableControlFile(
        "cgroup.max.descendants", parse_count, format_count, since="4.14", unit="count"
    )
    """How many groups there may be below; None is no limit."""
    cgroup_pressure: WritableControlFile[bool, bool] = WritableControlFile(
        "cgroup.pressure", parse_flag, format_flag, since="6.1"
    )
    """Whether pressure is accounted for; without, the group has no pressure files."""
    cpu_pressure: ControlFile[CpuPressure] = ControlFile("cpu.pressure", CpuPressure.parse, since="4.20")
    """How long processes had to wait for a CPU."""
    io_pressure: ControlFile[Pressure] = ControlFile("io.pressure", Pressure.parse, since="4.20")
    """How long processes had to wait for input and output."""
    irq_pressure: ControlFile[IrqPressure] = ControlFile("irq.pressure", IrqPressure.parse, since="6.1")
    """How much time interrupts took from processes."""
