"""Where hierarchies are mounted, and where in them a process lives, on texts as kernels write them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg import FormatError, NoMemoryControllerError, NotACgroupError, ProcessNotFoundError
from memcg.cgroupfs import mounts
from memcg.cgroupfs.mounts import (
    Hierarchy,
    Mount,
    cgroup_path_of,
    memory_hierarchy,
    parse_mountinfo,
    parse_proc_cgroup,
)
from memcg.errors import kernel_errors

if TYPE_CHECKING:
    from collections.abc import Callable

V1 = """\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:26 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
"""
V1_CGROUP = """\
4:memory:/user.slice/user-1000.slice
3:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-1000.slice/session-1.scope
"""

V2 = """\
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""
V2_CGROUP = "0::/user.slice/user-1000.slice/session-1.scope\n"

HYBRID = V1 + "32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:11 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID_CGROUP = V1_CGROUP + "0::/user.slice/user-1000.slice/session-1.scope\n"


def mount(root: str = "/", point: str = "/mnt") -> Mount:
    """A mount of a v1 memory hierarchy."""
    return Mount(1, point, root, os.makedev(0, 29), frozenset({"rw", "memory"}))


def test_events_that_are_not_counted_in_the_groups_above() -> None:
    """The mount option memory_localevents of cgroup2 is seen, and a v1 hierarchy of that name is none."""
    plain, local = parse_mountinfo(V2 + V2.replace("nsdelegate", "memory_localevents").replace("/sys/", "/x/"))
    assert (plain.local_events, local.local_events) == (False, True)
    assert not mounted("31 30 0:26 / /m rw - cgroup cgroup rw,memory_localevents").local_events


def mounted(line: str) -> Mount:
    """The only mount of a mountinfo with that line."""
    (found,) = parse_mountinfo(f"{line}\n")
    return found


# mountinfo.


def test_the_cgroup_mounts_are_found_among_others() -> None:
    """Every cgroup file system is found, in the order of the file, and nothing else."""
    assert [(each.version, each.point) for each in parse_mountinfo(HYBRID)] == [
        (1, "/sys/fs/cgroup/systemd"),
        (1, "/sys/fs/cgroup/cpu,cpuacct"),
        (1, "/sys/fs/cgroup/memory"),
        (2, "/sys/fs/cgroup/unified"),
    ]


def test_a_v1_mount_has_its_controllers_and_device() -> None:
    """Version, place, root, device number and controllers of a v1 mount are read from its line."""
    found = parse_mountinfo(V1)[-1]
    assert (found.version, found.point, found.root) == (1, "/sys/fs/cgroup/memory", "/")
    assert found.device == os.makedev(0, 29)
    assert "memory" in found.controllers
    assert "cpu" in parse_mountinfo(V1)[-2].controllers


def test_a_v2_mount_has_no_controllers() -> None:
    """On v2 the options of the mount are not controllers, also where one sounds like it."""
    (found,) = parse_mountinfo(V2)
    assert (found.version, found.point, found.controllers) == (2, "/sys/fs/cgroup", frozenset())


@pytest.mark.parametrize("optional", ["", "shared:13 ", "shared:13 master:2 propagate_from:1 unbindable "])
def test_any_number_of_optional_fields_is_skipped(optional: str) -> None:
    """Between the options and the dash there may be none, one or several fields."""
    found = mounted(f"34 30 0:29 / /m rw {optional}- cgroup cgroup rw,memory")
    assert (found.point, found.version) == ("/m", 1)


@pytest.mark.parametrize(
    ("escaped", "path"),
    [
        (r"/with\040space", "/with space"),
        (r"/with\011tab", "/with\ttab"),
        (r"/with\012newline", "/with\nnewline"),
        (r"/with\134backslash", r"/with\backslash"),
        (r"/with\134040digits", r"/with\040digits"),
        (r"/with\043hash", "/with#hash"),
        ("/with-dash", "/with-dash"),
        ("/with\u2028separator\fand\x85more", "/with\u2028separator\fand\x85more"),
        ("/wi\udcffth/b\udc80ytes", os.fsdecode(b"/wi\xffth/b\x80ytes")),
        (r"/h\303\244lf", "/hälf"),
    ],
)
def test_odd_names_are_read_as_they_are(escaped: str, path: str) -> None:
    """Octal escapes, other white space and bytes of any encoding give the very path that open(2) takes."""
    found = mounted(f"34 30 0:29 {escaped} {escaped} rw - cgroup cgroup rw,memory")
    assert found.point == path
    assert found.root == path


