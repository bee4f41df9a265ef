"""Every control file of a cgroup v1 directory in the memory hierarchy.

The names are the kernel's, without ``memory.`` and with underscores for dots. Files are listed as in
Documentation/admin-guide/cgroup-v1/memory.rst and cgroups.rst; ``since`` is the Linux version that brought each.
"""

from __future__ import annotations

import errno

from ..cgroupfs.files import (
    CommandFile,
    ControlFile,
    EventControlFile,
    EventSource,
    LimitFile,
    WritableControlFile,
)
from ..cgroupfs.formats import (
    format_flag,
    format_int,
    format_text,
    parse_bytes,
    parse_flag,
    parse_lines,
    parse_text,
)
from ..units import check_int
from .stat import MemoryStatV1, NumaStatV1, OomControlV1


def _format_swappiness(value: int) -> bytes:
    return format_int(check_int(value, "swappiness", 0, 200, "0 to 200 (100 before Linux 5.8)"))


class ControlFilesV1:
    """The control files, as attributes; the base of `CgroupV1`."""

    __slots__ = ()

    # Memory: what is used, and how much may be.

    usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.usage_in_bytes", parse_bytes, since="2.6.25", unit="bytes", often=True
    )
    """Memory that is charged to the group and those below, up to 64 pages per CPU ahead of what they use."""
    max_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.max_usage_in_bytes", parse_bytes, since="2.6.26", unit="bytes", often=True
    )
    """The most that ``usage_in_bytes`` has been; see `reset_max_usage`."""
    limit_in_bytes: LimitFile = LimitFile("memory.limit_in_bytes", since="2.6.25")
    """The most that ``usage_in_bytes`` may be; None is no limit."""
    failcnt: ControlFile[int] = ControlFile(
        "memory.failcnt", parse_bytes, since="2.6.25", unit="count", often=True
    )
    """How often this very limit was hit, whether or not reclaim then helped; see `reset_failcnt`."""
    soft_limit_in_bytes: LimitFile = LimitFile("memory.soft_limit_in_bytes", since="2.6.32")
    """What reclaim aims at when the machine is short of memory. Some kernels (6.12, 7.3) ignore it."""
    swappiness: WritableControlFile[int, int] = WritableControlFile(
        "memory.swappiness", parse_bytes, _format_swappiness, since="2.6.29"
    )
    """How much reclaim prefers swap, 0 to 200. Inherited by new children; on the root it is vm.swappiness."""
    force_empty: CommandFile = CommandFile(
        "memory.force_empty", since="2.6.25", hints={errno.EINVAL: "the root cgroup cannot be emptied"}
    )
    """A method that reclaims as much as possible, and returns whatever came of it."""
    stat: ControlFile[MemoryStatV1] = ControlFile("memory.stat", MemoryStatV1.parse, since="2.6.25", often=True)
    """What the memory is used for, in bytes, and counts of events."""
    numa_stat: ControlFile[NumaStatV1] = ControlFile(
        "memory.numa_stat", NumaStatV1.parse, since="3.0", unit="pages"
    )
    """Pages on each NUMA node."""

    # Out of memory.

    oom_control: WritableControlFile[OomControlV1, bool] = WritableControlFile(
        "memory.oom_control",
        OomControlV1.parse,
        format_flag,
        since="2.6.35",
        often=True,
        hints={errno.EINVAL: "the root cgroup's killer cannot be switched off"},
    )
    """The state of the OOM killer. Assigning True writes 1, which switches the killer *off*."""
    oom_delay_millisecs: WritableControlFile[int, int] = WritableControlFile(
        "memory.oom_delay_millisecs",
        parse_bytes,
        format_int,
        since="(no version: a patch of 2011)",
        unit="milliseconds",
    )
    """How long the kernel waits before it kills; a patch of 2011 that was never merged."""
    pressure_level: EventSource = EventSource("memory.pressure_level", since="3.10")
    """A source of events only; for `cgroup_event_control`, with a level such as ``"low,local"``."""
    cgroup_event_control: EventControlFile = EventControlFile("cgroup.event_control", since="2.6.34")
    """A method that registers an eventfd with a source of events, such as ``CgroupV1.pressure_level``."""

    # Memory with swap; only where swap is accounted for.

    memsw_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.memsw.usage_in_bytes", parse_bytes, since="2.6.29", unit="bytes", often=True
    )
    """Memory and swap that is charged."""
    memsw_max_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.memsw.max_usage_in_bytes", parse_bytes, since="2.6.29", unit="bytes"
    )
    """The most that ``memsw_usage_in_bytes`` has been."""
    memsw_limit_in_bytes: LimitFile = LimitFile("memory.memsw.limit_in_bytes", since="2.6.29")
    """The most that ``memsw_usage_in_bytes`` may be; never less than ``limit_in_bytes``."""
    memsw_failcnt: ControlFile[int] = ControlFile(
        "memory.memsw.failcnt", parse_bytes, since="2.6.29", unit="count"
    )
    """How often ``memsw_limit_in_bytes`` was hit."""

    # Kernel memory, which is part of the usage above.

    kmem_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.kmem.usage_in_bytes", parse_bytes, since="3.8", unit="bytes"
    )
    """Kernel memory that is charged."""
    kmem_max_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.kmem.max_usage_in_bytes", parse_bytes, since="3.8", unit="bytes"
    )
    """The most that ``kmem_usage_in_bytes`` has been."""
    kmem_limit_in_bytes: LimitFile = LimitFile("memory.kmem.limit_in_bytes", since="3.8")
    """Has an effect only from 3.8 to 5.15; later kernels ignore or refuse what is written."""
    kmem_failcnt: ControlFile[int] = ControlFile("memory.kmem.failcnt", parse_bytes, since="3.8", unit="count")
    """How often ``kmem_limit_in_bytes`` was hit."""
    kmem_slabinfo: ControlFile[str] = ControlFile("memory.kmem.slabinfo", parse_text, since="3.8")
    """Empty on current kernels, and missing where slab debugging is not built in."""
    kmem_tcp_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.kmem.tcp.usage_in_bytes", parse_bytes, since="3.3", unit="bytes"
    )
    """TCP buffers that are charged."""
    kmem_tcp_max_usage_in_bytes: ControlFile[int] = ControlFile(
        "memory.kmem.tcp.max_usage_in_bytes", parse_bytes, since="3.3", unit="bytes"
    )
    """The most that ``kmem_tcp_usage_in_bytes`` has been."""
    kmem_tcp_limit_in_bytes: LimitFile = LimitFile("memory.kmem.tcp.limit_in_bytes", since="3.3")
    """The most that ``kmem_tcp_usage_in_bytes`` may be."""
    kmem_tcp_failcnt: ControlFile[int] = ControlFile(
        "memory.kmem.tcp.failcnt", parse_bytes, since="3.3", unit="count"
    )
    """How often ``kmem_tcp_limit_in_bytes`` was hit."""

    # How the group relates to others.

    use_hierarchy: WritableControlFile[bool, bool] = WritableControlFile(
        "memory.use_hierarchy",
        parse_flag,
        format_flag,
        since="2.6.29",
        hints={errno.EINVAL: "from Linux 5.11 on it can only be True"},
    )
    """Whether usage counts in the ancestors too, which from 5.11 on it always does."""
    move_charge_at_immigrate: WritableControlFile[int, int] = WritableControlFile(
        "memory.move_charge_at_immigrate",
        parse_bytes,
        format_int,
        since="2.6.34",
        hints={errno.EINVAL: "0 to 3, and from Linux 6.13 on only 0"},
    )
    """Whether memory moves along with a process, as a bit mask of 1 for anonymous memory and 2 for files."""

    # The cgroup core.

    cgroup_procs: ControlFile[tuple[int, ...]] = ControlFile("cgroup.procs", parse_lines, since="2.6.32")
    """The PIDs in this very group, in no order, some perhaps twice; 0 is a process of another PID namespace."""
    tasks: ControlFile[tuple[int, ...]] = ControlFile("tasks", parse_lines, since="2.6.24")
    """The thread IDs in this very group."""
    notify_on_release: WritableControlFile[bool, bool] = WritableControlFile(
        "notify_on_release", parse_flag, format_flag, since="2.6.24"
    )
    """Whether the root's ``release_agent`` is run when the group becomes empty. Inherited by new children."""
    release_agent: WritableControlFile[str, str] = WritableControlFile(
        "release_agent", parse_text, format_text, since="2.6.24"
    )
    """The path of a program; only in the root."""
    cgroup_clone_children: WritableControlFile[bool, bool] = WritableControlFile(
        "cgroup.clone_children", parse_flag, format_flag, since="2.6.37"
    )
    """Of the cpuset controller; without effect here."""
    cgroup_sane_behavior: ControlFile[bool] = ControlFile("cgroup.sane_behavior", parse_flag, since="3.10")
    """Always False; only in the root."""
