"""What is said of a group of cgroup v2 without the memory controller, as its files and those above have it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from memcg import InternalProcessesError, NoMemoryControllerError
from memcg.cgroupfs.delegation import command, enable_memory, why_missing
from memcg.cgroupfs.directory import Directory
from memcg.cgroupfs.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

    Tree = dict[str, dict[str, bytes | OSError]]

MOUNT = Mount(2, "/sys/fs/cgroup", "/", os.makedev(0, 29), frozenset())
HAS = b"cpu memory pids\n"
HAS_NOT = b"cpu pids\n"


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tree], Callable[[str], Directory]]:
    """Makes a tree of groups from the texts of their files, and gives each by its path."""

    def make(files: Tree) -> Callable[[str], Directory]:
        def read(self: Directory, name: str) -> bytes:
            content = files[self.relative].get(name, OSError(errno.ENOENT, "", name))
            if isinstance(content, OSError):
                raise content
            return content

        def write(self: Directory, name: str, data: bytes) -> None:
            if files[self.relative].get("cgroup.procs"):
                raise OSError(errno.EBUSY, "", name)
            files[self.relative][name] = data

        def parent(self: Directory) -> Directory | None:
            return find(self.relative.rpartition("/")[0]) if self.relative else None

        def find(relative: str) -> Directory:
            return Directory(MOUNT, relative, hash(relative))

        monkeypatch.setattr(Directory, "read", read)
        monkeypatch.setattr(Directory, "write", write)
        monkeypatch.setattr(Directory, "parent", parent)
        return find

    return make


def group(
    controllers: bytes, enabled: bytes = b"", procs: bytes = b"", kind: bytes = b"domain\n"
) -> dict[str, bytes | OSError]:
    """The files of a group."""
    return {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": enabled,
        "cgroup.procs": procs,
        "cgroup.type": kind,
    }


def root(controllers: bytes, enabled: bytes = b"") -> dict[str, bytes | OSError]:
    """The files of the root, which has no cgroup.type."""
    files = group(controllers, enabled)
    del files["cgroup.type"]
    return files


def test_the_controller_is_enabled_once(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """Where it is not enabled yet, it is; where it is, nothing is written."""
    files: Tree = {"": root(HAS), "a": group(HAS, b"memory\n", procs=b"1\n")}
    find = tree(files)
    enable_memory(find(""))
    assert files[""]["cgroup.subtree_control"] == b"+memory"
    enable_memory(find("a"))
    assert files["a"]["cgroup.subtree_control"] == b"memory\n"


def test_a_machine_without_the_controller(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """Where the root has no memory controller, as on a Raspberry Pi, the message says how to boot with it."""
    find = tree({"": root(HAS_NOT), "a": group(HAS_NOT)})
    with pytest.raises(NoMemoryControllerError, match="cgroup_enable=memory") as caught:
        enable_memory(find(""))
    assert "/sys/fs/cgroup cannot give its children the memory controller" in str(caught.value)
    assert "it is the highest group that can be seen" in str(caught.value)
    with pytest.raises(NoMemoryControllerError, match=r"nor has /sys/fs/cgroup, the highest") as caught:
        enable_memory(find("a"))
    assert "nor has /sys/fs/cgroup" in why_missing(find("a"), "memory.max")


def test_the_group_that_does_not_pass_it_on_is_named(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """It is the lowest one above that has the controller."""
    find = tree({"": root(HAS, HAS), "a": group(HAS, HAS_NOT), "a/b": group(HAS_NOT), "a/b/c": group(HAS_NOT)})
    with pytest.raises(NoMemoryControllerError, match="/sys/fs/cgroup/a has it and does not pass it on"):
        enable_memory(find("a/b/c"))
    assert "/sys/fs/cgroup/a has it and does not pass it on" in why_missing(find("a/b/c"), "memory.max")
    assert "/sys/fs/cgroup/a does not enable the memory controller" in why_missing(find("a/b"), "memory.max")


def test_why_a_file_is_missing(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """The root, a threaded group, and a group with the controller are told apart."""
    find = tree({"": root(HAS, HAS), "a": group(HAS), "t": group(HAS_NOT, kind=b"threaded\n")})
    assert "root of the hierarchy" in why_missing(find(""), "memory.max")
    assert "root of the hierarchy" in why_missing(find(""), "cgroup.freeze")
    assert why_missing(find(""), "memory.reclaim") == "", "which the root has, where the kernel has it"
    assert why_missing(find("a"), "memory.swap.peak") == ""
    assert why_missing(find("a"), "cgroup.kill") == ""
    assert "threaded" in why_missing(find("t"), "memory.max")
    assert why_missing(find("t"), "memory.pressure") == ""


def test_what_a_container_sees_as_the_root_is_none(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """The highest group of a container has a cgroup.type, and should have the files of any group."""
    find = tree({"": group(HAS, HAS)})
    assert why_missing(find(""), "memory.peak") == ""


def test_processes_in_the_way_are_named(tree: Callable[[Tree], Callable[[str], Directory]]) -> None:
    """Those of other PID namespaces, which the kernel shows as 0, have no names."""
    own = os.getpid()
    find = tree(
        {"": root(HAS, HAS), "a": group(HAS, procs=b"0\n%d\n%d\n" % (own, own)), "b": group(HAS, procs=b"0\n")}
    )
    with pytest.raises(
        InternalProcessesError, match=rf"this one has {own} \({command(own)}\): move them"
    ) as caught:
        enable_memory(find("a"))
    assert caught.value.errno == errno.EBUSY
    assert caught.value.filename == "/sys/fs/cgroup/a/cgroup.subtree_control"
    with pytest.raises(InternalProcessesError, match="this one has some: move them"):
        enable_memory(find("b"))


def test_the_command_of_a_process_that_is_gone() -> None:
    """A process that cannot be seen has a question mark for its name."""
    assert command(2**30) == "?"
