"""The control files that hold many values, on texts as kernels write them."""

from __future__ import annotations

import dataclasses
import pickle
from typing import get_args, get_type_hints

import pytest

from memcg import Bytes, Count, MemoryStat, MemoryStatV1, NumaStatV1, OomControlV1, Pages
from memcg.units import UNLIMITED
from unit.helpers import run_python

# As Linux 6.18 orders them; the own group's, then the hierarchical limits, then the subtree's.
OWN = [
    "cache",
    "rss",
    "rss_huge",
    "shmem",
    "mapped_file",
    "dirty",
    "writeback",
    "workingset_refault_anon",
    "workingset_refault_file",
    "swap",
    "swapcached",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
]
LIMITS = ["hierarchical_memory_limit", "hierarchical_memsw_limit"]
KEYS = [*OWN, *LIMITS, *(f"total_{key}" for key in OWN)]
COUNTS = {"workingset_refault_anon", "workingset_refault_file", "pgpgin", "pgpgout", "pgfault", "pgmajfault"}

# All that Linux 2.6.35 had.
OLD = "cache rss mapped_file pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon inactive_file active_file"
OLD_KEYS = [*(own := [*OLD.split(), "unevictable"]), LIMITS[0], *(f"total_{key}" for key in own)]


def text(values: dict[str, int]) -> bytes:
    """A memory.stat with these values, in this order."""
    return b"".join(f"{key} {value}\n".encode() for key, value in values.items())


def numbered(keys: list[str]) -> dict[str, int]:
    """A value of its own for each key."""
    return {key: number * 4096 for number, key in enumerate(keys, 1)}


def test_every_key_has_its_value() -> None:
    """All keys of a current kernel are attributes with their own value, and nothing is left over."""
    values = numbered(KEYS)
    stat = MemoryStatV1.parse(text(values))
    assert {key: getattr(stat, key) for key in KEYS} == values
    assert stat.extra == {}
    assert {field.name for field in dataclasses.fields(stat)} == {*KEYS, "extra"}


def test_the_order_does_not_matter() -> None:
    """The same keys in another order, one read after the other, give equal stats."""
    values = numbered(KEYS)
    first = MemoryStatV1.parse(text(values))
    assert MemoryStatV1.parse(text(dict(reversed(values.items())))) == first
    assert MemoryStatV1.parse(text(values)) == first


def test_new_keys_are_kept() -> None:
    """Keys that are not known, in the middle, at the start and at the end, are in extra, and disturb nothing."""
    values = {"first_new": 1, **numbered(KEYS[:5]), "anon_cost": 2, **numbered(KEYS)}
    values |= {**numbered(KEYS), "extra": 3, "total_anon_cost": 4}
    stat = MemoryStatV1.parse(text(values))
    assert stat.extra == {"first_new": 1, "anon_cost": 2, "extra": 3, "total_anon_cost": 4}
    assert stat.unevictable == values["unevictable"]


def test_what_an_old_kernel_lacks_is_none() -> None:
    """The keys of an old kernel suffice; those that came later are None."""
    stat = MemoryStatV1.parse(text(numbered(OLD_KEYS)))
    assert {key for key in KEYS if getattr(stat, key) is None} == set(KEYS) - set(OLD_KEYS)
    assert stat.total_rss == numbered(OLD_KEYS)["total_rss"]
    assert stat.extra == {}


def test_kernels_may_take_turns() -> None:
    """Texts of different kernels are told apart, one after the other."""
    old, new = text(numbered(OLD_KEYS)), text(numbered(KEYS))
    assert MemoryStatV1.parse(new).swap is not None
    assert MemoryStatV1.parse(old).swap is None
    assert MemoryStatV1.parse(new).swap is not None


@pytest.mark.parametrize("shown", [UNLIMITED, 2**63 - 1, 2**64 - 1], ids=["now", "2**63-1", "2**64-1"])
def test_no_limit_is_none(shown: int) -> None:
    """Whatever a kernel shows where no ancestor has a limit is None, as it is for the limits themselves."""
    stat = MemoryStatV1.parse(text(numbered(KEYS) | dict.fromkeys(LIMITS, shown)))
    assert stat.hierarchical_memory_limit is None
    assert stat.hierarchical_memsw_limit is None


