"""Finding groups: root(), current(), of() and open(), and the paths that are no group's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from support.forked import in_child
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = ["/bin/sleep", "60"]


@dataclass
class Pathlike:
    """A path, as a class of somebody else's has it."""

    path: str

    def __fspath__(self) -> str:
        return self.path


@pytest.mark.parametrize(
    "spell",
    [
        lambda group: group.cgroup_path,
        lambda group: group.cgroup_path.lstrip("/"),
        lambda group: f"{group.cgroup_path}/",
        lambda group: f"//{group.cgroup_path}",
        lambda group: group.cgroup_path.replace("/", "///"),
        lambda group: group.cgroup_path.replace("/", "/./"),
        lambda group: f".{group.cgroup_path}",
        lambda group: str(group.path),
        lambda group: f"{group.path}//",
        lambda group: str(group.path).replace("/", "//"),
        lambda group: group.path,
        lambda group: Path(group.cgroup_path),
        lambda group: Pathlike(group.cgroup_path),
    ],
)
def test_open_in_all_spellings(
    group: memcg.Cgroup, spell: Callable[[memcg.Cgroup], str | os.PathLike[str]]
) -> None:
    """One group may be named by its path in the hierarchy or by its full path, written in any usual way."""
    found = memcg.open(spell(group))
    assert found == group
    assert found.cgroup_path == group.cgroup_path
    assert found.path == group.path
    assert type(found) is type(group)


@pytest.mark.parametrize("path", ["/", "//", "/.", ".", "./"])
def test_the_root_in_all_spellings(path: str) -> None:
    """The root may be opened too, and has nothing above it."""
    found = memcg.open(path)
    assert found == memcg.root()
    assert found.cgroup_path == "/"
    assert found.parent is None


def test_the_root_is_where_the_hierarchy_is_mounted() -> None:
    """root() is what open() gives for the mount point, and its directory is one of the memory controller."""
    root = memcg.root()
    assert memcg.open(root.path) == root
    assert memcg.open(f"{root.path}/") == root
    assert root.parent is None
    assert (root.path / "memory.stat").exists()
    assert root.stat.anon > 0


def test_of_follows_a_process(group: memcg.Cgroup) -> None:
    """of() is the group that a process is in now, whichever moved it there."""
    child, sibling = group.create("child"), group.create("sibling")
    with sibling.popen(SLEEP) as process:
        assert memcg.of(process.pid) == sibling
        child.add(process.pid)
        assert memcg.of(process.pid) == child
        process.kill()


def test_current_is_the_group_of_this_process(group: memcg.Cgroup) -> None:
    """current() is of() of this process, and moves with it."""
    assert memcg.current() == memcg.of(os.getpid())
    before = memcg.current()

    def move() -> tuple[bool, bool]:
        there_before = memcg.current() == before
        group.add(os.getpid())
        return there_before, memcg.current() == group

    assert in_child(move) == (True, True)
    assert memcg.current() == before


def test_of_a_process_that_is_gone() -> None:
    """of() of a PID that nobody has is a ProcessNotFoundError with the file that is not there."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(memcg.ProcessNotFoundError, match=f"process {process.pid}") as caught:
        memcg.of(process.pid)
    assert caught.value.errno == errno.ESRCH
    assert caught.value.filename == f"/proc/{process.pid}/cgroup"


def test_of_a_process_that_has_exited_but_was_not_waited_for(group: memcg.Cgroup) -> None:
    """A zombie has left its group as far as the kernel says: of() gives a group or says what is wrong."""
    process = group.popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    wait_until(lambda: not group.populated, "the group is empty")
    assert memcg.of(process.pid) in (group, memcg.root())
    process.wait()


@pytest.mark.parametrize("pid", ["1", "0x1", None, 1.0, True, b"1"])
def test_of_takes_an_int(pid: int) -> None:
    """What is no int is refused, and not looked up under /proc."""
    with pytest.raises(memcg.InvalidTypeError, match="an int"):
        memcg.of(pid)


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**64])
def test_of_numbers_that_are_no_pid(pid: int) -> None:
    """A number that no process can have is refused, or not found."""
    with pytest.raises((memcg.InvalidValueError, memcg.ProcessNotFoundError)):
        memcg.of(pid)


# Paths that are no group's.


@pytest.mark.parametrize("path", [None, 5, 1.5, True, b"/", ["/"], object()])
def test_a_path_is_text(path: str) -> None:
    """open() of what is neither text nor a path is an InvalidTypeError that says so."""
    with pytest.raises(memcg.InvalidTypeError, match="a str or a path"):
        memcg.open(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        "../etc",
        "/..",
        "/a/../b",
        "a/..",
        "/sys/fs/cgroup/memory/..",
        "/a\0",
        "\0",
        "/a\nb",
        "\n",
        "/\ud800",
    ],
)
def test_a_path_that_cannot_be_meant(path: str) -> None:
    """Empty, upwards, with NUL or newline, or with what no file system can store: refused before it is tried."""
    with pytest.raises(memcg.InvalidValueError) as caught:
        memcg.open(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", ["missing", "missing/below", "a" * 255, "a" * 256, "\udcff"])
def test_a_group_that_is_not_there(group: memcg.Cgroup, path: str) -> None:
    """A path that nobody has is a CgroupNotFoundError, in both spellings, with the directory it would be."""
    for spelling in (f"{group.cgroup_path}/{path}", f"{group.path}/{path}"):
        with pytest.raises(memcg.CgroupNotFoundError) as caught:
            memcg.open(spelling)
        assert caught.value.filename == f"{group.path}/{path}"
        assert caught.value.errno == errno.ENOENT
        assert isinstance(caught.value, FileNotFoundError)


def test_a_path_longer_than_linux_has(group: memcg.Cgroup) -> None:
    """A path beyond what the kernel takes is its ENAMETOOLONG, in our tree and with the path."""
    path = f"{group.cgroup_path}{'/a' * 5000}"
    with pytest.raises(memcg.KernelError) as caught:
        memcg.open(path)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert str(caught.value.filename).endswith(path)


@pytest.mark.parametrize("path", ["/etc", "/etc/passwd", "/sys/fs", "/proc/self", "/dev/null"])
def test_a_path_outside_the_hierarchy(path: str) -> None:
    """A file or directory that exists elsewhere is no group; the message says where groups are."""
    with pytest.raises(memcg.NotACgroupError) as caught:
        memcg.open(path)
    assert path in str(caught.value)
    assert str(memcg.root().path) in str(caught.value)


def test_a_group_of_another_hierarchy() -> None:
    """A cgroup without the memory controller, such as of the cpu hierarchy, is refused with where memory is."""
    others = [
        fields[4]
        for fields in (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
        if fields[fields.index("-") + 1] == "cgroup" and "memory" not in fields[-1].split(",")
    ]
    if not others:
        pytest.skip("no other v1 hierarchy is mounted here")
    for path in others:
        with pytest.raises(memcg.NotACgroupError, match="memory controller"):
            memcg.open(path)


def test_a_control_file_is_no_group(group: memcg.Cgroup) -> None:
    """A file in a group's directory is not taken for a group, in either spelling."""
    for path in (f"{group.cgroup_path}/memory.stat", group.path / "memory.stat"):
        with pytest.raises(memcg.NotACgroupError, match=r"memory\.stat"):
            memcg.open(path)


