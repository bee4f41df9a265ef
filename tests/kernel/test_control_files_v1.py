"""Every control file of cgroup v1, against the text that the kernel has in it."""

from __future__ import annotations

import contextlib
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import KiB, MiB
from support.cache import fill_cache
from support.files import need, read_while_still, text_of
from support.processes import finish, start_hog, wait_until
from support.scripts import say, start_python

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTERS = {"memory": "", "memsw": "memsw_", "kmem": "kmem_", "kmem.tcp": "kmem_tcp_"}
LIMITS = ["soft_limit_in_bytes", *(f"{prefix}limit_in_bytes" for prefix in COUNTERS.values())]
NUMBERS = [
    *(f"{prefix}{name}" for prefix in COUNTERS.values() for name in ("usage_in_bytes", "max_usage_in_bytes")),
    *(f"{prefix}failcnt" for prefix in COUNTERS.values()),
    "swappiness",
    "move_charge_at_immigrate",
]
FLAGS = ["use_hierarchy", "notify_on_release", "cgroup_clone_children"]
LISTS = ["cgroup_procs", "tasks"]

UNLIMITED = (2**63 - 1) // PAGESIZE * PAGESIZE


@pytest.fixture
def group(group_v1: memcg.CgroupV1) -> memcg.CgroupV1:
    """All of this is of cgroup v1."""
    return group_v1


@pytest.fixture(scope="module")
def lived_in(nursery: memcg.Cgroup) -> Iterator[memcg.CgroupV1]:
    """A group in use: with limits, 8 MiB of memory, a process, a child, and each switch thrown."""
    with memcg.temporary(parent=nursery, limit="64M") as group:
        if not isinstance(group, memcg.CgroupV1):
            pytest.skip("only cgroup v1 has this, and here the memory controller is on v2")
        group.create("child")
        group.soft_limit_in_bytes = "48M"
        group.kmem_tcp_limit_in_bytes = "2M"
        group.notify_on_release = True
        group.cgroup_clone_children = True
        group.swappiness = 7
        group.oom.disable()
        hog = start_hog(group, 8, stay=True)
        assert say(hog) == "done"
        yield group
        assert finish(hog) == 0


@pytest.mark.parametrize("attribute", NUMBERS)
def test_numbers_read_as_the_kernel_has_them(lived_in: memcg.CgroupV1, attribute: str) -> None:
    """A file with one number is that int."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    assert type(value) is int
    assert value == int(text)


@pytest.mark.parametrize("attribute", LIMITS)
def test_limits_read_as_the_kernel_has_them(lived_in: memcg.CgroupV1, attribute: str) -> None:
    """A limit is the number of bytes in the file, or None where that is the largest there is."""
    need(lived_in, attribute)
    value, text = read_while_still(lived_in, attribute)
    assert value == (None if int(text) == UNLIMITED else int(text))


@pytest.mark.parametrize("attribute", FLAGS)
def test_switches_read_as_the_kernel_has_them(lived_in: memcg.CgroupV1, attribute: str) -> None:
    """A file with a switch is a bool; all of them are thrown here."""
    assert getattr(lived_in, attribute) is True
    assert text_of(lived_in, attribute) == "1\n"


@pytest.mark.parametrize("attribute", LISTS)
def test_lists_of_processes_read_as_the_kernel_has_them(lived_in: memcg.CgroupV1, attribute: str) -> None:
    """A file with numbers in lines is a tuple of ints, in the kernel's order."""
    value = getattr(lived_in, attribute)
    assert value == tuple(int(line) for line in text_of(lived_in, attribute).splitlines())
    assert value == lived_in.processes()


def test_the_lived_in_group_has_something_to_show(lived_in: memcg.CgroupV1) -> None:
    """The comparisons of this module are made where values are neither 0 nor the default."""
    assert lived_in.usage_in_bytes >= 8 * MiB
    assert lived_in.stat.rss >= 8 * MiB
    assert lived_in.limit_in_bytes == 64 * MiB
    assert lived_in.kmem_tcp_limit_in_bytes == 2 * MiB
    assert lived_in.swappiness == 7
    assert lived_in.memsw_limit_in_bytes is None


def test_oom_control_reads_as_the_kernel_has_it(lived_in: memcg.CgroupV1) -> None:
    """Each line of memory.oom_control is a field."""
    control = lived_in.oom_control
    lines = dict(line.split() for line in text_of(lived_in, "oom_control").splitlines())
    assert control.oom_kill_disable is True
    assert lines["oom_kill_disable"] == "1"
    assert control.under_oom is (lines["under_oom"] == "1")
    assert str(control.oom_kill) == lines.get("oom_kill", "None")
    assert set(control.extra) == lines.keys() - {"oom_kill_disable", "under_oom", "oom_kill"}


