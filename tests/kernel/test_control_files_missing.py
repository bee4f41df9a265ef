"""Which control files there are, which there are not, and which cannot be written."""

from __future__ import annotations

import errno
import os

import pytest

import memcg

# Of Documentation/admin-guide/cgroup-v1/memory.rst and cgroups.rst.
DOCUMENTED = [
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

CONTROLS: dict[str, memcg.ControlFile[object]] = {
    attribute: getattr(memcg.CgroupV1, attribute)
    for attribute in dir(memcg.CgroupV1)
    if isinstance(getattr(memcg.CgroupV1, attribute), memcg.ControlFile)
}
READ_ONLY = [
    attribute for attribute, control in CONTROLS.items() if not isinstance(control, memcg.WritableControlFile)
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_documented_file_is_an_attribute(name: str) -> None:
    """The attribute has the kernel's name, without "memory." and with underscores for dots."""
    assert CONTROLS[name.removeprefix("memory.").replace(".", "_")].name == name


def test_each_file_of_a_real_group_is_an_attribute(group: memcg.CgroupV1) -> None:
    """Nothing that this kernel has in a group is out of reach, but for a file that one vendor adds."""
    ours = {name for name in os.listdir(group.path) if name.startswith(("memory.", "cgroup.")) or "." not in name}
    assert ours - {control.name for control in CONTROLS.values()} <= {"memory.shown_ram_in_bytes"}


def test_exists_says_what_the_directory_says(nursery: memcg.Cgroup, group: memcg.CgroupV1) -> None:
    """exists() is true of the files that are in the directory, in a group and in the root."""
    for place in (group, memcg.root()):
        for attribute, control in CONTROLS.items():
            assert control.exists(place) is (place.path / control.name).exists(), attribute


@pytest.mark.parametrize("attribute", CONTROLS)
def test_each_file_can_be_read_or_says_that_it_is_missing(group: memcg.CgroupV1, attribute: str) -> None:
    """Reading an attribute gives a value or a method, or ControlFileMissingError; never an unknown text format."""
    control = CONTROLS[attribute]
    if control.exists(group):
        value = getattr(group, attribute)
        assert value is not None or isinstance(control, memcg.LimitFile)
    elif not isinstance(control, (memcg.CommandFile, memcg.EventControlFile, memcg.EventSource)):
        with pytest.raises(memcg.ControlFileMissingError):
            getattr(group, attribute)


def test_a_file_that_no_kernel_has_says_so(group: memcg.CgroupV1) -> None:
    """oom_delay_millisecs was never merged: reading and assigning name the file, the path and the version."""
    assert not memcg.CgroupV1.oom_delay_millisecs.exists(group)
    for use in (
        lambda: group.oom_delay_millisecs,
        lambda: setattr(group, "oom_delay_millisecs", 1000),
    ):
        with pytest.raises(memcg.ControlFileMissingError, match=r"no memory\.oom_delay_millisecs.*2011") as caught:
            use()
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, memcg.NotSupportedError)
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == f"{group.path}/memory.oom_delay_millisecs"


@pytest.mark.parametrize(("attribute", "since"), [("release_agent", "2.6.24"), ("cgroup_sane_behavior", "3.10")])
def test_files_of_the_root_alone_are_missing_elsewhere(group: memcg.CgroupV1, attribute: str, since: str) -> None:
    """What only the root has is missing in a group, with the version that brought it."""
    with pytest.raises(memcg.ControlFileMissingError, match=since):
        getattr(group, attribute)


def test_files_of_the_root_alone_are_read_there() -> None:
    """Of the files that only the root has, one is text and one a bool."""
    root = memcg.root()
    assert isinstance(root, memcg.CgroupV1)
    if not memcg.CgroupV1.release_agent.exists(root):
        pytest.skip("this is a container: what it sees as the root is a group of the host")
    assert root.release_agent == (root.path / "release_agent").read_text().rstrip("\n")
    assert root.cgroup_sane_behavior is False


def test_a_file_of_the_root_alone_cannot_be_written_elsewhere(group: memcg.CgroupV1) -> None:
    """Assigning release_agent in a group fails as reading it does."""
    with pytest.raises(memcg.ControlFileMissingError, match="release_agent"):
        group.release_agent = "/bin/true"


@pytest.mark.parametrize("attribute", READ_ONLY)
def test_read_only_files_cannot_be_assigned(group: memcg.CgroupV1, attribute: str) -> None:
    """Assigning to what nobody can set is an AttributeError, as for any read-only attribute."""
    with pytest.raises(AttributeError):
        setattr(group, attribute, 0)


def test_a_name_that_is_no_file_cannot_be_assigned(group: memcg.CgroupV1) -> None:
    """A misspelled control file is not taken for a new attribute."""
    with pytest.raises(AttributeError):
        group.limit_in_byte = 4096  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del group.limit_in_bytes
    assert group.limit_in_bytes == 32 * memcg.MiB


def test_control_files_describe_themselves() -> None:
    """On the class, an attribute tells its name, its unit, and the version that brought it; none is empty."""
    assert memcg.CgroupV1.limit_in_bytes.name == "memory.limit_in_bytes"
    assert memcg.CgroupV1.limit_in_bytes.unit == "bytes"
    assert memcg.CgroupV1.failcnt.unit == "count"
    assert memcg.CgroupV1.numa_stat.unit == "pages"
    assert repr(memcg.CgroupV1.oom_control) == "<ControlFile memory.oom_control>"
    for control in CONTROLS.values():
        assert control.since, control.name


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("swappiness", -1),
        ("swappiness", 201),
        ("swappiness", "60"),
        ("swappiness", True),
        ("swappiness", 60.0),
        ("swappiness", None),
        ("notify_on_release", 2),
        ("notify_on_release", "1"),
        ("notify_on_release", None),
        ("oom_control", 2),
        ("oom_control", -1),
        ("oom_control", "0"),
        ("cgroup_clone_children", []),
        ("use_hierarchy", 7),
        ("move_charge_at_immigrate", "0"),
        ("move_charge_at_immigrate", False),
        ("soft_limit_in_bytes", ""),
        ("soft_limit_in_bytes", "\n"),
        ("limit_in_bytes", "K"),
        ("limit_in_bytes", "0x1000000"),
        ("limit_in_bytes", "010"),
        ("limit_in_bytes", "-1"),
        ("limit_in_bytes", "max"),
        ("limit_in_bytes", -4096),
        ("limit_in_bytes", 4095),
        ("limit_in_bytes", 1),
        ("limit_in_bytes", True),
        ("limit_in_bytes", 1e9),
        ("limit_in_bytes", b"1G"),
        ("limit_in_bytes", 2**63 - 1),
        ("limit_in_bytes", 2**64 + 4096),
        ("limit_in_bytes", "99999999999999999999"),
        ("memsw_limit_in_bytes", "1MB"),
        ("kmem_tcp_limit_in_bytes", "1M\0"),
        ("kmem_limit_in_bytes", "1M 2M"),
    ],
)
def test_what_the_kernel_would_misread_never_reaches_it(
    group: memcg.CgroupV1, attribute: str, value: object
) -> None:
    """A value that is not one is refused with what would be, and the file stays as it was."""
    before = (group.path / CONTROLS[attribute].name).read_text()
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)) as caught:
        setattr(group, attribute, value)
    assert str(caught.value)
    assert (group.path / CONTROLS[attribute].name).read_text() == before


@pytest.mark.parametrize("counter", ["swap", "", "memory.memsw", None, 5, []])
def test_resets_know_the_counters(group: memcg.CgroupV1, counter: memcg.Counter) -> None:
    """A counter that does not exist is refused with those that do."""
    for reset in (group.reset_failcnt, group.reset_max_usage):
        with pytest.raises(memcg.MemcgError, match=r"memory, memsw, kmem, kmem\.tcp"):
            reset(counter)
