"""The control files of cgroup v2 that hold many values, on texts as kernels write them."""

from __future__ import annotations

import dataclasses
import pickle
from typing import get_args, get_type_hints

import pytest

import memcg
from memcg import (
    Bytes,
    CgroupEvents,
    CgroupStat,
    CgroupStatLocal,
    Count,
    MemoryEvents,
    MemoryStat,
    MemoryStatV2,
    NumaStatV2,
    Pages,
    SwapEvents,
)
from unit import kernel_keys
from unit.kernel_keys import KERNELS

ALWAYS = "anon file file_mapped file_dirty file_writeback inactive_anon active_anon inactive_file active_file"
REQUIRED = {*ALWAYS.split(), "unevictable", "pgfault", "pgmajfault"}


def numbered(keys: str) -> dict[str, int]:
    """A value of its own for each key."""
    return {key: number * 4096 for number, key in enumerate(keys.split(), 1)}


def text(values: dict[str, int]) -> bytes:
    """A flat keyed file with these values, in this order."""
    return b"".join(f"{key} {value}\n".encode() for key, value in values.items())


def known(parsed: object) -> dict[str, int]:
    """The fields that have a value, without extra."""
    fields = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}  # type: ignore[arg-type]
    return {key: value for key, value in fields.items() if key != "extra" and value is not None}


# memory.stat.


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_key_of_a_kernel_has_its_value(kernel: str) -> None:
    """All keys of a real kernel are attributes with their own value, others are None; nothing is left over."""
    values = numbered(kernel_keys.STAT[kernel])
    stat = MemoryStatV2.parse(text(values))
    assert known(stat) == values
    assert stat.extra == {}
    assert isinstance(stat, MemoryStat)


def test_kernels_may_take_turns() -> None:
    """Texts of different kernels, in different orders, are told apart, one after the other."""
    for kernel in (*KERNELS, *reversed(KERNELS)):
        values = numbered(kernel_keys.STAT[kernel])
        shuffled = dict(reversed(values.items()))
        assert MemoryStatV2.parse(text(values)) == MemoryStatV2.parse(text(shuffled))
        assert (MemoryStatV2.parse(text(values)).swpin_zero is None) is (kernel == "6.1")


def test_new_keys_are_kept() -> None:
    """Keys that are not known, at the start, in the middle and at the end, are in extra, and disturb nothing."""
    values = numbered(f"first {kernel_keys.STAT['7.3'].replace('kernel ', 'kernel middle ')} extra")
    stat = MemoryStatV2.parse(text(values))
    assert stat.extra == {key: values[key] for key in ("first", "middle", "extra")}
    assert stat.kernel_stack == values["kernel_stack"]


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_a_key_that_every_kernel_has_must_be_there(missing: str) -> None:
    """Where a key is missing that all kernels have, that is an error that names it, and not a 0."""
    values = numbered(kernel_keys.STAT["6.1"])
    del values[missing]
    with pytest.raises(KeyError, match=missing):
        MemoryStatV2.parse(text(values))


def test_the_first_keys_are_enough() -> None:
    """What a kernel of 2016 had is enough; all that came later is None."""
    stat = MemoryStatV2.parse(text(numbered(" ".join(sorted(REQUIRED)))))
    assert known(stat).keys() == REQUIRED


COUNTED = (
    "workingset_",
    "pgfault",
    "pgmajfault",
    "pgrefill",
    "pgactivate",
    "pgdeactivate",
    "pglazy",
    "swp",
    "zsw",
)
IN_PAGES = ("pgscan", "pgsteal", "pgdemote", "pgpromote", "pswp")


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(MemoryStatV2) if field.name != "extra"]
)
def test_units_are_told_apart(field: str) -> None:
    """Each field of memory.stat says in its type whether it is of bytes, pages or events."""
    counted = field.startswith((*COUNTED, "thp_", "numa_")) and field not in ("zswap", "zswapped", "zswap_incomp")
    expected = Count if counted else Pages if field.startswith(IN_PAGES) else Bytes
    hint = get_type_hints(MemoryStatV2, include_extras=True)[field]
    assert expected in (hint, *get_args(hint))


def test_a_stat_is_a_value() -> None:
    """A stat can be compared, hashed by nobody, pickled and replaced, but not changed."""
    stat = MemoryStatV2.parse(text(numbered(kernel_keys.STAT["7.3"])))
    assert pickle.loads(pickle.dumps(stat)) == stat
    assert dataclasses.replace(stat, anon=1).anon == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        stat.anon = 5  # type: ignore[misc]


# The smaller ones.


