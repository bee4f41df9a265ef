"""Which control files there are, which there are not, and which cannot be written."""

from __future__ import annotations

import errno
import os

import pytest

import memcg

# Of Documentation/admin-guide/cgroup-v1/memory.rst and cgroups.rst.
DOCUMENTED_V1 = [
    "cgroup.clone_children",
    "cgroup.event_control",
    "cgroup.procs",
    "cgroup.sane_behavior",
    "memory.failcnt",
    "memory.force_empty",
    "memory.kmem.failcnt",
    "memory.kmem.limit_in_bytes",
    "memory.kmem.max_usage_in_bytes",
    "memory.kmem.slabinfo",
    "memory.kmem.tcp.failcnt",
    "memory.kmem.tcp.limit_in_bytes",
    "memory.kmem.tcp.max_usage_in_bytes",
    "memory.kmem.tcp.usage_in_bytes",
    "memory.kmem.usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.memsw.failcnt",
    "memory.memsw.limit_in_bytes",
    "memory.memsw.max_usage_in_bytes",
    "memory.memsw.usage_in_bytes",
    "memory.move_charge_at_immigrate",
    "memory.numa_stat",
    "memory.oom_control",
    "memory.pressure_level",
    "memory.soft_limit_in_bytes",
    "memory.stat",
    "memory.swappiness",
    "memory.usage_in_bytes",
    "memory.use_hierarchy",
    "notify_on_release",
    "release_agent",
    "tasks",
]

# Of Documentation/admin-guide/cgroup-v2.rst.
DOCUMENTED_V2 = [
    "cgroup.controllers",
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cgroup.procs",
    "cgroup.stat",
    "cgroup.stat.local",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
    "cpu.pressure",
    "io.pressure",
    "irq.pressure",
    "memory.current",
    "memory.events",
    "memory.events.local",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.numa_stat",
    "memory.oom.group",
    "memory.peak",
    "memory.pressure",
    "memory.reclaim",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.events",
    "memory.swap.high",
    "memory.swap.max",
    "memory.swap.peak",
    "memory.zswap.current",
    "memory.zswap.max",
    "memory.zswap.writeback",
]
V1, V2 = memcg.CgroupV1, memcg.CgroupV2


def controls_of(kind: type[memcg.Cgroup]) -> dict[str, memcg.ControlFile[object]]:
    """The control files of all groups of a class, by attribute."""
    found = {attribute: getattr(kind, attribute) for attribute in dir(kind)}
    return {attribute: control for attribute, control in found.items() if isinstance(control, memcg.ControlFile)}


CONTROLS: dict[type[memcg.Cgroup], dict[str, memcg.ControlFile[object]]] = {
    kind: controls_of(kind) for kind in (memcg.CgroupV1, memcg.CgroupV2)
}
ALL = [(kind, attribute) for kind, controls in CONTROLS.items() for attribute in controls]
NO_VALUE = (memcg.CommandFile, memcg.ReclaimFile, memcg.EventControlFile, memcg.EventSource)
UNLIMITED = (memcg.LimitFile, memcg.WritableControlFile)


def need(group: memcg.Cgroup, kind: type[memcg.Cgroup]) -> None:
    """Skips what is about the other version of cgroup."""
    if not isinstance(group, kind):
        pytest.skip(f"the memory controller is on the other version here, and this is about {kind.__name__}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [(memcg.CgroupV1, name) for name in DOCUMENTED_V1] + [(memcg.CgroupV2, name) for name in DOCUMENTED_V2],
)
def test_each_documented_file_is_an_attribute(kind: type[memcg.Cgroup], name: str) -> None:
    """The attribute has the kernel's name, without "memory." and with underscores for dots."""
    assert CONTROLS[kind][name.removeprefix("memory.").replace(".", "_")].name == name


def test_each_file_of_a_real_group_is_an_attribute(group: memcg.Cgroup) -> None:
    """Nothing that this kernel has in a group is out of reach, but for a file that one vendor adds."""
    ours = {name for name in os.listdir(group.path) if name.startswith(("memory.", "cgroup.")) or "." not in name}
    assert ours - {control.name for control in CONTROLS[type(group)].values()} <= {"memory.shown_ram_in_bytes"}


def test_exists_says_what_the_directory_says(group: memcg.Cgroup) -> None:
    """exists() is true of the files that are in the directory, in a group and in the root."""
    for place in (group, memcg.root()):
        for attribute, control in CONTROLS[type(group)].items():
            assert control.exists(place) is (place.path / control.name).exists(), attribute