def test_stat_reads_as_the_kernel_has_it(lived_in: memcg.CgroupV1) -> None:
    """Each line of memory.stat is a field or in extra, and nothing else is; limits of "none" are None."""
    value, text = read_while_still(lived_in, "stat")
    assert isinstance(value, memcg.MemoryStatV1)
    lines = {key: int(number) for key, number in (line.split() for line in text.splitlines())}
    for key, number in lines.items():
        read = value.extra[key] if key in value.extra else getattr(value, key)
        assert read == (None if number == UNLIMITED and key.startswith("hierarchical_") else number), key
    fields = {key for key, number in vars(value).items() if number is not None and key != "extra"}
    assert fields | set(value.extra) == {
        key for key, number in lines.items() if not (number == UNLIMITED and key.startswith("hierarchical_"))
    }
    assert value.hierarchical_memory_limit == 64 * MiB
    assert (value.anon, value.file) == (lines["total_rss"], lines["total_cache"])


def test_numa_stat_reads_as_the_kernel_has_it(lived_in: memcg.CgroupV1) -> None:
    """Each line of memory.numa_stat is a mapping from the node to its pages, with the sum under None."""
    need(lived_in, "numa_stat")
    value, text = read_while_still(lived_in, "numa_stat")
    assert isinstance(value, memcg.NumaStatV1)
    for line in text.splitlines():
        total, *nodes = line.split()
        key, _, pages = total.partition("=")
        expected = {None: int(pages)} | {
            int(node.removeprefix("N")): int(number) for node, _, number in (cell.partition("=") for cell in nodes)
        }
        assert (value.extra[key] if key in value.extra else getattr(value, key)) == expected, key
    assert value.anon[None] is not None
    assert value.anon[None] * PAGESIZE >= 8 * MiB


def test_slabinfo_is_text(lived_in: memcg.CgroupV1) -> None:
    """memory.kmem.slabinfo reads as its text, which current kernels leave empty."""
    need(lived_in, "kmem_slabinfo")
    assert lived_in.kmem_slabinfo == text_of(lived_in, "kmem_slabinfo").rstrip("\n")


# Writing.


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("swappiness", 0, "0"),
        ("swappiness", 100, "100"),
        ("notify_on_release", True, "1"),
        ("notify_on_release", False, "0"),
        ("cgroup_clone_children", True, "1"),
        ("cgroup_clone_children", False, "0"),
        ("use_hierarchy", True, "1"),
        ("move_charge_at_immigrate", 0, "0"),
        ("limit_in_bytes", 24 * MiB, str(24 * MiB)),
        ("limit_in_bytes", None, str(UNLIMITED)),
        ("memsw_limit_in_bytes", 48 * MiB, str(48 * MiB)),
        ("memsw_limit_in_bytes", None, str(UNLIMITED)),
        ("kmem_tcp_limit_in_bytes", MiB, str(MiB)),
        ("kmem_tcp_limit_in_bytes", 0, "0"),
        ("kmem_tcp_limit_in_bytes", None, str(UNLIMITED)),
    ],
)
def test_what_is_assigned_is_in_the_file(
    group: memcg.CgroupV1, attribute: str, value: int | bool | None, text: str
) -> None:
    """Assigning writes the kernel's file, and reading gives the value back."""
    need(group, attribute)
    setattr(group, attribute, value)
    assert text_of(group, attribute) == f"{text}\n"
    assert getattr(group, attribute) == value


@pytest.mark.parametrize("text", ["24M", "24 MiB", "24m", " 25165824 ", "24576K", "0.0234375G"])
def test_limits_take_text(group: memcg.CgroupV1, text: str) -> None:
    """A limit may be assigned as text, in the ways of parse_size."""
    group.limit_in_bytes = text
    assert group.limit_in_bytes == 24 * MiB


def test_the_soft_limit_is_stored_where_the_kernel_has_one(group: memcg.CgroupV1) -> None:
    """Assigning the soft limit is accepted, and reading shows it, or None on the kernels that ignore it."""
    need(group, "soft_limit_in_bytes")
    group.soft_limit_in_bytes = "16M"
    assert group.soft_limit_in_bytes in (16 * MiB, None)
    assert text_of(group, "soft_limit_in_bytes").strip() in (str(16 * MiB), str(UNLIMITED))


def test_the_kmem_limit_has_no_effect_or_is_refused(group: memcg.CgroupV1) -> None:
    """Assigning memory.kmem.limit_in_bytes takes effect up to Linux 5.15; later it is refused, or ignored."""
    need(group, "kmem_limit_in_bytes")
    with contextlib.suppress(memcg.KernelError):
        group.kmem_limit_in_bytes = "16M"
    value, text = read_while_still(group, "kmem_limit_in_bytes")
    assert (value, text) in ((16 * MiB, f"{16 * MiB}\n"), (None, f"{UNLIMITED}\n"))