def test_a_symlink_to_a_group_is_not_followed(group: memcg.Cgroup, tmp_path: Path) -> None:
    """A symlink that somebody planted, to a group or to the whole hierarchy, leads nowhere."""
    (tmp_path / "group").symlink_to(group.path)
    (tmp_path / "mount").symlink_to(memcg.root().path)
    for path in (tmp_path / "group", tmp_path / "mount", tmp_path / "mount" / group.name):
        if not os.path.lexists(path):
            continue
        with pytest.raises(memcg.NotACgroupError) as caught:
            memcg.open(path)
        assert str(path) in str(caught.value)


# Odd mounts, each in a mount namespace of its own.


def in_mount_namespace(script: str, *arguments: object) -> str:
    """What *script* prints, run with mounts of its own: what it mounts, nobody else sees."""
    process = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if process.returncode == 1 and "unshare failed" in process.stderr:
        pytest.skip("no mount namespace can be made here")
    assert process.returncode == 0, process.stderr
    return process.stdout


COVER = """
import subprocess, sys
import memcg
group = memcg.open(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", group.path], check=True)
for use in (lambda: memcg.open(sys.argv[1]), lambda: group.usage, lambda: group.create("x"), group.children):
    try:
        use()
    except memcg.NotACgroupError as error:
        print(error)
"""


def test_what_is_mounted_over_a_group_is_not_taken_for_it(group: memcg.Cgroup) -> None:
    """A file system mounted over the directory of a group is refused, and nothing is created in it."""
    lines = in_mount_namespace(COVER, group.cgroup_path).splitlines()
    assert len(lines) == 4
    assert all(str(group.path) in line for line in lines)


CONTAINER = """
import os, subprocess, sys
import memcg
path, place, stranger = sys.argv[1], sys.argv[2], int(sys.argv[3])
inside = memcg.open(path)
mount = str(memcg.root().path)
subprocess.run(["mount", "--bind", inside.path, place], check=True)
subprocess.run(["umount", mount], check=True)
root = memcg.root()
assert root == inside, root
assert (str(root.path), root.cgroup_path, root.parent) == (place, path, None), root
child = root / "child"
assert (child.cgroup_path, str(child.path)) == (f"{path}/child", f"{place}/child")
assert memcg.open(f"{path}/child") == memcg.open(f"{place}/child") == child
assert child.parent == root
process = child.popen(["/bin/sleep", "60"])
assert memcg.of(process.pid) == child
process.kill()
process.wait()
for outside in (lambda: memcg.of(stranger), lambda: memcg.open("/")):
    try:
        outside()
    except memcg.NotACgroupError as error:
        print(error)
"""


def test_a_part_of_the_hierarchy_at_an_odd_place(group: memcg.Cgroup, tmp_path: Path) -> None:
    """Where only one group is mounted, under a name with a space, that is the root; all else cannot be seen."""
    place = tmp_path / "odd \\ place"
    place.mkdir()
    group.create("child")
    outside = subprocess.Popen(SLEEP)
    try:
        lines = in_mount_namespace(CONTAINER, group.cgroup_path, place, outside.pid).splitlines()
    finally:
        with outside:
            outside.kill()
    assert len(lines) == 2
    assert all(f"{group.cgroup_path} at {place}" in line for line in lines)