@pytest.mark.parametrize(("kind", "attribute"), ALL)
def test_each_file_can_be_read_or_says_that_it_is_missing(
    group: memcg.Cgroup, kind: type[memcg.Cgroup], attribute: str
) -> None:
    """Reading an attribute gives a value or a method, or ControlFileMissingError; never an unknown text format."""
    need(group, kind)
    control = CONTROLS[kind][attribute]
    if control.exists(group):
        value = getattr(group, attribute)
        assert value is not None or isinstance(control, UNLIMITED)
    elif not isinstance(control, NO_VALUE):
        with pytest.raises(memcg.ControlFileMissingError):
            getattr(group, attribute)


@pytest.mark.parametrize(
    ("kind", "attribute", "part"),
    [
        (memcg.CgroupV1, "oom_delay_millisecs", "2011"),
        (memcg.CgroupV1, "release_agent", "2.6.24"),
        (memcg.CgroupV1, "cgroup_sane_behavior", "3.10"),
        (memcg.CgroupV2, "swap_peak", "6.5"),
        (memcg.CgroupV2, "zswap_writeback", "6.8"),
        (memcg.CgroupV2, "irq_pressure", "6.1"),
        (memcg.CgroupV2, "cgroup_stat_local", "6.18"),
        (memcg.CgroupV2, "cgroup_kill", "5.14"),
        (memcg.CgroupV2, "peak", "5.19"),
    ],
)
def test_a_file_that_is_missing_says_so(
    group: memcg.Cgroup, kind: type[memcg.Cgroup], attribute: str, part: str
) -> None:
    """Reading what this kernel, or a group, does not have names the file, the path and the version."""
    need(group, kind)
    control = CONTROLS[kind][attribute]
    if control.exists(group):
        pytest.skip(f"this kernel has {control.name}")
    with pytest.raises(memcg.ControlFileMissingError, match=rf"no {control.name}.*{part}") as caught:
        control.read(group)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, memcg.NotSupportedError)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == f"{group.path}/{control.name}"
    if isinstance(control, memcg.WritableControlFile):
        value = {"oom_delay_millisecs": 1000, "release_agent": "/bin/true"}.get(attribute, True)
        with pytest.raises(memcg.ControlFileMissingError, match=control.name):
            setattr(group, attribute, value)


def test_files_of_the_root_alone_are_read_there(group_v1: memcg.CgroupV1) -> None:
    """Of the files that only the root of cgroup v1 has, one is text and one a bool."""
    root = memcg.root()
    assert isinstance(root, memcg.CgroupV1)
    if not memcg.CgroupV1.release_agent.exists(root):
        pytest.skip("this is a container: what it sees as the root is a group of the host")
    assert root.release_agent == (root.path / "release_agent").read_text().rstrip("\n")
    assert root.cgroup_sane_behavior is False


def test_files_that_the_root_of_v2_lacks_say_so(group_v2: memcg.CgroupV2) -> None:
    """What only groups below the root of cgroup v2 have is missing there, whatever the kernel's version."""
    root = memcg.root()
    assert isinstance(root, memcg.CgroupV2)
    if memcg.CgroupV2.cgroup_type.exists(root):
        pytest.skip("this is a container: what it sees as the root is a group of the host")
    for attribute in ("current", "max", "events", "oom_group", "cgroup_events", "cgroup_freeze", "cgroup_type"):
        with pytest.raises(memcg.ControlFileMissingError, match="root of the hierarchy, which has none"):
            getattr(root, attribute)
    assert root.stat.anon > 0
    assert root.pressure.some.total >= 0
    assert "memory" in root.cgroup_controllers


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [each for each in ALL if not isinstance(CONTROLS[each[0]][each[1]], memcg.WritableControlFile)],
)
def test_read_only_files_cannot_be_assigned(group: memcg.Cgroup, kind: type[memcg.Cgroup], attribute: str) -> None:
    """Assigning to what nobody can set is an AttributeError, as for any read-only attribute."""
    need(group, kind)
    with pytest.raises(AttributeError):
        setattr(group, attribute, 0)


@pytest.mark.parametrize("name", ["limit_in_byte", "hihg"])
def test_a_name_that_is_no_file_cannot_be_assigned(group: memcg.Cgroup, name: str) -> None:
    """A misspelled control file is not taken for a new attribute."""
    with pytest.raises(AttributeError):
        setattr(group, name, 4096)
    with pytest.raises(AttributeError):
        del group.limit
    assert group.limit == 32 * memcg.MiB


