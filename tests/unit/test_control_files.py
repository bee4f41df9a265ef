"""Control files as attributes: what they tell without a file being read, and how what is read becomes a value."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import (
    AccessDeniedError,
    CgroupRemovedError,
    CgroupV1,
    CommandFile,
    ControlFile,
    ControlFileMissingError,
    EventControlFile,
    EventFD,
    EventSource,
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    KernelError,
    LimitBelowUsageError,
    LimitFile,
    NumaStatV1,
    OomControlV1,
    WritableControlFile,
)
from memcg.cgroupfs.directory import Directory
from memcg.cgroupfs.mounts import Mount
from memcg.controls.v1 import ControlFilesV1

if TYPE_CHECKING:
    from collections.abc import Callable

FILES: dict[str, ControlFile[object]] = {
    name: file for name, file in vars(ControlFilesV1).items() if isinstance(file, ControlFile)
}

# Every control file of the memory controller and of the cgroup core, as cgroup v1 has them.
KERNEL_FILES = set(
    """
memory.usage_in_bytes memory.max_usage_in_bytes memory.limit_in_bytes memory.soft_limit_in_bytes memory.failcnt
memory.stat memory.force_empty memory.use_hierarchy memory.swappiness memory.move_charge_at_immigrate
memory.oom_control memory.oom_delay_millisecs memory.pressure_level memory.numa_stat
memory.memsw.usage_in_bytes memory.memsw.max_usage_in_bytes memory.memsw.limit_in_bytes memory.memsw.failcnt
memory.kmem.usage_in_bytes memory.kmem.max_usage_in_bytes memory.kmem.limit_in_bytes memory.kmem.failcnt
memory.kmem.slabinfo
memory.kmem.tcp.usage_in_bytes memory.kmem.tcp.max_usage_in_bytes memory.kmem.tcp.limit_in_bytes
memory.kmem.tcp.failcnt
cgroup.procs cgroup.event_control cgroup.clone_children cgroup.sane_behavior
tasks notify_on_release release_agent
""".split()  # noqa: SIM905 - a table
)

NOWHERE = Mount(1, "/nowhere", "/", 0, frozenset({"memory"}))


@dataclass(frozen=True)
class TextDirectory(Directory):
    """A directory that is not there, whose files all read the same, and are written to a list."""

    answer: bytes | OSError
    written: list[tuple[str, bytes]]

    def read(self, name: str) -> bytes:
        """The text, or the error."""
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    read_kept = read

    def write(self, name: str, data: bytes) -> None:
        """Keeps it, or the error."""
        if isinstance(self.answer, OSError):
            raise self.answer
        self.written.append((name, data))


def group(answer: bytes | OSError = b"") -> CgroupV1:
    """A group with such files; any real access would fail, as there is nothing at its path."""
    return CgroupV1(TextDirectory(NOWHERE, "jobs/7", 0, answer, []))


def written(group: CgroupV1) -> list[tuple[str, bytes]]:
    """What was written to the files of that group."""
    assert isinstance(group._directory, TextDirectory)
    return group._directory.written


def failing(number: int) -> OSError:
    """The kernel's refusal."""
    return OSError(number, os.strerror(number))


# On the class.


def test_every_control_file_of_the_kernel_is_an_attribute() -> None:
    """The attributes and the kernel's files correspond one to one."""
    assert {file.name for file in FILES.values()} == KERNEL_FILES
    assert len(FILES) == len(KERNEL_FILES) == 34


@pytest.mark.parametrize("attribute", FILES)
def test_an_attribute_is_named_as_the_file(attribute: str) -> None:
    """The name is the kernel's, without "memory." and with underscores for dots."""
    assert attribute == FILES[attribute].name.removeprefix("memory.").replace(".", "_")


