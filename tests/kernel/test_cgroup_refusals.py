"""What is refused: bad names, groups that are gone, and callers who may not. Nothing is changed by any of it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import Cgroup, CgroupV1, CgroupV2, EventFD, MiB
from memcg.cgroupfs import directory
from support.forked import as_nobody, give_away, in_child
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_NAMES = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "/a",
    "a/",
    "../a",
    "a\0b",
    "\0",
    "a\nb",
    "\n",
    "a" * 256,
    "ü" * 128,
    "\ud800",
]


def uses_of(group: Cgroup, name: str) -> list[Callable[[], object]]:
    """Whatever takes the name of a group."""
    return [
        lambda: group.create(name),
        lambda: group.create(name, limit="8M"),
        lambda: group / name,
        lambda: memcg.temporary(parent=group, name=name).__enter__(),
    ]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_cannot_be(group: Cgroup, name: str) -> None:
    """create(), `/` and temporary() refuse what is no name of one directory, and create nothing."""
    before = settings(group)
    for use in uses_of(group, name):
        with pytest.raises(memcg.InvalidValueError) as caught:
            use()
        assert repr(name[:20])[1:-1] in str(caught.value)
        assert settings(group) == before


@pytest.mark.parametrize("name", [5, 1.5, True, b"a", ["a"], object()])
def test_names_that_are_no_text(group: Cgroup, name: str) -> None:
    """A name that is no str is refused, bytes included."""
    before = settings(group)
    for use in uses_of(group, name):
        with pytest.raises(memcg.InvalidTypeError, match="is a str") as caught:
            use()
        assert repr(name) in str(caught.value)
        assert settings(group) == before


@pytest.mark.parametrize("parent", ["/", 5, b"/", [], object()])
def test_a_parent_is_a_group(parent: Cgroup) -> None:
    """temporary() refuses a parent that is no group, such as a path."""
    with pytest.raises(memcg.InvalidTypeError, match="parent"):
        memcg.temporary(parent=parent).__enter__()


@pytest.mark.parametrize("group", ["/", None])
def test_a_file_is_asked_of_a_group(group: Cgroup) -> None:
    """A control file on the class, asked of what is no group, says what it is to be asked of."""
    with pytest.raises(memcg.InvalidTypeError):
        CgroupV1.stat.read(group)
    with pytest.raises(memcg.InvalidTypeError):
        CgroupV2.stat.exists(group)


# Whatever one can do with a group.

USES: dict[str, Callable[[Cgroup], object]] = {
    "usage": lambda group: group.usage,
    "peak": lambda group: group.peak,
    "limit": lambda group: group.limit,
    "limit =": lambda group: setattr(group, "limit", 16 * MiB),
    "limit = None": lambda group: setattr(group, "limit", None),
    "stat": lambda group: group.stat,
    "processes": lambda group: group.processes(),
    "populated": lambda group: group.populated,
    "add": lambda group: group.add(os.getpid()),
    "children": lambda group: group.children(),
    "walk": lambda group: list(group.walk()),
    "/": lambda group: group / "child",
    "create": lambda group: group.create("new"),
    "remove": lambda group: group.remove(),
    "popen": lambda group: group.popen(["/bin/true"]),
    "kill": lambda group: group.kill(),
    "oom.kills": lambda group: group.oom.kills,
    "temporary": lambda group: memcg.temporary(parent=group).__enter__(),
}
USES_V1: dict[str, Callable[[CgroupV1], object]] = {
    "numa_stat": lambda group: group.numa_stat,
    "limit_in_bytes": lambda group: group.limit_in_bytes,
    "limit_in_bytes =": lambda group: setattr(group, "limit_in_bytes", 16 * MiB),
    "soft_limit_in_bytes =": lambda group: setattr(group, "soft_limit_in_bytes", 16 * MiB),
    "swappiness": lambda group: group.swappiness,
    "swappiness =": lambda group: setattr(group, "swappiness", 10),
    "notify_on_release =": lambda group: setattr(group, "notify_on_release", True),
    "use_hierarchy =": lambda group: setattr(group, "use_hierarchy", True),
    "force_empty": lambda group: group.force_empty(),
    "reset_max_usage": lambda group: group.reset_max_usage(),
    "reset_failcnt": lambda group: group.reset_failcnt("kmem"),
    "exists of a file": CgroupV1.stat.exists,
    "tasks": lambda group: group.tasks,
    "oom.killer_enabled": lambda group: group.oom.killer_enabled,
    "oom.disable": lambda group: group.oom.disable(),
    "oom.enable": lambda group: group.oom.enable(),
    "oom.under_oom": lambda group: group.oom.under_oom,
    "oom.subscribe": lambda group: group.oom.subscribe().close(),
    "cgroup_event_control": lambda group: register(group),
}
USES_V2: dict[str, Callable[[CgroupV2], object]] = {
    "numa_stat of v2": lambda group: group.numa_stat,
    "max": lambda group: group.max,
    "max =": lambda group: setattr(group, "max", 16 * MiB),
    "high =": lambda group: setattr(group, "high", 16 * MiB),
    "oom_group =": lambda group: setattr(group, "oom_group", True),
    "events_local": lambda group: group.events_local,
    "pressure": lambda group: group.pressure,
    "reclaim": lambda group: group.reclaim("1M"),
    "freeze": lambda group: group.freeze(),
    "thaw": lambda group: group.thaw(),
    "cgroup_kill": lambda group: group.cgroup_kill(),
    "cgroup_events": lambda group: group.cgroup_events,
    "cgroup_threads": lambda group: group.cgroup_threads,
    "cgroup_max_depth =": lambda group: setattr(group, "cgroup_max_depth", 5),
    "cgroup_subtree_control =": lambda group: setattr(group, "cgroup_subtree_control", "+memory"),
    "exists of a file of v2": CgroupV2.stat.exists,
}
ALL_USES = [*USES, *USES_V1, *USES_V2]

READS = [
    "usage",
    "peak",
    "limit",
    "stat",
    "processes",
    "populated",
    "children",
    "walk",
    "/",
    "kill",  # where there is nobody to kill
    "oom.kills",
    "numa_stat",
    "limit_in_bytes",
    "swappiness",
    "exists of a file",
    "tasks",
    "oom.killer_enabled",
    "oom.under_oom",
    "numa_stat of v2",
    "max",
    "events_local",
    "pressure",
    "cgroup_events",
    "cgroup_threads",
    "exists of a file of v2",
]
WRITES = [use for use in ALL_USES if use not in READS]


def use_of(name: str, group: Cgroup) -> Callable[[], object]:
    """That use of *group*; skips what only the other version of cgroup has."""
    if name in USES:
        return lambda: USES[name](group)
    if isinstance(group, CgroupV1) and name in USES_V1:
        return lambda: USES_V1[name](group)
    if isinstance(group, CgroupV2) and name in USES_V2:
        return lambda: USES_V2[name](group)
    pytest.skip("only the other version of cgroup has this")


def register(group: CgroupV1) -> None:
    """Registers an eventfd for OOMs."""
    with EventFD() as event:
        group.cgroup_event_control(event, CgroupV1.oom_control)


@pytest.mark.parametrize("use", ALL_USES)
def test_a_group_that_is_gone(group: Cgroup, use: str) -> None:
    """Whatever one does with a group that was removed, it says so, with the path, and does nothing elsewhere."""
    child = group.create("child")
    assert child.usage == 0
    do = use_of(use, child)
    child.remove()
    before = settings(group)
    current = memcg.current()
    with pytest.raises(memcg.CgroupRemovedError, match="has been removed") as caught:
        do()
    assert caught.value.errno == errno.ENODEV
    assert str(caught.value.filename).startswith(str(child.path))
    assert settings(group) == before
    assert memcg.current() == current


def test_a_group_that_is_gone_with_all_above_it(group: Cgroup) -> None:
    """Where the parent is gone too, that is a removed group all the same; its parent is not found."""
    parent = group.create("parent")
    child = parent.create("child")
    child.remove()
    parent.remove()
    assert not child.exists
    with pytest.raises(memcg.CgroupRemovedError):
        _ = child.usage
    with pytest.raises(memcg.CgroupRemovedError):
        child.remove()
    with pytest.raises(memcg.CgroupNotFoundError):
        _ = child.parent


@pytest.mark.parametrize("use", WRITES)
def test_a_caller_who_may_not(group: Cgroup, use: str) -> None:
    """Another user can change nothing in a group of root's: each way says why, where, and what would help."""
    do = use_of(use, group)
    registers = use in ("oom.subscribe", "cgroup_event_control")
    if registers and (group.path / "cgroup.event_control").stat().st_mode & 0o002:
        pytest.skip("up to Linux 6.12 anybody may register for the events of files that they may read")
    group.create("child")
    before = settings(group)
    with pytest.raises(memcg.AccessDeniedError, match="sudo") as caught:
        as_nobody(do)
    assert caught.value.errno in (errno.EACCES, errno.EPERM)
    assert isinstance(caught.value, PermissionError)
    assert str(caught.value.filename).startswith(str(group.path))
    assert settings(group) == before