def test_an_empty_source_is_no_error() -> None:
    """A mount may have been given an empty name for its device."""
    found = mounted("34 30 0:29 / /m rw - cgroup  rw,memory")
    assert "memory" in found.controllers


@pytest.mark.parametrize("source", ["cgroup", "none", "memory", r"my\040cgroups"])
def test_the_source_means_nothing(source: str) -> None:
    """What a hierarchy was called when it was mounted does not matter; the type and the options do."""
    assert "memory" in mounted(f"34 30 0:29 / /m rw - cgroup {source} rw,memory").controllers


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        "34 30 0:29 / /m",
        "34 30 0:29 / /m rw",
        "34 30 0:29 / /m - cgroup cgroup rw,memory",
        "34 30 0:29 / /m rw - cgroup",
        "34 30 0:29 / /m rw - cgroup cgroup",
        "34 30 029 / /m rw - cgroup cgroup rw,memory",
        "34 30 0:x / /m rw - cgroup cgroup rw,memory",
        "34 30 x:29 / /m rw - cgroup cgroup rw,memory",
        "",
    ],
    ids=repr,
)
def test_a_line_that_is_none_of_mountinfo_is_a_format_error(line: str) -> None:
    """A malformed line, between good ones, is a FormatError that quotes it."""
    with pytest.raises(FormatError) as caught:
        parse_mountinfo(f"{V1}{line}\n{V1}")
    assert repr(line) in str(caught.value)


def test_an_empty_mountinfo_has_no_mounts() -> None:
    """No text is no mount, and no error."""
    assert parse_mountinfo("") == []


# /proc/PID/cgroup.


def test_each_line_of_proc_cgroup_is_a_hierarchy() -> None:
    """Controllers and path of each hierarchy are told apart; cgroup v2 is the one without controllers."""
    assert parse_proc_cgroup(HYBRID_CGROUP) == [
        (frozenset({"memory"}), "/user.slice/user-1000.slice"),
        (frozenset({"cpu", "cpuacct"}), "/user.slice"),
        (frozenset({"name=systemd"}), "/user.slice/user-1000.slice/session-1.scope"),
        (frozenset(), "/user.slice/user-1000.slice/session-1.scope"),
    ]


@pytest.mark.parametrize(
    "path",
    ["/", "/a:b/c:d:", "/with space", "/..", "/../../x", "/\udcff", "/a\u2028b\fc\rd", "/a (deleted)", r"/a\b"],
)
def test_a_path_is_all_that_follows_the_second_colon(path: str) -> None:
    """Colons, blanks, backslashes and odd bytes in a path are part of it: this file has no escapes."""
    assert parse_proc_cgroup(f"4:memory:{path}\n0::{path}\n") == [
        (frozenset({"memory"}), path),
        (frozenset(), path),
    ]


@pytest.mark.parametrize("line", ["garbage", "4:memory", "", "4"], ids=repr)
def test_a_line_that_is_none_of_proc_cgroup_is_a_format_error(line: str) -> None:
    """A malformed line is a FormatError that quotes it."""
    with pytest.raises(FormatError) as caught:
        parse_proc_cgroup(f"{V1_CGROUP}{line}\n0::/\n")
    assert repr(line) in str(caught.value)


# Paths within mounts.


@pytest.mark.parametrize(
    ("root", "path", "relative"),
    [
        ("/", "/", ""),
        ("/", "/a", "a"),
        ("/", "/a/b c", "a/b c"),
        ("/", "a/b", "a/b"),
        ("/", "//a//b/", "a/b"),
        ("/docker/1f", "/docker/1f", ""),
        ("/docker/1f", "/docker/1f/a/b", "a/b"),
        ("/docker/1f", "/docker", None),
        ("/docker/1f", "/docker/1f2", None),
        ("/docker/1f", "/", None),
        ("/docker/1f", "/other/docker/1f", None),
        # A cgroup namespace below the root of the mount shows what lies above itself as "..".
        ("/..", "/..", ""),
        ("/..", "/../sibling/a", "sibling/a"),
        ("/../..", "/../../cousin", "cousin"),
        ("/../..", "/../sibling", None),
        ("/..", "/", None),
        ("/..", "/own", None),
        ("/", "/..", None),
        ("/", "/../sibling", None),
        ("/", "/a/../b", None),
        ("/../a", "/../a/b", "b"),
        ("/../a", "/../b", None),
    ],
)
def test_a_path_is_found_below_the_part_that_is_mounted(root: str, path: str, relative: str | None) -> None:
    """below() is the path relative to the mount, or None where the mount does not show that cgroup."""
    assert mount(root).below(path) == relative