def test_use_hierarchy_cannot_be_switched_off(group: memcg.CgroupV1) -> None:
    """The kernel's refusal to leave the hierarchy arrives with the reason."""
    with pytest.raises(memcg.KernelError, match="only be True"):
        group.use_hierarchy = False
    assert group.use_hierarchy is True


def test_move_charge_works_or_says_why_not(group: memcg.CgroupV1) -> None:
    """Moving charges along is set where the kernel still can, and refused with the reason where it cannot."""
    refusal = None
    try:
        group.move_charge_at_immigrate = 1
    except memcg.KernelError as error:
        refusal = str(error)
    assert group.move_charge_at_immigrate == (1 if refusal is None else 0)
    assert refusal is None or "from Linux 6.13 on only 0" in refusal


def test_oom_control_takes_a_bool(group: memcg.CgroupV1) -> None:
    """Assigning True to oom_control switches the killer off, and False on again."""
    group.oom_control = True
    assert group.oom_control.oom_kill_disable
    assert not group.oom.killer_enabled
    group.oom_control = False
    assert not group.oom_control.oom_kill_disable
    assert group.oom.killer_enabled


# Resetting and reclaiming.


def test_an_oom_shows_in_failcnt_and_peak_until_they_are_reset(group: memcg.CgroupV1) -> None:
    """After an OOM, failcnt and max_usage of memory tell of it; each is reset by itself."""
    assert finish(start_hog(group, 64)) == -9
    assert group.failcnt > 0
    assert group.max_usage_in_bytes == 32 * MiB
    group.reset_failcnt()
    assert group.failcnt == 0
    assert group.max_usage_in_bytes == 32 * MiB
    group.reset_max_usage("memory")
    assert group.max_usage_in_bytes < 8 * MiB


def test_memory_with_swap_has_a_peak_and_a_failcnt_of_its_own(group: memcg.CgroupV1) -> None:
    """Resetting the counters of memory with swap leaves those of memory alone."""
    need(group, "memsw_max_usage_in_bytes")
    assert finish(start_hog(group, 64)) == -9
    assert group.memsw_max_usage_in_bytes >= 31 * MiB
    group.reset_max_usage("memsw")
    group.reset_failcnt("memsw")
    assert group.memsw_max_usage_in_bytes < 8 * MiB
    assert group.memsw_failcnt == 0
    assert group.max_usage_in_bytes == 32 * MiB
    assert group.failcnt > 0


def test_resets_of_kernel_memory(group: memcg.CgroupV1) -> None:
    """The peak of kernel memory falls to what is used now, when it is reset."""
    need(group, "kmem_max_usage_in_bytes")
    assert finish(start_hog(group, 8)) == 0
    former = group.kmem_max_usage_in_bytes
    assert former > 0
    wait_until(lambda: group.kmem_usage_in_bytes < former, "the hog's kernel memory is given back")
    group.reset_max_usage("kmem")
    assert group.kmem_max_usage_in_bytes < former
    group.reset_failcnt("kmem")
    assert group.kmem_failcnt == 0


FLOOD = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
reader, _ = server.accept()
client.setblocking(False)
try:
    for _ in range(1000):
        client.send(bytes(65536))
except BlockingIOError:
    pass
print("full", flush=True)
input()
"""


def test_tcp_buffers_are_limited_counted_and_reset(group: memcg.CgroupV1) -> None:
    """A flooded connection is stopped by kmem.tcp.limit_in_bytes; usage and peak show it, and can be reset."""
    need(group, "kmem_tcp_limit_in_bytes")
    group.kmem_tcp_limit_in_bytes = "256K"
    process = start_python(group, FLOOD)
    assert say(process) == "full"
    assert 0 < group.kmem_tcp_usage_in_bytes < MiB
    process.communicate("\n", timeout=60)
    wait_until(lambda: group.kmem_tcp_usage_in_bytes == 0, "the buffers are freed")
    assert group.kmem_tcp_max_usage_in_bytes >= 128 * KiB
    group.reset_max_usage("kmem.tcp")
    group.reset_failcnt("kmem.tcp")
    assert (group.kmem_tcp_max_usage_in_bytes, group.kmem_tcp_failcnt) == (0, 0)


def test_force_empty_gives_page_cache_back(group: memcg.CgroupV1) -> None:
    """The cache of files that a process read stays charged after it, until force_empty() reclaims it."""
    fill_cache(group, 8)
    before = group.stat.cache
    assert before >= 7 * MiB
    group.force_empty()
    assert group.stat.cache < before // 2