@pytest.mark.parametrize("use", READS)
def test_a_caller_who_may_only_look(group: Cgroup, use: str) -> None:
    """Another user can read what the kernel lets everyone read."""
    do = use_of(use, group)
    group.create("child")
    as_nobody(lambda: do() is None)


@pytest.mark.parametrize("use", [use for use in ALL_USES if use not in ("add", "popen")])
def test_a_caller_to_whom_a_group_was_given(group: Cgroup, use: str) -> None:
    """To a user whom root gave a group, with its files, nothing of it is refused."""
    given = group.create("given")
    do = use_of(use, given)
    given.create("child")
    give_away(given.path)
    give_away(given.path / "child")

    def try_it() -> None:
        if use == "remove":
            (given / "child").remove()
            given.create("below").remove()
        elif use == "temporary":
            with memcg.temporary(parent=given, limit="8M") as below:
                assert below.parent == given
        else:
            do()

    as_nobody(try_it)


def test_a_group_that_was_given_takes_the_processes_of_its_owner_alone(group: Cgroup) -> None:
    """Who was given a group can start and move processes into it: their own, and nobody else's."""
    given = group.create("given")
    give_away(given.path)
    root = os.getpid()

    def try_it() -> bool:
        with given.popen(["/bin/sleep", "60"]) as process:
            inside = given.processes() == tuple(sorted((process.pid, os.getpid())))
            process.kill()
        given.add(os.getpid())
        inside = inside and memcg.current() == given
        try:
            given.add(root)
        except memcg.AccessDeniedError:
            return inside
        return False

    assert as_nobody(try_it, inside=given)
    assert given.processes() == ()


