"""The control files that hold many values, as frozen dataclasses.

Each is parsed by key: the kernel adds keys, some in the middle, and reorders them between versions. Keys that are
not known here are kept in ``extra``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, TypeVar, final

from ..cgroupfs.formats import parse_flat_keyed, parse_nested_keyed
from ..units import UNLIMITED

Bytes = Annotated[int, "bytes"]
"""A number of bytes."""
Count = Annotated[int, "count"]
"""A number of events since the group was created."""
Pages = Annotated[int, "pages"]
"""A number of pages, of ``mmap.PAGESIZE`` bytes each."""


@final
@dataclass(frozen=True)
class OomControlV1:
    """``memory.oom_control`` of cgroup v1 (Documentation/admin-guide/cgroup-v1/memory.rst, section 10)."""

    oom_kill_disable: bool
    """Whether the kernel's OOM killer is switched off for this group's own limit."""
    under_oom: bool
    """Whether tasks are stopped now, for want of memory, by this group's limit or an ancestor's."""
    oom_kill: Count | None = None
    """How many processes of this very group the OOM killer has killed; None before Linux 4.13."""
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> OomControlV1:
        """From the text of the file."""
        words = data.split()
        # The three lines that nearly every kernel has, without a dict: this is read at every wake-up.
        if (
            len(words) == 6
            and words[0] == b"oom_kill_disable"
            and words[2] == b"under_oom"
            and words[4] == b"oom_kill"
        ):
            return cls(words[1] == b"1", words[3] == b"1", int(words[5]))
        table = parse_flat_keyed(data)
        return cls(
            bool(table.pop("oom_kill_disable")),
            bool(table.pop("under_oom")),
            table.pop("oom_kill", None),
            table,
        )


class MemoryStat:
    """What ``memory.stat`` says of a group and all groups below it, where both cgroup versions say it."""

    @property
    def anon(self) -> Bytes:
        """Memory of no file: heaps, stacks, private mappings; without tmpfs and shared memory."""
        raise NotImplementedError

    @property
    def file(self) -> Bytes:
        """Memory that caches files, with tmpfs and shared memory."""
        raise NotImplementedError


@final
@dataclass(frozen=True)
class MemoryStatV1(MemoryStat):
    """``memory.stat`` of cgroup v1 (Documentation/admin-guide/cgroup-v1/memory.rst, section 5.2).

    The kernel's own names. Without ``total_``, a value is of this group alone, without the groups below it. None
    stands for a key that this kernel does not have.
    """

    cache: Bytes
    rss: Bytes
    mapped_file: Bytes
    pgpgin: Count
    pgpgout: Count
    pgfault: Count
    pgmajfault: Count
    inactive_anon: Bytes
    active_anon: Bytes
    inactive_file: Bytes
    active_file: Bytes
    unevictable: Bytes
    total_cache: Bytes
    total_rss: Bytes
    total_mapped_file: Bytes
    total_pgpgin: Count
    total_pgpgout: Count
    total_pgfault: Count
    total_pgmajfault: Count
    total_inactive_anon: Bytes
    total_active_anon: Bytes
    total_inactive_file: Bytes
    total_active_file: Bytes
    total_unevictable: Bytes
    hierarchical_memory_limit: Bytes | None = None
    """The lowest limit among this group and its ancestors; None where there is none."""
    hierarchical_memsw_limit: Bytes | None = None
    """The same of memory with swap; None where there is none, or no swap accounting."""
    rss_huge: Bytes | None = None
    shmem: Bytes | None = None
    dirty: Bytes | None = None
    writeback: Bytes | None = None
    workingset_refault_anon: Count | None = None
    workingset_refault_file: Count | None = None
    swap: Bytes | None = None
    swapcached: Bytes | None = None
    total_rss_huge: Bytes | None = None
    total_shmem: Bytes | None = None
    total_dirty: Bytes | None = None
    total_writeback: Bytes | None = None
    total_workingset_refault_anon: Count | None = None
    total_workingset_refault_file: Count | None = None
    total_swap: Bytes | None = None
    total_swapcached: Bytes | None = None
    extra: Mapping[str, int] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> MemoryStatV1:
        """From the text of the file."""
        table: dict[str, int | None] = {**parse_flat_keyed(data)}
        for key in ("hierarchical_memory_limit", "hierarchical_memsw_limit"):
            if (table.get(key) or 0) >= UNLIMITED:
                table[key] = None
        return _fill(cls, table)

    @property
    def anon(self) -> Bytes:
        """``total_rss``."""
        return self.total_rss

    @property
    def file(self) -> Bytes:
        """``total_cache``."""
        return self.total_cache


@final
@dataclass(frozen=True)
class NumaStatV1:
    """``memory.numa_stat`` of cgroup v1: numbers of **pages**, for each NUMA node.

    Each mapping has the node's number as its key, and the sum over all nodes under None.
    """

    total: Mapping[int | None, Pages]
    file: Mapping[int | None, Pages]
    anon: Mapping[int | None, Pages]
    unevictable: Mapping[int | None, Pages]
    hierarchical_total: Mapping[int | None, Pages] = field(default_factory=dict)
    """With the groups below; empty before Linux 3.19."""
    hierarchical_file: Mapping[int | None, Pages] = field(default_factory=dict)
    hierarchical_anon: Mapping[int | None, Pages] = field(default_factory=dict)
    hierarchical_unevictable: Mapping[int | None, Pages] = field(default_factory=dict)
    extra: Mapping[str, Mapping[int | None, Pages]] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> NumaStatV1:
        """From the text of the file."""
        return _fill(
            cls,
            {
                key: {int(node[1:]) if node else None: int(pages) for node, pages in row.items()}
                for key, row in parse_nested_keyed(data).items()
            },
        )


_Stat = TypeVar("_Stat", MemoryStatV1, NumaStatV1)


@dataclass(frozen=True)
class _Layout:
    """The names of a dataclass's fields, without ``extra``, and what the optional ones default to."""

    known: frozenset[str]
    required: frozenset[str]
    optional: Mapping[str, object]


def _layout(cls: type[MemoryStatV1 | NumaStatV1]) -> _Layout:
    optional: dict[str, object] = {}
    for each in fields(cls):
        if each.default is not MISSING:
            optional[each.name] = each.default
        elif each.default_factory is not MISSING:
            optional[each.name] = each.default_factory()
    names = frozenset(each.name for each in fields(cls))
    return _Layout(names - {"extra"}, names - optional.keys(), optional)


_LAYOUTS = {MemoryStatV1: _layout(MemoryStatV1), NumaStatV1: _layout(NumaStatV1)}


def _fill(cls: type[_Stat], table: Mapping[str, object]) -> _Stat:
    """An instance of *cls* from a table of its fields; what it does not know goes to ``extra``.

    Straight into the instance's ``__dict__``: the ``__init__`` of a frozen dataclass sets its fields one by one
    through ``object.__setattr__``, which costs more than the kernel takes to write the file.
    """
    layout = _LAYOUTS[cls]
    if not layout.required <= table.keys():
        raise KeyError(*(layout.required - table.keys()))
    instance = object.__new__(cls)
    instance.__dict__.update(layout.optional)
    if table.keys() <= layout.known:
        instance.__dict__.update(table)
    else:
        instance.__dict__.update((key, table[key]) for key in table.keys() & layout.known)
        instance.__dict__["extra"] = {key: value for key, value in table.items() if key not in layout.known}
    return instance