@pytest.mark.parametrize("attribute", FILES)
def test_on_the_class_an_attribute_is_the_file_itself(attribute: str) -> None:
    """On CgroupV1 there is the ControlFile, with its name, unit and version, and a repr that names it."""
    file = getattr(CgroupV1, attribute)
    assert file is FILES[attribute]
    assert repr(file) == f"<ControlFile {file.name}>"
    assert re.fullmatch(r"[2-9]\.\d+(\.\d+)?", file.since) or file.name == "memory.oom_delay_millisecs"


@pytest.mark.parametrize("attribute", FILES)
def test_the_unit_is_that_of_the_name(attribute: str) -> None:
    """Names that say what they count have that unit, and what holds no single quantity has none."""
    name = FILES[attribute].name
    if name.endswith("_in_bytes"):
        expected = "bytes"
    elif name.endswith("failcnt"):
        expected = "count"
    else:
        expected = {"memory.numa_stat": "pages", "memory.oom_delay_millisecs": "milliseconds"}.get(name, "")
    assert FILES[attribute].unit == expected


def test_the_kinds_of_files_are_told_apart() -> None:
    """Limits, commands, sources of events and files that can be written each have their class."""

    def names(kind: type[ControlFile[object]]) -> set[str]:
        return {name for name, file in FILES.items() if type(file) is kind}

    assert names(LimitFile) == {name for name in FILES if name.endswith("limit_in_bytes")}
    assert names(CommandFile) == {"force_empty"}
    assert names(EventSource) == {"pressure_level"}
    assert names(EventControlFile) == {"cgroup_event_control"}
    assert names(WritableControlFile) == {
        "swappiness",
        "oom_control",
        "oom_delay_millisecs",
        "use_hierarchy",
        "move_charge_at_immigrate",
        "notify_on_release",
        "release_agent",
        "cgroup_clone_children",
    }


def test_showing_a_group_reads_no_file() -> None:
    """What a group is can be told, compared and shown while there is nothing at its path."""
    group = CgroupV1(Directory(NOWHERE, "jobs/7", 5))
    assert repr(group) == "<memcg.CgroupV1 '/jobs/7'>"
    assert repr(group.oom) == "<memcg.OomController '/jobs/7'>"
    assert (group.name, group.cgroup_path, str(group.path)) == ("7", "/jobs/7", "/nowhere/jobs/7")
    assert group == CgroupV1(Directory(NOWHERE, "moved", 5)) != CgroupV1(Directory(NOWHERE, "jobs/7", 6))
    assert len({group, CgroupV1(Directory(NOWHERE, "jobs/7", 5))}) == 1
    assert group != "/jobs/7"
    dir(group)
    with pytest.raises(CgroupRemovedError):
        _ = group.usage_in_bytes


def test_methods_can_be_had_without_being_called() -> None:
    """A file that is a method, and a source of events, is no access by itself."""
    group = CgroupV1(Directory(NOWHERE, "jobs/7", 5))
    assert callable(group.force_empty)
    assert callable(group.cgroup_event_control)
    assert group.pressure_level is CgroupV1.pressure_level


# Reading.


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        (b"4096\n", lambda group: group.usage_in_bytes, 4096),
        (b"4096\n", lambda group: group.limit_in_bytes, 4096),
        (b"9223372036854771712\n", lambda group: group.limit_in_bytes, None),
        (b"1\n", lambda group: group.use_hierarchy, True),
        (b"60\n", lambda group: group.swappiness, 60),
        (b"7\n3\n", lambda group: group.tasks, (7, 3)),
        (b"7\n0\n3\n7\n", lambda group: group.processes(), (3, 7)),
        (b"/sbin/agent\n", lambda group: group.release_agent, "/sbin/agent"),
        (
            b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            lambda group: group.oom_control,
            OomControlV1(False, False, 2),
        ),
        (
            b"total=1 N0=1\nfile=1 N0=1\nanon=0 N0=0\nunevictable=0 N0=0\n",
            lambda group: group.numa_stat,
            NumaStatV1({None: 1, 0: 1}, {None: 1, 0: 1}, {None: 0, 0: 0}, {None: 0, 0: 0}),
        ),
    ],
)
def test_an_attribute_of_a_group_is_the_files_value(
    text: bytes, read: Callable[[CgroupV1], object], value: object
) -> None:
    """On a group, an attribute is what its file holds, typed."""
    assert read(group(text)) == value