PARTS = st.lists(st.text("ab.: \u00e4", min_size=1).filter(lambda part: part not in (".", "..")), max_size=4)


@given(st.integers(0, 2), PARTS, PARTS)
def test_the_way_down_is_the_way_back(up: int, root: list[str], relative: list[str]) -> None:
    """cgroup_path() undoes below(), whatever is mounted."""
    each = mount("/" + "/".join([".."] * up + root))
    path = each.cgroup_path("/".join(relative))
    assert each.below(path) == "/".join(relative)
    assert path.startswith("/")
    assert not path.endswith("/") or path == "/"


def test_the_mount_that_shows_most_is_used() -> None:
    """Where a hierarchy is mounted several times, the widest view of it that has the path is taken."""
    part, whole = mount("/docker/1f", "/container"), mount("/", "/host")
    hierarchy = Hierarchy(1, (part, whole))
    assert hierarchy.locate("/docker/1f/a")[0] == (whole, "docker/1f/a")
    assert hierarchy.locate("/other")[0] == (whole, "other")


def test_several_parts_are_told_apart() -> None:
    """Where two parts of a hierarchy are mounted, each path is found below the one that shows it."""
    one, other = mount("/docker/1f", "/one"), mount("/docker/2f", "/other")
    hierarchy = Hierarchy(1, (one, other))
    assert hierarchy.locate("/docker/1f/a")[0] == (one, "a")
    assert hierarchy.locate("/docker/2f")[0] == (other, "")


def test_of_equal_mounts_the_first_is_used() -> None:
    """Where the same is mounted twice, the order of mountinfo decides, so that paths are stable."""
    one, other = mount(point="/one"), mount(point="/other")
    assert Hierarchy(1, (one, other)).locate("/a")[0] == (one, "a")


@pytest.mark.parametrize("path", ["/docker/2f", "/", "/docker", "/.."])
def test_a_path_that_no_mount_shows_is_an_error(path: str) -> None:
    """Outside of what is mounted there is nothing to be reached: NotACgroupError says what can be seen."""
    with pytest.raises(NotACgroupError, match="cannot be seen from here, only /docker/1f at /container"):
        Hierarchy(1, (mount("/docker/1f", "/container"),)).locate(path)


