"""Every control file of cgroup v2, against the text that the kernel has in it."""

from __future__ import annotations

import errno
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.files import need, read_while_still, text_of
from support.processes import finish, start_hog
from support.scripts import say, start_python

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = ["current", "peak", "swap_current", "swap_peak", "zswap_current"]
LIMITS = ["min", "low", "high", "max", "swap_high", "swap_max", "zswap_max"]
COUNTS = ["cgroup_max_depth", "cgroup_max_descendants"]
FLAGS = ["oom_group", "cgroup_freeze", "cgroup_pressure", "zswap_writeback"]
LISTS = ["cgroup_procs", "cgroup_threads"]
WORDS = ["cgroup_controllers", "cgroup_subtree_control"]
KEYED = ["stat", "events", "events_local", "swap_events", "cgroup_events", "cgroup_stat_local"]
PSI = ["pressure", "cpu_pressure", "io_pressure", "irq_pressure"]


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


@pytest.fixture(scope="module")
def lived_in(nursery: memcg.Cgroup) -> Iterator[memcg.CgroupV2]:
    """A group in use: with limits, some pressure, and a process that has 8 MiB."""
    with memcg.temporary(parent=nursery, limit="64M") as group:
        if not isinstance(group, memcg.CgroupV2):
            pytest.skip("only cgroup v2 has this, and here the memory controller is on v1")
        group.min, group.low, group.high = 4 * PAGESIZE, "1M", "48M"
        group.swap_max = 0
        group.oom_group = True
        group.cgroup_max_depth = 3
        group.high = "16M"
        start_hog(group, 24).communicate(timeout=60)  # which is throttled at times
        group.high = "48M"
        hog = start_hog(group, 8, stay=True)
        assert say(hog) == "done"
        yield group
        assert finish(hog) == 0


@pytest.mark.parametrize("attribute", NUMBERS)
def test_numbers_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """A file with one number is that int."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    assert type(value) is int
    assert value == int(text)


@pytest.mark.parametrize("attribute", [*LIMITS, *COUNTS])
def test_limits_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """A limit is the number in the file, or None for "max"."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    assert value == (None if text == "max\n" else int(text))


@pytest.mark.parametrize("attribute", FLAGS)
def test_switches_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """A file with a switch is a bool."""
    need(lived_in, attribute)
    assert text_of(lived_in, attribute) == f"{getattr(lived_in, attribute):d}\n"


@pytest.mark.parametrize("attribute", LISTS)
def test_lists_of_processes_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """A file with numbers in lines is a tuple of ints, in the kernel's order."""
    value = getattr(lived_in, attribute)
    assert value == tuple(int(line) for line in text_of(lived_in, attribute).splitlines())
    assert value == lived_in.processes()


@pytest.mark.parametrize("attribute", WORDS)
def test_lists_of_words_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """A file with words is a tuple of them."""
    parent = lived_in.parent
    assert parent is not None
    for group in (lived_in, parent):
        assert getattr(group, attribute) == tuple(text_of(group, attribute).split())
    assert "memory" in parent.cgroup_subtree_control
    assert "memory" in lived_in.cgroup_controllers
    assert lived_in.cgroup_subtree_control == ()


@pytest.mark.parametrize("attribute", KEYED)
def test_keyed_files_read_as_the_kernel_has_them(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """Each line is a field with its value, and nothing else has one; this kernel has no key that is not known."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    lines = {key: int(number) for key, number in (line.split() for line in text.splitlines())}
    read = {key: number for key, number in vars(value).items() if number is not None and key != "extra"}
    assert read == lines
    assert vars(value)["extra"] == {}


@pytest.mark.parametrize("attribute", PSI)
def test_pressure_reads_as_the_kernel_has_it(lived_in: memcg.CgroupV2, attribute: str) -> None:
    """Each line of a pressure file is a field, and its total in seconds."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    for line in text.splitlines():
        kind, *cells = line.split()
        numbers = dict(cell.split("=") for cell in cells)
        read = getattr(value, kind)
        assert isinstance(read, memcg.PressureLine)
        assert (read.avg10, read.avg60, read.avg300) == tuple(float(numbers[f"avg{n}"]) for n in (10, 60, 300))
        assert round(read.total * 1_000_000) == int(numbers["total"])


def test_numa_stat_reads_as_the_kernel_has_it(lived_in: memcg.CgroupV2) -> None:
    """Each line of memory.numa_stat is a mapping from the node to its bytes."""
    value, text = read_while_still(lived_in, "numa_stat")
    assert isinstance(value, memcg.NumaStatV2)
    for line in text.splitlines():
        key, *cells = line.split()
        nodes = {int(node.removeprefix("N")): int(number) for node, number in (cell.split("=") for cell in cells)}
        assert getattr(value, key) == nodes, key
    assert sum(value.anon.values()) >= 8 * MiB
    assert value.extra == {}


def test_cgroup_stat_reads_as_the_kernel_has_it(nursery: memcg.Cgroup, lived_in: memcg.CgroupV2) -> None:
    """The groups below are counted, and on newer kernels those that have each controller."""
    assert isinstance(nursery, memcg.CgroupV2)
    stat = nursery.cgroup_stat
    assert stat.nr_descendants == len(list(nursery.walk())) - 1
    assert stat.nr_subsys.get("memory", stat.nr_descendants + 1) == stat.nr_descendants + 1
    assert stat.extra == {}


def test_the_lived_in_group_has_something_to_show(lived_in: memcg.CgroupV2) -> None:
    """The comparisons of this module are made where values are neither 0 nor the default."""
    assert lived_in.current >= 8 * MiB
    assert lived_in.stat.anon >= 8 * MiB
    assert (lived_in.min, lived_in.low, lived_in.high, lived_in.max) == (4 * PAGESIZE, MiB, 48 * MiB, 64 * MiB)
    assert lived_in.events.high > 0
    assert lived_in.pressure.some.total > 0
    assert lived_in.oom_group is True
    assert lived_in.cgroup_max_depth == 3
    assert lived_in.cgroup_type == "domain"


# Writing.


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("min", MiB, str(MiB)),
        ("min", None, "max"),
        ("low", "2M", str(2 * MiB)),
        ("high", 24 * MiB + 5, str(24 * MiB)),
        ("high", None, "max"),
        ("max", 24 * MiB, str(24 * MiB)),
        ("max", "1.5G", str(1536 * MiB)),
        ("max", None, "max"),
        ("max", 0, "0"),
        ("swap_high", "8M", str(8 * MiB)),
        ("swap_max", 0, "0"),
        ("swap_max", None, "max"),
        ("zswap_max", 0, "0"),
        ("zswap_writeback", False, "0"),
        ("oom_group", True, "1"),
        ("oom_group", False, "0"),
        ("cgroup_freeze", True, "1"),
        ("cgroup_freeze", False, "0"),
        ("cgroup_pressure", False, "0"),
        ("cgroup_max_depth", 0, "0"),
        ("cgroup_max_depth", None, "max"),
        ("cgroup_max_descendants", 7, "7"),
    ],
)
def test_what_is_assigned_is_in_the_file(
    group: memcg.CgroupV2, attribute: str, value: int | str | None, text: str
) -> None:
    """Assigning writes the kernel's file, and reading gives back what is in force."""
    need(group, attribute)
    setattr(group, attribute, value)
    assert text_of(group, attribute) == f"{text}\n"
    assert getattr(group, attribute) == (None if text == "max" else int(text))