@pytest.mark.parametrize(
    "attribute",
    [name for name, file in FILES.items() if not isinstance(file, (CommandFile, EventSource, EventControlFile))],
)
def test_a_text_that_is_none_is_a_format_error(attribute: str) -> None:
    """Each file that does not read as documented is a FormatError with its path and its text."""
    if FILES[attribute].name in ("release_agent", "memory.kmem.slabinfo"):  # any text will do
        assert getattr(group(b"\xff?\n"), attribute) == "\udcff?"
        return
    with pytest.raises(FormatError) as caught:
        getattr(group(b"\xff?\n"), attribute)
    assert f"/nowhere/jobs/7/{FILES[attribute].name} reads b'\\xff?\\n'" in str(caught.value)


@pytest.mark.parametrize("attribute", ["oom_control", "stat", "numa_stat", "cgroup_sane_behavior", "failcnt"])
def test_a_file_that_is_empty_is_a_format_error(attribute: str) -> None:
    """A file with required keys, or a number, that is empty does not read as documented."""
    with pytest.raises(FormatError):
        getattr(group(b""), attribute)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, ControlFileMissingError),
        (errno.ENODEV, CgroupRemovedError),
        (errno.EACCES, AccessDeniedError),
        (errno.EINVAL, KernelError),
    ],
)
def test_a_refusal_of_the_kernel_becomes_an_error_of_the_tree(number: int, kind: type[OSError]) -> None:
    """What the kernel answers to a read has its class, with the errno and the path of the file."""
    with pytest.raises(kind) as caught:
        _ = group(failing(number)).memsw_usage_in_bytes
    assert type(caught.value) is kind
    assert caught.value.errno == number
    assert caught.value.filename == "/nowhere/jobs/7/memory.memsw.usage_in_bytes"


def test_a_missing_file_is_told_with_its_version() -> None:
    """Where a kernel lacks a file, the error names the file and the version that brought it."""
    with pytest.raises(ControlFileMissingError, match=r"no memory\.numa_stat, which came with Linux 3\.0"):
        _ = group(failing(errno.ENOENT)).numa_stat


def test_a_group_without_swap_accounting_has_no_memsw_in_the_way() -> None:
    """The class says which files may be missing, and FileNotFoundError catches it."""
    with pytest.raises(FileNotFoundError):
        _ = group(failing(errno.ENOENT)).memsw_limit_in_bytes


# Writing.


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("limit_in_bytes", 64 * memcg.MiB, b"67108864"),
        ("limit_in_bytes", "64M", b"67108864"),
        ("limit_in_bytes", None, b"-1"),
        ("soft_limit_in_bytes", "1.5GiB", b"1610612736"),
        ("memsw_limit_in_bytes", PAGESIZE, b"%d" % PAGESIZE),
        ("kmem_tcp_limit_in_bytes", 0, b"0"),
        ("oom_control", True, b"1"),
        ("oom_control", False, b"0"),
        ("use_hierarchy", True, b"1"),
        ("swappiness", 0, b"0"),
        ("swappiness", 200, b"200"),
        ("move_charge_at_immigrate", 3, b"3"),
        ("oom_delay_millisecs", 10_000, b"10000"),
        ("release_agent", "/sbin/agent", b"/sbin/agent"),
        ("release_agent", "", b""),
        ("notify_on_release", 1, b"1"),
    ],
)
def test_assigning_writes_what_the_kernel_reads(attribute: str, value: object, text: bytes) -> None:
    """What is assigned reaches the right file, in the kernel's own terms, in one write."""
    one = group()
    setattr(one, attribute, value)
    assert written(one) == [(FILES[attribute].name, text)]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *[("limit_in_bytes", value) for value in ("", "\n", "K", "0x10", "010", "-1", "max", -1, 2**64, 1, "1B")],
        *[("limit_in_bytes", value) for value in (True, 1.5, b"1M", [1])],
        *[("oom_control", value) for value in (2, "1", None, "yes")],
        *[("swappiness", value) for value in (-1, 201, "60", True, None, 1.5)],
        *[("move_charge_at_immigrate", value) for value in ("1", True, None)],
        *[("release_agent", value) for value in ("a\nb", "a\0", b"a", None, 1)],
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_not_written(attribute: str, value: object) -> None:
    """What the kernel would misread, or is of another type, is an error before the kernel sees it."""
    one = group()
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        setattr(one, attribute, value)
    assert written(one) == []