# The memory hierarchy of this process.


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the texts of files in /proc, the others of which do not exist."""

    def set_texts(mountinfo: str, cgroup: str = "", **others: str) -> None:
        texts = {"/proc/self/mountinfo": mountinfo, "/proc/self/cgroup": cgroup}
        texts |= {f"/proc/{name.removeprefix('pid')}/cgroup": text for name, text in others.items()}

        def read(path: str) -> str:
            if path not in texts:
                with kernel_errors("read", path):
                    raise FileNotFoundError(2, "No such file or directory")
            return texts[path]

        monkeypatch.setattr(mounts, "_read", read)

    return set_texts


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "version", "point", "path"),
    [
        (V1, V1_CGROUP, 1, "/sys/fs/cgroup/memory", "/user.slice/user-1000.slice"),
        (HYBRID, HYBRID_CGROUP, 1, "/sys/fs/cgroup/memory", "/user.slice/user-1000.slice"),
        (V2, V2_CGROUP, 2, "/sys/fs/cgroup", "/user.slice/user-1000.slice/session-1.scope"),
    ],
    ids=["v1", "hybrid", "v2"],
)
def test_the_hierarchy_with_memory_is_found(
    proc: Callable[..., None], mountinfo: str, cgroup: str, version: int, point: str, path: str
) -> None:
    """v1, v2 and hybrid layouts are told apart, and this process is found in the right hierarchy."""
    proc(mountinfo, cgroup)
    hierarchy = memory_hierarchy()
    assert hierarchy.version == version
    assert [each.point for each in hierarchy.mounts] == [point]
    assert cgroup_path_of("self", hierarchy.version) == path


def test_v2_is_used_where_v1_has_other_controllers(proc: Callable[..., None]) -> None:
    """Where v1 hierarchies are mounted but memory is on v2, as systems have it that mix them, v2 it is."""
    without = "".join(line for line in HYBRID.splitlines(keepends=True) if not line.endswith("rw,memory\n"))
    proc(without, "3:cpu,cpuacct:/\n0::/a\n")
    assert [each.point for each in memory_hierarchy().mounts] == ["/sys/fs/cgroup/unified"]


def test_a_container_finds_itself_at_its_root(proc: Callable[..., None]) -> None:
    """A container that sees full paths, and has only its part mounted, is at the root of that mount."""
    proc(
        "34 30 0:29 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        "4:memory:/docker/1f\n",
    )
    hierarchy = memory_hierarchy()
    found, relative = hierarchy.locate(cgroup_path_of("self", hierarchy.version))[0]
    assert (found.point, relative) == ("/sys/fs/cgroup/memory", "")


def test_a_cgroup_namespace_without_a_mount_of_its_own_sees_nothing(proc: Callable[..., None]) -> None:
    """In a new cgroup namespace, the mounts of the old one do not say where in them this process is."""
    proc(
        "34 30 0:29 /.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "4:memory:/\n",
        pid7="4:memory:/../x\n",
    )
    hierarchy = memory_hierarchy()
    with pytest.raises(NotACgroupError, match=r"cannot be seen from here, only /\.\. at"):
        hierarchy.locate(cgroup_path_of("self", 1))
    assert hierarchy.locate(cgroup_path_of(7, 1))[0][1] == "x"


def test_several_mounts_of_the_hierarchy_are_all_found(proc: Callable[..., None]) -> None:
    """Every mount of the memory hierarchy counts, wherever it is."""
    proc(V1 + "99 28 0:29 / /mnt/my\\040groups rw - cgroup none rw,memory\n", V1_CGROUP)
    assert [each.point for each in memory_hierarchy().mounts] == ["/sys/fs/cgroup/memory", "/mnt/my groups"]


def test_a_v1_hierarchy_that_is_not_mounted_is_an_error_with_the_remedy(proc: Callable[..., None]) -> None:
    """Where memory is on v1 and not mounted, the message has the mount command, also where v2 is mounted."""
    for mountinfo in ("", V2):
        proc(mountinfo, V1_CGROUP)
        with pytest.raises(NoMemoryControllerError, match="mount -t cgroup -o memory"):
            memory_hierarchy()


@pytest.mark.parametrize("cgroup", ["", V2_CGROUP])
def test_no_cgroup_file_system_at_all_is_an_error_with_the_remedy(proc: Callable[..., None], cgroup: str) -> None:
    """Where nothing is mounted, the message says how to mount it."""
    proc("28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n", cgroup)
    with pytest.raises(NoMemoryControllerError, match="mount -t cgroup2"):
        memory_hierarchy()


def test_a_process_that_is_gone_is_an_error(proc: Callable[..., None]) -> None:
    """Where /proc has no such process, ProcessNotFoundError names it."""
    proc(V1, V1_CGROUP)
    with pytest.raises(ProcessNotFoundError, match="process 7") as caught:
        cgroup_path_of(7, 1)
    assert caught.value.filename == "/proc/7/cgroup"


@pytest.mark.parametrize(("version", "text"), [(1, V2_CGROUP), (2, V1_CGROUP), (1, ""), (2, "")])
def test_a_process_in_no_such_hierarchy_is_an_error(
    proc: Callable[..., None], version: mounts.Version, text: str
) -> None:
    """A process that no hierarchy with memory has raises NoMemoryControllerError."""
    proc(V1, V1_CGROUP, pid7=text)
    with pytest.raises(NoMemoryControllerError, match=f"process 7 is in no cgroup v{version} hierarchy"):
        cgroup_path_of(7, version)


def test_a_named_hierarchy_is_not_mistaken_for_the_controller(proc: Callable[..., None]) -> None:
    """A hierarchy without controllers that someone named "memory" is not the memory hierarchy."""
    proc(
        "31 30 0:26 / /named rw - cgroup cgroup rw,name=memory\n" + V2,
        "1:name=memory:/a\n0::/b\n",
    )
    hierarchy = memory_hierarchy()
    assert hierarchy.version == 2
    assert cgroup_path_of("self", 2) == "/b"


def test_this_machines_own_files_can_be_read() -> None:
    """The real files of this process parse, whatever layout it has."""
    parse_mountinfo(mounts._read("/proc/self/mountinfo"))
    assert all(path.startswith("/") for _, path in parse_proc_cgroup(mounts._read("/proc/self/cgroup")))