def test_max_does_exactly_what_the_kernel_does(group: memcg.CgroupV2) -> None:
    """Lowering max below what is used kills, as the kernel documents; lowering `limit` does not."""
    hog = start_hog(group, 16, stay=True)
    assert say(hog) == "done"
    group.max = "8M"
    assert hog.wait(timeout=60) == -9
    assert group.max == 8 * MiB
    assert group.oom.kills == 1
    with hog:
        pass


def test_max_depth_limits_groups_below(group: memcg.CgroupV2) -> None:
    """Where no more groups may be created, creating one is the kernel's EAGAIN, which says so."""
    group.cgroup_max_depth = 1
    child = group.create("child")
    with pytest.raises(memcg.KernelError, match=r"cgroup\.max\.depth") as caught:
        child.create("too-deep")
    assert caught.value.errno == errno.EAGAIN
    group.cgroup_max_depth = None
    child.create("deep-enough")


def test_subtree_control_enables_and_disables(group: memcg.CgroupV2) -> None:
    """Controllers are enabled and disabled for children as the kernel has it, in one or several words."""
    group.cgroup_subtree_control = "+memory"
    child = group.create("child")
    assert memcg.CgroupV2.max.exists(child)
    group.cgroup_subtree_control = ["-memory"]
    assert group.cgroup_subtree_control == ()
    with pytest.raises(memcg.ControlFileMissingError, match=r"does not enable the memory controller") as caught:
        _ = child.max
    assert str(group.path) in str(caught.value)
    assert child.pressure.some.total >= 0, "which is there all the same"


@pytest.mark.parametrize(
    ("words", "number", "part"),
    [("+nosuch", errno.EINVAL, "no such controller"), ("+cpu", errno.ENOENT, r"see cgroup\.controllers")],
)
def test_subtree_control_says_what_cannot_be(group: memcg.CgroupV2, words: str, number: int, part: str) -> None:
    """A controller that does not exist, or that the group does not have, is refused by the kernel."""
    if words.removeprefix("+") in group.cgroup_controllers:
        pytest.skip("the group has that controller")
    with pytest.raises(memcg.KernelError, match=part) as caught:
        group.cgroup_subtree_control = words
    assert caught.value.errno == number
    assert not isinstance(caught.value, memcg.CgroupNotFoundError)


def test_without_accounting_there_is_no_pressure(group: memcg.CgroupV2) -> None:
    """Where cgroup_pressure is off, the pressure files are missing, until it is on again."""
    need(group, "cgroup_pressure")
    group.cgroup_pressure = False
    with pytest.raises(memcg.ControlFileMissingError, match=r"memory\.pressure"):
        _ = group.pressure
    group.cgroup_pressure = True
    assert group.pressure.some.total >= 0


def test_kernel_kills_show_in_the_events(group: memcg.CgroupV2) -> None:
    """After an OOM of its own limit, a group's events and events_local tell of it; its parent's events, too."""
    child = group.create("child", limit="16M")
    assert finish(start_hog(child, 24)) == -9
    assert child.events.oom >= 1
    assert child.events.oom_kill == child.events_local.oom_kill == group.events.oom_kill == 1
    assert (group.events_local.oom, group.events_local.oom_kill) == (0, 0)


def test_the_whole_group_is_killed(group: memcg.CgroupV2) -> None:
    """With oom_group, an OOM kills all processes; the kernel counts the group once."""
    group.oom_group = True
    others = [start_python(group, "print('here', flush=True); input()") for _ in range(3)]
    assert [say(process) for process in others] == ["here"] * 3
    assert finish(start_hog(group, 64)) == -9
    assert [finish(process) for process in others] == [-9] * 3
    assert group.events.oom_group_kill == 1