def test_a_limit_is_a_number() -> None:
    """The lowest limit above a group is a number of bytes."""
    stat = MemoryStatV1.parse(text(numbered(KEYS) | {LIMITS[0]: 64 << 20}))
    assert stat.hierarchical_memory_limit == 64 << 20


@pytest.mark.parametrize("missing", [key for key in OLD_KEYS if key not in LIMITS])
def test_a_key_that_every_kernel_has_must_be_there(missing: str) -> None:
    """Where a key is missing that all kernels have, that is an error that names it, and not a 0."""
    values = numbered(KEYS)
    del values[missing]
    with pytest.raises((KeyError, ValueError), match=missing):
        MemoryStatV1.parse(text(values))


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"cache\n", b"cache x\n", text(numbered(KEYS)) + b"odd", text(numbered(KEYS)) + b"key x\n"],
    ids=["nothing", "garbage", "key alone", "no number", "odd word at the end", "no number at the end"],
)
def test_garbage_is_an_error(data: bytes) -> None:
    """A text that does not read as keys with numbers is an error, and the next good one is read as ever."""
    with pytest.raises((KeyError, ValueError)):
        MemoryStatV1.parse(data)
    assert MemoryStatV1.parse(text(numbered(KEYS))).cache == 4096


def test_the_very_first_text_may_be_garbage_too() -> None:
    """An empty file is an error also where no other was read before."""
    run_python(
        """
        import memcg
        try:
            stat = memcg.MemoryStatV1.parse(b"")
        except (KeyError, ValueError):
            pass
        else:
            raise SystemExit(f"taken for {vars(stat)}")
        """
    )


def test_the_portable_words_are_of_the_whole_subtree() -> None:
    """anon and file are what the group and those below it use."""
    stat = MemoryStatV1.parse(text(numbered(KEYS)))
    assert isinstance(stat, MemoryStat)
    assert stat.anon == stat.total_rss == numbered(KEYS)["total_rss"]
    assert stat.file == stat.total_cache == numbered(KEYS)["total_cache"]


def test_the_annotations_tell_the_units() -> None:
    """Each attribute is annotated as bytes or as a count, as the kernel has it."""
    hints = get_type_hints(MemoryStatV1, include_extras=True)
    for key in KEYS:
        unit = Count if key.removeprefix("total_") in COUNTS else Bytes
        assert hints[key] in (unit, unit | None), key


def test_a_stat_is_a_frozen_value() -> None:
    """A stat can be compared, shown, copied with changes and pickled like any dataclass, and not be changed."""
    stat = MemoryStatV1.parse(text(numbered(KEYS)))
    assert pickle.loads(pickle.dumps(stat)) == stat
    assert dataclasses.replace(stat, cache=1).cache == 1
    assert dataclasses.replace(stat) == stat
    assert repr(stat).startswith("MemoryStatV1(cache=4096, rss=8192, ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        stat.cache = 1  # type: ignore[misc]


# memory.oom_control.


def test_oom_control_with_three_lines() -> None:
    """All lines of a current kernel are read."""
    control = OomControlV1.parse(b"oom_kill_disable 0\nunder_oom 1\noom_kill 12\n")
    assert control == OomControlV1(oom_kill_disable=False, under_oom=True, oom_kill=12)
    assert OomControlV1.parse(b"oom_kill_disable 1\nunder_oom 0\noom_kill 0\n").oom_kill_disable is True


def test_oom_control_with_two_lines() -> None:
    """Before Linux 4.13 kills are not counted: that is None, and not 0."""
    control = OomControlV1.parse(b"oom_kill_disable 1\nunder_oom 0\n")
    assert (control.oom_kill_disable, control.under_oom, control.oom_kill) == (True, False, None)


@pytest.mark.parametrize(
    "data",
    [
        b"oom_kill_disable 1\nunder_oom 0\noom_kill 3\noom_new 7\n",
        b"oom_new 7\nunder_oom 0\noom_kill 3\noom_kill_disable 1\n",
    ],
    ids=["at the end", "at the start, reordered"],
)
def test_oom_control_with_an_unknown_line(data: bytes) -> None:
    """A line that is not known is kept in extra, wherever it stands."""
    assert OomControlV1.parse(data) == OomControlV1(True, False, 3, {"oom_new": 7})


def test_oom_control_with_an_unknown_line_in_place_of_the_third() -> None:
    """Three lines are not taken for the usual three."""
    assert OomControlV1.parse(b"oom_kill_disable 1\nunder_oom 0\noom_new 7\n") == OomControlV1(
        True, False, None, {"oom_new": 7}
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"under_oom 0\n",
        b"oom_kill_disable 0\n",
        b"oom_kill_disable 0\nunder_oom\n",
        b"oom_kill_disable x\nunder_oom 0\n",
        b"oom_kill_disable x\nunder_oom 0\noom_kill 0\n",
        b"oom_kill_disable 0\nunder_oom x\noom_kill 0\n",
        b"oom_kill_disable 0\nunder_oom 0\noom_kill x\n",
        b"oom_kill_disable 2\nunder_oom 0\noom_kill 0\n",
    ],
)
def test_oom_control_that_reads_otherwise_is_an_error(data: bytes) -> None:
    """A missing line, or a value that is none, is an error, and never taken for False."""
    with pytest.raises((KeyError, ValueError)):
        OomControlV1.parse(data)


