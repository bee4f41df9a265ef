"""The control files that hold many values, as frozen dataclasses.

Each is parsed by key: the kernel adds keys, some in the middle, and reorders them between versions. Keys that are
not known here are kept in ``extra``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Protocol, TypeVar, final, runtime_checkable

from ..cgroupfs.formats import parse_flat_keyed, parse_nested_keyed
from ..units import UNLIMITED

Bytes = Annotated[int, "bytes"]
"""A number of bytes."""
Count = Annotated[int, "count"]
"""A number of events since the group was created."""
Pages = Annotated[int, "pages"]
"""A number of pages, of ``mmap.PAGESIZE`` bytes each."""


T = TypeVar("T")
_FLAGS = {b"0": False, b"1": True}


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
    def parse(cls, data: bytes) -> "OomControlV1":
        """From the text of the file."""
        words = data.split()
        # The three lines that nearly every kernel has, without a dict: this is read at every wake-up.
        if (
            len(words) == 6
            and words[0] == b"oom_kill_disable"
            and words[2] == b"under_oom"
            and words[4] == b"oom_kill"
        ):
            return cls(_FLAGS[words[1]], _FLAGS[words[3]], int(words[5]))
        table = parse_flat_keyed(data)
        disable, under_oom = (_FLAGS[b"%d" % table.pop(key)] for key in ("oom_kill_disable", "under_oom"))
        return cls(disable, under_oom, table.pop("oom_kill", None), table)


@runtime_checkable
class MemoryStat(Protocol):
    """What ``memory.stat`` says of a group and all groups below it, where both cgroup versions say it."""

    @property
    def anon(self) -> Bytes:
        """Memory that belongs to no file, such as heaps and stacks, without tmpfs and shared memory."""

    @property
    def file(self) -> Bytes:
        """Memory that caches files, with tmpfs and shared memory."""


@dataclass(frozen=True)
class Layout:
    """The keys of a large file of this kernel, the same at each read, against the fields of its dataclass."""

    keys: list[bytes]
    names: tuple[str, ...]
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, keys: list[bytes], fields: tuple[Field[object], ...]) -> "Layout":
        """*keys* against the *fields* of a dataclass; KeyError where one that must be there is not."""
        names = tuple(key.decode("ascii") for key in keys)
        known = {each.name: each.default for each in fields if each.name != "extra"}
        for name in known.keys() - set(names):
            if known[name] is MISSING:
                raise KeyError(name)
        return cls(keys, names, tuple(name for name in names if name not in known))

    def fill(self, kind: type[T], values: Iterable[int]) -> T:
        """A *kind*, the dataclass, with the *values* in the order of the keys."""
        table: dict[str, object] = dict(zip(self.names, values, strict=True))
        table["extra"] = {name: table.pop(name) for name in self.unknown}
        # The __init__ of a frozen dataclass sets its dozens of fields one by one through object.__setattr__, which
        # costs more than the kernel takes to write the file. Fields that are not in the table have their defaults,
        # None, from the class.
        stat = object.__new__(kind)
        object.__setattr__(stat, "__dict__", table)
        return stat


@final
@dataclass(frozen=True)
class MemoryStatV1:
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
    def parse(cls, data: bytes) -> "MemoryStatV1":
        """From the text of the file."""
        global _layout
        words = data.split()
        layout = _layout
        if layout is None or words[::2] != layout.keys:
            layout = _layout = Layout.of(words[::2], fields(cls))
        stat = layout.fill(cls, map(int, words[1::2]))
        for limit in ("hierarchical_memory_limit", "hierarchical_memsw_limit"):
            value = stat.__dict__.get(limit)
            if value is not None and value >= UNLIMITED:
                stat.__dict__[limit] = None
        return stat

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
    def parse(cls, data: bytes) -> "NumaStatV1":
        """From the text of the file."""
        rows = {
            key: {int(node[1:]) if node else None: int(pages) for node, pages in row.items()}
            for key, row in parse_nested_keyed(data).items()
        }
        if not {"total", "file", "anon", "unevictable"} <= rows.keys():
            raise ValueError(data)
        known = {each.name: rows.pop(each.name) for each in fields(cls) if each.name in rows}
        return cls(**known, extra=rows)


_layout: Layout | None = None