def test_a_process_without_file_descriptors(group: Cgroup) -> None:
    """With no file descriptor left, whatever one does says so, with the remedy, and changes nothing."""
    group.create("child")
    before = settings(group)

    uses = [use for use in ALL_USES if use not in (USES_V2 if isinstance(group, CgroupV1) else USES_V1)]

    def try_all() -> dict[str, str]:
        directory._kept.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                os.dup(0)
        told = {}
        for use in uses:
            try:
                use_of(use, group)()
            except memcg.TooManyOpenFilesError as error:
                told[use] = str(error)
        return told

    told = in_child(try_all)
    assert list(told) == uses
    assert [error for error in told.values() if "RLIMIT_NOFILE" not in error] == []
    assert settings(group) == before


def test_temporary_tells_a_user_without_a_group_how_to_get_one() -> None:
    """Without a place to create a group, temporary() names the ways to get one."""
    with pytest.raises(memcg.AccessDeniedError) as caught:
        as_nobody(lambda: memcg.temporary().__enter__() is None)
    assert caught.value.errno == errno.EACCES
    for remedy in ("sudo", "systemd-run --user --scope -p Delegate=yes", "parent="):
        assert remedy in str(caught.value)


def test_temporary_uses_the_group_that_was_given(group: Cgroup) -> None:
    """A user in a group of their own gets temporary groups below it."""
    given = group.create("given")
    give_away(given.path)

    def try_it() -> str:
        with memcg.temporary(limit="8M") as below:
            assert below.parent == given
            with below.popen(["/bin/true"]) as process:
                assert process.wait() == 0
        return str(below.path)

    assert not os.path.exists(as_nobody(try_it, inside=given))