@pytest.mark.parametrize(
    "attribute", ["usage_in_bytes", "failcnt", "stat", "cgroup_procs", "force_empty", "pressure_level"]
)
def test_what_cannot_be_written_cannot_be_assigned(attribute: str) -> None:
    """Assigning to a file that is read-only, or a method, is an AttributeError, and hides nothing."""
    one = group(b"5\n")
    with pytest.raises(AttributeError):
        setattr(one, attribute, 1)
    assert written(one) == []


def test_an_attribute_that_is_no_file_cannot_be_assigned() -> None:
    """A misspelt name is an error, and not a new attribute that changes nothing."""
    with pytest.raises(AttributeError):
        group().limit_in_byte = 5  # type: ignore[attr-defined]


def test_a_limit_below_usage_has_a_class_of_its_own() -> None:
    """EBUSY on a limit says that usage cannot be reclaimed, and that the old one stays; elsewhere it is plain."""
    with pytest.raises(LimitBelowUsageError, match="the former limit stays"):
        group(failing(errno.EBUSY)).limit_in_bytes = "1M"
    with pytest.raises(memcg.CgroupBusyError) as caught:
        group(failing(errno.EBUSY)).use_hierarchy = True
    assert type(caught.value) is memcg.CgroupBusyError


def test_a_refused_write_says_what_was_written_where() -> None:
    """The message has the value, the file, the reason and the remedy."""
    with pytest.raises(KernelError, match=r"cannot write '1' to memory\.oom_control: Invalid argument: the root"):
        group(failing(errno.EINVAL)).oom_control = True


def test_a_command_is_a_method() -> None:
    """force_empty() writes to its file."""
    one = group()
    one.force_empty()
    assert written(one) == [("memory.force_empty", b"1")]


@pytest.mark.parametrize(
    ("counter", "prefix"), [("memory", ""), ("memsw", "memsw."), ("kmem", "kmem."), ("kmem.tcp", "kmem.tcp.")]
)
def test_counters_are_reset_by_methods(counter: memcg.Counter, prefix: str) -> None:
    """reset_failcnt() and reset_max_usage() write to the file of the counter that is named."""
    one = group()
    one.reset_failcnt(counter)
    one.reset_max_usage(counter)
    assert written(one) == [
        (f"memory.{prefix}failcnt", b"0"),
        (f"memory.{prefix}max_usage_in_bytes", b"0"),
    ]


@pytest.mark.parametrize("counter", ["", "swap", "kmem_tcp", None, 1], ids=repr)
def test_a_counter_that_is_none_is_refused(counter: object) -> None:
    """Only the four counters can be reset; the message names them."""
    one = group()
    for reset in (one.reset_failcnt, one.reset_max_usage):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=r"memory, memsw, kmem, kmem\.tcp"):
            reset(counter)  # type: ignore[arg-type]
    assert written(one) == []


@pytest.mark.parametrize("source", ["memory.oom_control", None, 5, OomControlV1(False, False)], ids=repr)
def test_a_source_of_events_is_a_control_file(source: object) -> None:
    """Registering anything else, such as the file's name or its value, is an InvalidTypeError."""
    with EventFD() as event, pytest.raises(InvalidTypeError, match=r"a source is a control file"):
        group().cgroup_event_control(event, source)  # type: ignore[arg-type]