def test_control_files_describe_themselves() -> None:
    """On the class, an attribute tells its name, its unit, and the version that brought it; none is empty."""
    assert memcg.CgroupV1.limit_in_bytes.name == "memory.limit_in_bytes"
    assert memcg.CgroupV1.limit_in_bytes.unit == "bytes"
    assert memcg.CgroupV1.failcnt.unit == "count"
    assert memcg.CgroupV1.numa_stat.unit == "pages"
    assert memcg.CgroupV2.numa_stat.unit == "bytes"
    assert memcg.CgroupV2.events.unit == "count"
    assert repr(memcg.CgroupV1.oom_control) == "<ControlFile memory.oom_control>"
    assert repr(memcg.CgroupV2.max) == "<ControlFile memory.max>"
    for kind, attribute in ALL:
        control = CONTROLS[kind][attribute]
        assert control.since, control.name


@pytest.mark.parametrize(
    ("kind", "attribute", "value"),
    [
        (V1, "swappiness", -1),
        (V1, "swappiness", 201),
        (V1, "swappiness", "60"),
        (V1, "swappiness", True),
        (V1, "swappiness", 60.0),
        (V1, "swappiness", None),
        (V1, "notify_on_release", 2),
        (V1, "notify_on_release", "1"),
        (V1, "notify_on_release", None),
        (V1, "oom_control", 2),
        (V1, "oom_control", -1),
        (V1, "oom_control", "0"),
        (V1, "cgroup_clone_children", []),
        (V1, "use_hierarchy", 7),
        (V1, "move_charge_at_immigrate", "0"),
        (V1, "move_charge_at_immigrate", False),
        (V1, "soft_limit_in_bytes", ""),
        (V1, "soft_limit_in_bytes", "\n"),
        (V1, "limit_in_bytes", "K"),
        (V1, "limit_in_bytes", "0x1000000"),
        (V1, "limit_in_bytes", "010"),
        (V1, "limit_in_bytes", "-1"),
        (V1, "limit_in_bytes", "max"),
        (V1, "limit_in_bytes", -4096),
        (V1, "limit_in_bytes", 4095),
        (V1, "limit_in_bytes", 1),
        (V1, "limit_in_bytes", True),
        (V1, "limit_in_bytes", 1e9),
        (V1, "limit_in_bytes", b"1G"),
        (V1, "limit_in_bytes", 2**63 - 1),
        (V1, "limit_in_bytes", 2**64 + 4096),
        (V1, "limit_in_bytes", "99999999999999999999"),
        (V1, "memsw_limit_in_bytes", "1MB"),
        (V1, "kmem_tcp_limit_in_bytes", "1M\0"),
        (V1, "kmem_limit_in_bytes", "1M 2M"),
        (V2, "max", ""),
        (V2, "max", "\n"),
        (V2, "max", "K"),
        (V2, "max", "max"),
        (V2, "max", "-1"),
        (V2, "max", 4095),
        (V2, "max", "99999999999999999999"),
        (V2, "high", "0x1000000"),
        (V2, "high", 1e9),
        (V2, "low", "1MB"),
        (V2, "min", b"1G"),
        (V2, "swap_max", True),
        (V2, "swap_high", 1),
        (V2, "oom_group", 2),
        (V2, "oom_group", "1"),
        (V2, "cgroup_freeze", -1),
        (V2, "cgroup_freeze", None),
        (V2, "cgroup_pressure", "on"),
        (V2, "cgroup_max_depth", -1),
        (V2, "cgroup_max_depth", "max"),
        (V2, "cgroup_max_descendants", True),
        (V2, "cgroup_type", "domain"),
        (V2, "cgroup_type", 1),
        (V2, "cgroup_subtree_control", "memory"),
        (V2, "cgroup_subtree_control", ""),
        (V2, "cgroup_subtree_control", "+memory\n+pids;"),
        (V2, "cgroup_subtree_control", ("+memory", b"+pids")),
        (V2, "cgroup_subtree_control", 5),
    ],
)
def test_what_the_kernel_would_misread_never_reaches_it(
    group: memcg.Cgroup, kind: type[memcg.Cgroup], attribute: str, value: object
) -> None:
    """A value that is not one is refused with what would be, and the file stays as it was."""
    need(group, kind)
    before = (group.path / CONTROLS[kind][attribute].name).read_text()
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)) as caught:
        setattr(group, attribute, value)
    assert str(caught.value)
    assert (group.path / CONTROLS[kind][attribute].name).read_text() == before


@pytest.mark.parametrize("counter", ["swap", "", "memory.memsw", None, 5, []])
def test_resets_know_the_counters(group_v1: memcg.CgroupV1, counter: memcg.Counter) -> None:
    """A counter that does not exist is refused with those that do."""
    for reset in (group_v1.reset_failcnt, group_v1.reset_max_usage):
        with pytest.raises(memcg.MemcgError, match=r"memory, memsw, kmem, kmem\.tcp"):
            reset(counter)
