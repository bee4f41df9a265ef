"""The control files of cgroup v2 that hold many values, as frozen dataclasses.

Fields have the kernel's own names. None stands for a key that this kernel does not have, and keys that are not
known here are kept in ``extra``. Kernel: Documentation/admin-guide/cgroup-v2.rst.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, TypeAlias, final

from ..cgroupfs.formats import parse_flat_keyed, parse_nested_keyed
from .stat import Bytes, Count, Layout, Pages

Microseconds = Annotated[int, "microseconds"]
"""A number of microseconds."""
OnNodes: TypeAlias = Mapping[int, Bytes] | None
CountsOnNodes: TypeAlias = Mapping[int, Count] | None
PagesOnNodes: TypeAlias = Mapping[int, Pages] | None


@final
@dataclass(frozen=True)
class MemoryEvents:
    """``memory.events``, which counts in this group and all below it, or ``memory.events.local``, in this alone.

    Counts since the group was created, never reset.
    """

    low: Count
    """Reclaim took what ``low`` or ``min`` was to protect."""
    high: Count
    """Processes were throttled or made to reclaim because usage was above ``high``; many for one crossing."""
    max: Count
    """Usage was about to go above ``max``; many for one OOM."""
    oom: Count
    """Usage reached ``max`` and could not be reclaimed, whether or not something was killed; many for one OOM."""
    oom_kill: Count | None = None
    """Processes killed by any OOM killer; with ``oom_group``, the first one of each group counts twice."""
    oom_group_kill: Count | None = None
    """Groups killed as a whole, with ``oom_group``; since Linux 5.17."""
    sock_throttled: Count | None = None
    """Sockets were throttled."""
    extra: Mapping[str, Count] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "MemoryEvents":
        """From the text of the file."""
        table = parse_flat_keyed(data)
        low, high, hits, oom = (table.pop(key) for key in ("low", "high", "max", "oom"))
        kill, group_kill, throttled = (
            table.pop(key, None) for key in ("oom_kill", "oom_group_kill", "sock_throttled")
        )
        return cls(low, high, hits, oom, kill, group_kill, throttled, table)


def count_killed(oom_kill: int | None, oom_group_kill: int | None) -> int:
    """How many processes were killed. Where a whole group was, the kernel counts its first victim twice."""
    return (oom_kill or 0) - (oom_group_kill or 0)


@final
@dataclass(frozen=True)
class SwapEvents:
    """``memory.swap.events``: counts since the group was created, in this group and all below it."""

    max: Count
    """Usage was about to go above ``swap_max``."""
    fail: Count
    """No swap could be had, because of the limit or because the machine had none left."""
    high: Count | None = None
    """Usage went above ``swap_high``; since Linux 5.8."""
    extra: Mapping[str, Count] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "SwapEvents":
        """From the text of the file."""
        table = parse_flat_keyed(data)
        return cls(table.pop("max"), table.pop("fail"), table.pop("high", None), table)


@final
@dataclass(frozen=True)
class CgroupEvents:
    """``cgroup.events``: the state of a group with all below it."""

    populated: bool
    """Whether there is a process."""
    frozen: bool | None = None
    """Whether all processes are stopped by ``cgroup_freeze``; None before Linux 5.2."""
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "CgroupEvents":
        """From the text of the file."""
        table = parse_flat_keyed(data)
        populated, frozen = table.pop("populated"), table.pop("frozen", None)
        return cls(bool(populated), None if frozen is None else bool(frozen), table)


@final
@dataclass(frozen=True)
class CgroupStat:
    """``cgroup.stat``: how many groups there are below, at any depth."""

    nr_descendants: int
    """Groups."""
    nr_dying_descendants: int
    """Groups that were removed and still take up memory, as something of theirs is in use."""
    nr_subsys: Mapping[str, int] = field(default_factory=dict)
    """Groups that have each controller, such as ``"memory"``; empty before Linux 6.12."""
    nr_dying_subsys: Mapping[str, int] = field(default_factory=dict)
    """The same of groups that were removed."""
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "CgroupStat":
        """From the text of the file."""
        table = parse_flat_keyed(data)
        groups, dying = table.pop("nr_descendants"), table.pop("nr_dying_descendants")
        having, dying_having = (
            {key.removeprefix(prefix): table.pop(key) for key in tuple(table) if key.startswith(prefix)}
            for prefix in ("nr_subsys_", "nr_dying_subsys_")
        )
        return cls(groups, dying, having, dying_having, table)


@final
@dataclass(frozen=True)
class CgroupStatLocal:
    """``cgroup.stat.local``: of this very group."""

    frozen_usec: Microseconds
    """How long its processes have been stopped by a freeze, of it or of an ancestor."""
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "CgroupStatLocal":
        """From the text of the file."""
        table = parse_flat_keyed(data)
        return cls(table.pop("frozen_usec"), table)


@final
@dataclass(frozen=True)
class MemoryStatV2:
    """``memory.stat`` of cgroup v2: of a group and all groups below it."""

    anon: Bytes
    file: Bytes
    file_mapped: Bytes
    file_dirty: Bytes
    file_writeback: Bytes
    inactive_anon: Bytes
    active_anon: Bytes
    inactive_file: Bytes
    active_file: Bytes
    unevictable: Bytes
    pgfault: Count
    pgmajfault: Count
    kernel: Bytes | None = None
    """All kernel memory, which is part of the usage."""
    kernel_stack: Bytes | None = None
    pagetables: Bytes | None = None
    sec_pagetables: Bytes | None = None
    percpu: Bytes | None = None
    sock: Bytes | None = None
    vmalloc: Bytes | None = None
    shmem: Bytes | None = None
    zswap: Bytes | None = None
    zswapped: Bytes | None = None
    zswap_incomp: Bytes | None = None
    swapcached: Bytes | None = None
    anon_thp: Bytes | None = None
    file_thp: Bytes | None = None
    shmem_thp: Bytes | None = None
    slab_reclaimable: Bytes | None = None
    slab_unreclaimable: Bytes | None = None
    slab: Bytes | None = None
    hugetlb: Bytes | None = None
    workingset_refault_anon: Count | None = None
    workingset_refault_file: Count | None = None
    workingset_activate_anon: Count | None = None
    workingset_activate_file: Count | None = None
    workingset_restore_anon: Count | None = None
    workingset_restore_file: Count | None = None
    workingset_nodereclaim: Count | None = None
    pgscan: Pages | None = None
    """Pages that reclaim looked at since the group was created; ``pgsteal`` those that it took."""
    pgsteal: Pages | None = None
    pgscan_kswapd: Pages | None = None
    pgscan_direct: Pages | None = None
    pgscan_khugepaged: Pages | None = None
    pgscan_proactive: Pages | None = None
    pgsteal_kswapd: Pages | None = None
    pgsteal_direct: Pages | None = None
    pgsteal_khugepaged: Pages | None = None
    pgsteal_proactive: Pages | None = None
    pgdemote_kswapd: Pages | None = None
    pgdemote_direct: Pages | None = None
    pgdemote_khugepaged: Pages | None = None
    pgdemote_proactive: Pages | None = None
    pgpromote_success: Pages | None = None
    pswpin: Pages | None = None
    pswpout: Pages | None = None
    pgrefill: Count | None = None
    pgactivate: Count | None = None
    pgdeactivate: Count | None = None
    pglazyfree: Count | None = None
    pglazyfreed: Count | None = None
    swpin_zero: Count | None = None
    swpout_zero: Count | None = None
    zswpin: Count | None = None
    zswpout: Count | None = None
    zswpwb: Count | None = None
    thp_fault_alloc: Count | None = None
    thp_collapse_alloc: Count | None = None
    thp_swpout: Count | None = None
    thp_swpout_fallback: Count | None = None
    numa_pages_migrated: Count | None = None
    numa_pte_updates: Count | None = None
    numa_hint_faults: Count | None = None
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "MemoryStatV2":
        """From the text of the file."""
        global _layout
        words = data.split()
        layout = _layout
        if layout is None or words[::2] != layout.keys:
            layout = _layout = Layout.of(words[::2], fields(cls))
        return layout.fill(cls, map(int, words[1::2]))


_layout: Layout | None = None


@final
@dataclass(frozen=True)
class NumaStatV2:
    """``memory.numa_stat`` of cgroup v2: by the number of each NUMA node, of a group and all groups below it.

    In **bytes**, where v1 has pages; the ``workingset_`` fields count events, those that begin with ``pg`` pages.
    """

    anon: Mapping[int, Bytes]
    file: Mapping[int, Bytes]
    kernel_stack: OnNodes = None
    pagetables: OnNodes = None
    sec_pagetables: OnNodes = None
    vmalloc: OnNodes = None
    shmem: OnNodes = None
    file_mapped: OnNodes = None
    file_dirty: OnNodes = None
    file_writeback: OnNodes = None
    swapcached: OnNodes = None
    anon_thp: OnNodes = None
    file_thp: OnNodes = None
    shmem_thp: OnNodes = None
    inactive_anon: OnNodes = None
    active_anon: OnNodes = None
    inactive_file: OnNodes = None
    active_file: OnNodes = None
    unevictable: OnNodes = None
    slab_reclaimable: OnNodes = None
    slab_unreclaimable: OnNodes = None
    hugetlb: OnNodes = None
    workingset_refault_anon: CountsOnNodes = None
    workingset_refault_file: CountsOnNodes = None
    workingset_activate_anon: CountsOnNodes = None
    workingset_activate_file: CountsOnNodes = None
    workingset_restore_anon: CountsOnNodes = None
    workingset_restore_file: CountsOnNodes = None
    workingset_nodereclaim: CountsOnNodes = None
    pgdemote_kswapd: PagesOnNodes = None
    pgdemote_direct: PagesOnNodes = None
    pgdemote_khugepaged: PagesOnNodes = None
    pgdemote_proactive: PagesOnNodes = None
    pgsteal_kswapd: PagesOnNodes = None
    pgsteal_direct: PagesOnNodes = None
    pgsteal_khugepaged: PagesOnNodes = None
    pgsteal_proactive: PagesOnNodes = None
    pgscan_kswapd: PagesOnNodes = None
    pgscan_direct: PagesOnNodes = None
    pgscan_khugepaged: PagesOnNodes = None
    pgscan_proactive: PagesOnNodes = None
    pgpromote_success: PagesOnNodes = None
    pgrefill: CountsOnNodes = None
    extra: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "NumaStatV2":
        """From the text of the file."""
        rows = {
            key: {int(node.removeprefix("N")): int(value) for node, value in row.items()}
            for key, row in parse_nested_keyed(data).items()
        }
        if not {"anon", "file"} <= rows.keys():
            raise ValueError(data)
        known = {each.name: rows.pop(each.name) for each in fields(cls) if each.name in rows}
        return cls(**known, extra=rows)