@pytest.mark.parametrize("kernel", KERNELS)
def test_events(kernel: str) -> None:
    """memory.events: what a kernel counts has its value, what it does not is None, what is new is kept."""
    values = numbered(kernel_keys.EVENTS[kernel])
    assert known(MemoryEvents.parse(text(values))) == values
    assert MemoryEvents.parse(text(values | {"oom_new": 7})).extra == {"oom_new": 7}
    assert MemoryEvents.parse(text(dict(reversed(values.items())))) == MemoryEvents.parse(text(values))


def test_events_of_an_old_kernel() -> None:
    """Before Linux 4.13 there was no count of kills."""
    assert MemoryEvents.parse(b"low 1\nhigh 2\nmax 3\noom 4\n") == MemoryEvents(1, 2, 3, 4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_swap_events(kernel: str) -> None:
    """memory.swap.events is parsed by key."""
    values = numbered(kernel_keys.SWAP_EVENTS[kernel])
    assert known(SwapEvents.parse(text(values))) == values
    assert SwapEvents.parse(b"max 1\nfail 2\nnew 3\n") == SwapEvents(max=1, fail=2, high=None, extra={"new": 3})


def test_cgroup_events() -> None:
    """cgroup.events holds switches, of which old kernels have one."""
    assert CgroupEvents.parse(b"populated 1\nfrozen 0\n") == CgroupEvents(populated=True, frozen=False)
    assert CgroupEvents.parse(b"frozen 1\nnew 5\npopulated 0\n") == CgroupEvents(False, True, {"new": 5})
    assert CgroupEvents.parse(b"populated 0\n") == CgroupEvents(populated=False, frozen=None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cgroup_stat(kernel: str) -> None:
    """cgroup.stat has two numbers, and from 6.12 on two more for each controller, by its name."""
    values = numbered(kernel_keys.CGROUP_STAT[kernel])
    stat = CgroupStat.parse(text(values | {"new": 3}))
    assert stat.nr_descendants == values["nr_descendants"]
    assert stat.nr_dying_descendants == values["nr_dying_descendants"]
    assert stat.nr_subsys.get("memory") == values.get("nr_subsys_memory")
    assert stat.nr_dying_subsys.get("perf_event") == values.get("nr_dying_subsys_perf_event")
    assert len(stat.nr_subsys) == len(stat.nr_dying_subsys) == (0 if kernel == "6.1" else 9)
    assert stat.extra == {"new": 3}


def test_cgroup_stat_local() -> None:
    """cgroup.stat.local has the time that a group was frozen."""
    assert CgroupStatLocal.parse(b"frozen_usec 5000\nnew 1\n") == CgroupStatLocal(5000, {"new": 1})


@pytest.mark.parametrize(
    "kind", [MemoryEvents, SwapEvents, CgroupEvents, CgroupStat, CgroupStatLocal, MemoryStatV2, NumaStatV2]
)
@pytest.mark.parametrize("data", [b"", b"\n", b"low\n", b"low high\n", b"low 1 high\n", b"\xff 1\n"])
def test_what_is_no_such_file_is_refused(kind: type[MemoryEvents], data: bytes) -> None:
    """Text of another format is an error, and never a half-filled value."""
    with pytest.raises((ValueError, KeyError)):
        kind.parse(data)


# memory.numa_stat.


@pytest.mark.parametrize("kernel", KERNELS)
def test_numa_stat(kernel: str) -> None:
    """Each key is a mapping from the number of the node, of which there may be many."""
    values = numbered(kernel_keys.NUMA_STAT[kernel])
    lines = [f"{key} N0={value} N1=0 N12={value + 1}\n" for key, value in values.items()]
    stat = NumaStatV2.parse("".join([*lines, "new N0=1 N1=2 N12=3\n"]).encode())
    for key, value in values.items():
        assert getattr(stat, key) == {0: value, 1: 0, 12: value + 1}, key
    assert stat.extra == {"new": {0: 1, 1: 2, 12: 3}}
    others = {field.name for field in dataclasses.fields(stat)} - values.keys() - {"extra"}
    assert {getattr(stat, key) for key in others} <= {None}


def test_numa_stat_is_in_bytes() -> None:
    """The unit of v2, which is not that of v1, is said by the control file and by the types."""
    assert memcg.CgroupV2.numa_stat.unit == "bytes"
    hints = get_type_hints(NumaStatV2, include_extras=True)
    assert get_args(hints["anon"]) == (int, Bytes)
    assert get_args(get_args(hints["workingset_refault_anon"])[0]) == (int, Count)
    assert get_args(get_args(hints["pgscan_direct"])[0]) == (int, Pages)