# memory.numa_stat.

NUMA = b"""\
total=30 N0=10 N1=20
file=11 N0=1 N1=10
anon=18 N0=8 N1=10
unevictable=1 N0=1 N1=0
"""
NUMA_HIERARCHICAL = b"".join(b"hierarchical_" + line for line in NUMA.splitlines(keepends=True))


def test_numa_stat_has_pages_by_node() -> None:
    """Each row maps the numbers of the nodes to pages, and None to the sum."""
    stat = NumaStatV1.parse(NUMA + NUMA_HIERARCHICAL)
    assert stat.total == {None: 30, 0: 10, 1: 20}
    assert stat.file == {None: 11, 0: 1, 1: 10}
    assert stat.anon == {None: 18, 0: 8, 1: 10}
    assert stat.unevictable == {None: 1, 0: 1, 1: 0}
    assert stat.hierarchical_total == stat.total
    assert stat.hierarchical_unevictable == stat.unevictable
    assert stat.extra == {}
    assert get_args(Pages) == (int, "pages")


def test_numa_stat_of_many_nodes() -> None:
    """Nodes of any number, and with gaps between them, are kept apart."""
    stat = NumaStatV1.parse(NUMA.replace(b" N1=", b" N12="))
    assert stat.total == {None: 30, 0: 10, 12: 20}


def test_numa_stat_of_an_old_kernel() -> None:
    """Before Linux 3.19 there are no rows of the subtree: they are empty."""
    stat = NumaStatV1.parse(NUMA)
    assert stat.hierarchical_total == stat.hierarchical_anon == {}
    assert stat.anon[None] == 18


def test_numa_stat_keeps_new_rows() -> None:
    """Rows that are not known are in extra, wherever they stand."""
    stat = NumaStatV1.parse(b"shmem=3 N0=3 N1=0\n" + NUMA_HIERARCHICAL + NUMA)
    assert stat.extra == {"shmem": {None: 3, 0: 3, 1: 0}}
    assert stat.total[1] == 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\n",
        NUMA.replace(b"total=30 N0=10 N1=20\n", b""),
        NUMA.replace(b"anon=18", b"anon=x"),
        NUMA.replace(b"N0=8", b"N0="),
        NUMA.replace(b"N0=8", b"Nx=8"),
        NUMA.replace(b"N0=8", b"N0"),
    ],
    ids=["nothing", "garbage", "row missing", "no number", "empty number", "no node", "no value"],
)
def test_numa_stat_that_reads_otherwise_is_an_error(data: bytes) -> None:
    """A missing row, or what is no number of pages, is an error."""
    with pytest.raises((KeyError, ValueError)):
        NumaStatV1.parse(data)
