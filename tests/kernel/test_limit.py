"""`limit`, the portable word: it never kills, it carries memory with swap along, and it fails without a trace."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.cache import fill_cache
from support.forked import as_nobody, give_away
from support.processes import Worker, finish, start_hog
from support.scripts import say
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def with_memsw(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """A group with a limit of 32 MiB on memory, and of 48 MiB on memory with swap."""
    group = group_v1
    if not memcg.CgroupV1.memsw_limit_in_bytes.exists(group):
        pytest.skip("this kernel does not account for swap")
    group.memsw_limit_in_bytes = 48 * MiB
    return group


@pytest.fixture
def in_use(group: memcg.Cgroup) -> Iterator[memcg.Cgroup]:
    """A group with a limit of 32 MiB, in which a process uses 16 MiB that cannot be reclaimed."""
    hog = start_hog(group, 16, stay=True)
    assert say(hog) == "done"
    if isinstance(group, memcg.CgroupV1):
        group.force_empty()
    yield group
    assert finish(hog) == 0, "it was killed"
    assert group.oom.kills == 0


def limit_file(group: memcg.Cgroup) -> str:
    """The name of the file that has the limit."""
    return memcg.CgroupV1.limit_in_bytes.name if isinstance(group, memcg.CgroupV1) else memcg.CgroupV2.max.name


def limits(group: memcg.CgroupV1) -> tuple[int | None, int | None]:
    """The limits on memory, and on memory with swap."""
    return group.limit, group.memsw_limit_in_bytes


@pytest.mark.parametrize("limit", [PAGESIZE, MiB, "8M", 15 * MiB])
def test_lowering_below_usage_is_refused_and_kills_nobody(in_use: memcg.Cgroup, limit: int | str) -> None:
    """Where usage cannot be reclaimed below the new limit, the former one stays, and so does every process."""
    before = settings(in_use)
    with pytest.raises(memcg.LimitBelowUsageError, match="former limit stays") as caught:
        in_use.limit = limit
    assert caught.value.errno == errno.EBUSY
    assert caught.value.filename == f"{in_use.path}/{limit_file(in_use)}"
    assert isinstance(caught.value, memcg.CgroupBusyError)
    assert settings(in_use) == before
    assert in_use.limit == 32 * MiB


def test_lowering_below_usage_that_grows_kills_nobody(group: memcg.Cgroup) -> None:
    """While a process goes on allocating, lowering below what it has is refused each time, and it gets there."""
    with Worker(group) as worker:
        assert worker.do("touch 10") == "done"
        before = settings(group)
        with ThreadPoolExecutor(1) as pool:
            growing = pool.submit(worker.do, "touch 14")
            refused = 0
            while refused < 3 or not growing.done():
                with pytest.raises(memcg.LimitBelowUsageError):
                    group.limit = "8M"
                refused += 1
            assert growing.result() == "done"
        assert settings(group) == before
        assert group.oom.kills == 0


def test_lowering_to_what_is_used_is_possible(in_use: memcg.Cgroup) -> None:
    """A limit just above usage can be set, and the next process that wants more is out of memory."""
    in_use.limit = 20 * MiB
    assert in_use.limit == 20 * MiB
    in_use.limit = 32 * MiB


def test_lowering_reclaims_what_can_be_reclaimed(group: memcg.Cgroup) -> None:
    """Page cache does not stand in the way of a lower limit: it is given up."""
    fill_cache(group, 20)
    assert group.usage >= 16 * MiB
    group.limit = 4 * MiB
    assert group.limit == 4 * MiB
    assert group.usage <= 4 * MiB


@pytest.mark.parametrize(
    ("assigned", "read"),
    [
        (PAGESIZE, PAGESIZE),
        (2 * PAGESIZE - 1, PAGESIZE),
        (64 * MiB + 1, 64 * MiB),
        (64 * MiB + PAGESIZE - 1, 64 * MiB),
        (f"{2 * PAGESIZE}", 2 * PAGESIZE),
        ("64M", 64 * MiB),
        ("64 MiB", 64 * MiB),
        ("1.5G", 1536 * MiB),
        (None, None),
        (2**62, 2**62),
    ],
)
def test_a_limit_reads_as_it_was_set_rounded_down_to_a_page(
    group: memcg.Cgroup, assigned: int | str | None, read: int | None
) -> None:
    """Whatever is assigned, reading shows what is in force."""
    group.limit = assigned
    assert group.limit == read
    text = (group.path / limit_file(group)).read_text()
    assert read in (None, int(text.strip().replace("max", "0")))


@pytest.mark.parametrize(
    "limit", [0, "0", 1, PAGESIZE - 1, "1K", -1, -PAGESIZE, "-1", "", "max", "10%", 2**63, 2**64]
)
def test_no_limit_is_what_the_kernel_would_misread(group: memcg.Cgroup, limit: int | str) -> None:
    """Less than a page, which the kernel would make 0, and what is no size, are refused, with what would do."""
    before = settings(group)
    with pytest.raises(memcg.InvalidValueError) as caught:
        group.limit = limit
    assert str(limit) in str(caught.value)
    assert settings(group) == before


@pytest.mark.parametrize("limit", [True, 1e9, b"1G", [], object()])
def test_a_limit_is_an_int_or_text_or_none(group: memcg.Cgroup, limit: int) -> None:
    """A limit of another type is refused."""
    before = settings(group)
    with pytest.raises(memcg.InvalidTypeError):
        group.limit = limit
    assert settings(group) == before


# Memory with swap.


def test_raising_past_the_limit_with_swap_raises_that_by_as_much(with_memsw: memcg.CgroupV1) -> None:
    """What the group may swap stays the same."""
    with_memsw.limit = 64 * MiB
    assert limits(with_memsw) == (64 * MiB, 80 * MiB)
    with_memsw.limit = "81M"
    assert limits(with_memsw) == (81 * MiB, 97 * MiB)


def test_raising_below_the_limit_with_swap_leaves_that_alone(with_memsw: memcg.CgroupV1) -> None:
    """A limit up to that with swap needs nothing else."""
    with_memsw.limit = 40 * MiB
    assert limits(with_memsw) == (40 * MiB, 48 * MiB)
    with_memsw.limit = 48 * MiB
    assert limits(with_memsw) == (48 * MiB, 48 * MiB)
    with_memsw.limit = 49 * MiB
    assert limits(with_memsw) == (49 * MiB, 49 * MiB)


def test_lowering_leaves_the_limit_with_swap_alone(with_memsw: memcg.CgroupV1) -> None:
    """Lowering, and raising again, within the limit with swap never touches that."""
    with_memsw.limit = 8 * MiB
    assert limits(with_memsw) == (8 * MiB, 48 * MiB)
    with_memsw.limit = 32 * MiB
    assert limits(with_memsw) == (32 * MiB, 48 * MiB)


def test_no_limit_takes_the_limit_with_swap_away(with_memsw: memcg.CgroupV1) -> None:
    """None is no limit, which the kernel allows only where there is none with swap."""
    with_memsw.limit = None
    assert limits(with_memsw) == (None, None)
    with_memsw.limit = 32 * MiB
    assert limits(with_memsw) == (32 * MiB, None)


def test_a_raise_that_fails_puts_the_limit_with_swap_back(with_memsw: memcg.CgroupV1) -> None:
    """A caller who may write the one file but not the other gets an error, and both are as they were."""
    give_away(with_memsw.path, "memory.memsw.limit_in_bytes")
    for limit in (64 * MiB, None):
        raise_limit = partial(setattr, with_memsw, "limit", limit)
        with pytest.raises(memcg.AccessDeniedError) as caught:
            as_nobody(raise_limit)
        assert caught.value.filename == f"{with_memsw.path}/memory.limit_in_bytes"
        assert limits(with_memsw) == (32 * MiB, 48 * MiB)


def test_a_raise_that_cannot_begin_changes_nothing(with_memsw: memcg.CgroupV1) -> None:
    """A caller who may not write the limit with swap is told so, and the limit stays too."""
    give_away(with_memsw.path, "memory.limit_in_bytes")
    with pytest.raises(memcg.AccessDeniedError, match=r"memory\.memsw\.limit_in_bytes"):
        as_nobody(lambda: setattr(with_memsw, "limit", 64 * MiB))
    assert limits(with_memsw) == (32 * MiB, 48 * MiB)
    as_nobody(lambda: setattr(with_memsw, "limit", 40 * MiB))
    assert limits(with_memsw) == (40 * MiB, 48 * MiB)


def test_the_files_themselves_want_the_right_order(with_memsw: memcg.CgroupV1) -> None:
    """limit_in_bytes and memsw_limit_in_bytes do what the kernel does: each refuses to pass the other, and says
    in which order to write them."""
    with pytest.raises(memcg.KernelError, match="to raise both, raise memsw first") as caught:
        with_memsw.limit_in_bytes = 64 * MiB
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(memcg.KernelError, match="to lower both, memory first"):
        with_memsw.memsw_limit_in_bytes = 16 * MiB
    assert limits(with_memsw) == (32 * MiB, 48 * MiB)

    with_memsw.memsw_limit_in_bytes = 96 * MiB
    with_memsw.limit_in_bytes = 64 * MiB
    assert limits(with_memsw) == (64 * MiB, 96 * MiB)
    with_memsw.limit_in_bytes = 8 * MiB
    with_memsw.memsw_limit_in_bytes = 16 * MiB
    assert limits(with_memsw) == (8 * MiB, 16 * MiB)


def test_the_root_has_no_limit_to_set() -> None:
    """Not even the limit that it has, none, can be assigned to the root; on v2 it has no such file."""
    root = memcg.root()
    if isinstance(root, memcg.CgroupV2):
        if memcg.CgroupV2.max.exists(root):
            pytest.skip("what looks like the root here is a group: this is a container")
        with pytest.raises(memcg.ControlFileMissingError, match="root of the hierarchy, which has none"):
            root.limit = None
        return
    if (root.path / "cgroup.sane_behavior").exists():  # in a container, what looks like the root is a group
        with pytest.raises(memcg.KernelError, match="root cgroup has no limit") as caught:
            root.limit = None
        assert caught.value.errno == errno.EINVAL
    assert root.limit is None


# What the limit is for.


def test_a_limit_holds_for_all_below(group: memcg.Cgroup) -> None:
    """A group below, without a limit of its own, is held to that of the group above."""
    child = group.create("child")
    assert finish(start_hog(child, 64)) == -9
    if isinstance(child, memcg.CgroupV1):
        assert child.stat.hierarchical_memory_limit == 32 * MiB
    assert group.peak == 32 * MiB
    assert (child.oom.kills, group.oom.kills) == (1, 1)


def test_a_raised_limit_is_enough_for_what_fits(group: memcg.Cgroup) -> None:
    """The program that was killed at 32 MiB finishes at 128."""
    assert finish(start_hog(group, 64)) == -9
    group.limit = 128 * MiB
    assert finish(start_hog(group, 64)) == 0
    assert 64 * MiB <= group.peak <= 128 * MiB
