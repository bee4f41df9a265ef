"""Groups: creating, finding one's way among them, moving processes, removing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import memcg
from memcg import MiB
from support.processes import finish, start_hog, wait_until
from support.scripts import say, start_python
from support.settings import settings

SLEEP = ["/bin/sleep", "60"]

ODD_NAMES = [
    "a b",
    "tab\there",
    "back\\slash",
    "\\134",
    "colon:x",
    "-rf",
    "é\u2028ü",
    "\udcff\udcfe",
    "a" * 255,
    "...",
]


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills *process* and waits for it."""
    with process:
        process.kill()


# What a group is.


def test_a_new_group_is_there_and_empty(group: memcg.Cgroup) -> None:
    """create() makes a directory, and its group says where it is, what it is named, and that nothing is in it."""
    child = group.create("child")
    assert child.path == group.path / "child"
    assert child.path.is_dir()
    assert child.name == "child"
    assert child.cgroup_path == f"{group.cgroup_path}/child"
    assert child.parent == group
    assert child.exists
    assert child.processes() == ()
    assert child.children() == ()
    assert not child.populated
    assert child.limit is None
    assert type(child) is type(group)


def test_a_group_can_be_created_with_a_limit(group: memcg.Cgroup) -> None:
    """The limit is in force when create() returns, rounded down to a page."""
    assert group.create("number", limit=8 * MiB).limit == 8 * MiB
    assert group.create("text", limit="10K").limit == 8192


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_that_linux_allows(group: memcg.Cgroup, name: str) -> None:
    """A group may be named as any directory may, and is found again under that name, and from its processes."""
    child = group.create(name)
    assert child.name == name
    assert group / name == child
    assert group.children() == (child,)
    assert memcg.open(child.cgroup_path) == child
    assert memcg.open(child.path) == child
    process = child.popen(SLEEP)
    assert memcg.of(process.pid) == child
    end(process)
    child.remove()
    assert group.children() == ()


def test_equality_is_of_the_directory_not_of_the_path(group: memcg.Cgroup) -> None:
    """Two groups are equal, with equal hashes, if they name one directory; one made later is another."""
    first = group.create("child")
    again = group / "child"
    assert first == again
    assert hash(first) == hash(again)
    assert first is not again
    assert first != group
    assert first != first.path
    assert len({first, again, group}) == 2
    first.remove()
    second = group.create("child")
    assert first != second
    assert not first.exists
    assert second.exists


def test_what_a_group_is_can_be_told_after_it_is_gone(group: memcg.Cgroup) -> None:
    """repr(), the names, equality and the hash read no file: they work on a group that was removed."""
    child = group.create("child")
    child.remove()
    assert repr(child) == f"<memcg.{type(group).__name__} '{group.cgroup_path}/child'>"
    assert (child.name, child.path) == ("child", group.path / "child")
    assert child.cgroup_path == f"{group.cgroup_path}/child"
    assert {child: "found"}[child] == "found"
    assert child.parent == group
    assert repr(child.oom) == f"<memcg.OomController '{group.cgroup_path}/child'>"


def test_a_group_is_a_value(group: memcg.Cgroup) -> None:
    """What a group is cannot be assigned."""
    for attribute in ("name", "path", "cgroup_path", "parent", "exists", "usage", "populated"):
        with pytest.raises(AttributeError):
            setattr(group, attribute, None)


# The tree.


def test_children_and_walk(group: memcg.Cgroup) -> None:
    """children() are sorted by name; walk() has each group before those below it, itself first."""
    for name in ("b", "a", "c"):
        group.create(name)
    deep = (group / "a").create("x").create("y")
    assert [child.name for child in group.children()] == ["a", "b", "c"]
    assert [each.name for each in group.walk()] == [group.name, "a", "x", "y", "b", "c"]
    assert list((group / "b").walk()) == [group / "b"]
    assert deep.parent == group / "a" / "x"


def test_parents_lead_to_the_root(group: memcg.Cgroup) -> None:
    """Going up by parent passes each group above, and ends with None at the root."""
    ancestors = []
    above: memcg.Cgroup | None = group
    while above is not None:
        ancestors.append(above)
        above = above.parent
    assert ancestors[-1] == memcg.root()
    assert [each.path for each in ancestors] == [group.path, *group.path.parents][: len(ancestors)]


def test_groups_that_go_during_a_walk_are_left_out(group: memcg.Cgroup) -> None:
    """Removing groups while walk() goes through them does not break it."""
    for name in ("a", "b", "c"):
        group.create(name).create("below")
    walk = group.walk()
    assert next(walk) == group
    assert next(walk).name == "a"
    for gone in (group / "a" / "below", group / "b" / "below", group / "b"):
        gone.remove()
    assert [each.name for each in walk] == ["c", "below"]


def test_a_walk_takes_what_it_finds_when_it_gets_there(group: memcg.Cgroup) -> None:
    """While others create and remove groups, children() and walk() never fail, and never miss what stays."""
    stays = group.create("stays")
    over = threading.Event()

    def churn(number: int) -> None:
        while not over.is_set():
            group.create(f"churn-{number}").remove()

    with ThreadPoolExecutor(2) as pool:
        churning = [pool.submit(churn, number) for number in range(2)]
        try:
            for _ in range(300):
                assert stays in group.children()
                assert stays in list(group.walk())
                assert not group.populated
        finally:
            over.set()
        for each in churning:
            each.result()


def test_a_name_below_must_exist(group: memcg.Cgroup) -> None:
    """The child of a name that nobody has is a CgroupNotFoundError with the whole path; also of a control file."""
    with pytest.raises(memcg.CgroupNotFoundError) as caught:
        group / "missing"
    assert caught.value.filename == f"{group.path}/missing"
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(memcg.NotACgroupError, match=r"memory\.stat"):
        group / "memory.stat"


# Creating.


def test_a_name_is_taken_once(group: memcg.Cgroup) -> None:
    """create() of a name that a group, or a control file, has is refused, and the group stays as it was."""
    child = group.create("child", limit="16M")
    for name in ("child", "memory.stat", "cgroup.procs"):
        with pytest.raises(memcg.CgroupExistsError) as caught:
            group.create(name, limit="8M")
        assert caught.value.filename == f"{group.path}/{name}"
    assert child.exists
    assert child.limit == 16 * MiB


def test_of_many_who_create_one_name_one_succeeds(group: memcg.Cgroup) -> None:
    """Eight threads create the same group: one gets it, and the others are told that it exists."""

    def create() -> memcg.Cgroup | None:
        try:
            return group.create("child")
        except memcg.CgroupExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create(), range(8)))
    assert [each for each in made if each is not None] == [group / "child"]


@pytest.mark.parametrize("limit", ["", "\n", "K", "0x100000", -1, 0, "0", 4095, 2**64, True, 1.5, [], b"1M"])
def test_a_bad_limit_creates_nothing(group: memcg.Cgroup, limit: int | str) -> None:
    """create() with a limit that is none says so, and leaves no group behind."""
    before = settings(group)
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)):
        group.create("child", limit=limit)
    assert settings(group) == before
    assert group.children() == ()


# Processes.


def test_processes_are_those_of_this_very_group(group: memcg.Cgroup) -> None:
    """processes() are the PIDs here, sorted, without those below; populated counts those below too."""
    child = group.create("child")
    below = [child.popen(SLEEP) for _ in range(5)]
    assert group.processes() == ()
    assert group.populated
    assert child.processes() == tuple(sorted(process.pid for process in below))
    for process in below:
        end(process)
    wait_until(lambda: not group.populated, "the group is empty")
    assert child.processes() == ()


def test_add_moves_a_process_with_all_its_threads(group: memcg.Cgroup) -> None:
    """add() moves the whole process, from wherever it is; adding it again changes nothing."""
    child, sibling = group.create("child"), group.create("sibling")
    process = start_python(
        sibling,
        "import threading\n"
        "for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('threads', flush=True); input()",
    )
    assert say(process) == "threads"
    for _ in range(2):
        child.add(process.pid)
        assert sibling.processes() == ()
        assert child.processes() == (process.pid,)
        threads = "tasks" if isinstance(child, memcg.CgroupV1) else "cgroup.threads"
        assert len((child.path / threads).read_text().split()) == 4
        assert memcg.of(process.pid) == child
    process.communicate("\n", timeout=60)


def test_memory_that_is_used_already_stays_where_it_is(group: memcg.Cgroup) -> None:
    """A process that is moved leaves what it uses charged to the group that it came from."""
    child, sibling = group.create("child"), group.create("sibling")
    hog = start_hog(child, 8, stay=True)
    assert say(hog) == "done"
    sibling.add(hog.pid)
    assert child.usage >= 8 * MiB
    assert sibling.usage < 2 * MiB
    assert finish(hog) == 0


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31, 2**64])
def test_numbers_that_are_no_pid_move_nobody(group: memcg.Cgroup, pid: int) -> None:
    """What the kernel would take for the caller, or for nobody, is refused; this process stays where it is."""
    before = memcg.current()
    with pytest.raises(memcg.MemcgError):
        group.add(pid)
    assert group.processes() == ()
    assert memcg.current() == before


def test_only_an_int_is_a_pid(group: memcg.Cgroup) -> None:
    """Text in any base, bools and floats are refused: the kernel reads "0x1" as 1, which is init."""
    sleeper = subprocess.Popen(SLEEP)
    for pid in (hex(sleeper.pid), oct(sleeper.pid), str(sleeper.pid), float(sleeper.pid), True, None, sleeper):
        with pytest.raises(memcg.InvalidTypeError, match="an int"):
            group.add(pid)  # type: ignore[arg-type]
    assert group.processes() == ()
    end(sleeper)


def test_a_process_that_is_gone_cannot_be_added(group: memcg.Cgroup) -> None:
    """The PID of a process that has exited and was waited for is a ProcessNotFoundError with the group's path."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(memcg.ProcessNotFoundError, match=f"process {process.pid}") as caught:
        group.add(process.pid)
    assert isinstance(caught.value, ProcessLookupError)
    assert caught.value.filename == str(group.path)
    assert group.processes() == ()


# Removing.


def test_removing_an_empty_group(group: memcg.Cgroup) -> None:
    """remove() takes the directory away; a second time says that it is gone."""
    child = group.create("child")
    child.remove()
    assert not child.path.exists()
    assert not child.exists
    with pytest.raises(memcg.CgroupRemovedError) as caught:
        child.remove()
    assert caught.value.errno == errno.ENODEV
    assert caught.value.filename == str(child.path)


def test_a_busy_group_names_its_users(group: memcg.Cgroup) -> None:
    """remove() of a group with processes or children names them, and changes nothing."""
    child = group.create("child")
    process = child.popen(SLEEP)
    before = settings(group)
    for busy, user in ((child, f"process {process.pid}"), (group, "group 'child'")):
        with pytest.raises(memcg.CgroupBusyError, match=f"in use by {user}") as caught:
            busy.remove()
        assert caught.value.errno == errno.EBUSY
        assert caught.value.filename == str(busy.path)
        assert settings(group) == before
    end(process)


def test_many_users_are_not_all_named(group: memcg.Cgroup) -> None:
    """Of more than ten users, ten are named."""
    for number in range(12):
        group.create(f"child-{number:02}")
    with pytest.raises(memcg.CgroupBusyError, match=r"'child-00'.*'child-09', \.\.\.") as caught:
        group.remove()
    assert "child-10" not in str(caught.value)


def test_a_group_can_be_removed_the_moment_its_process_has_exited(group: memcg.Cgroup) -> None:
    """remove() does not mind a process that is just going, nor one that nobody has waited for."""
    for number in range(20):
        child = group.create(f"child-{number}")
        process = child.popen(SLEEP)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        child.remove()
        end(process)


def test_a_new_group_of_the_same_name_is_out_of_reach_for_the_old_one(group: memcg.Cgroup) -> None:
    """A Cgroup of a removed group never touches the one that has its name now."""
    old = group.create("child")
    assert old.usage == 0  # keeps a file open, which must not be of use any more
    old.remove()
    new = group.create("child", limit="16M")
    before = settings(new)
    for use in (
        lambda: old.usage,
        lambda: setattr(old, "limit", "8M"),
        lambda: old.add(os.getpid()),
        lambda: old.create("below"),
        lambda: old.oom.kills,
        old.children,
        old.remove,
    ):
        with pytest.raises(memcg.CgroupRemovedError) as caught:
            use()
        assert caught.value.filename == str(new.path)
    assert settings(new) == before
    assert new.exists


def test_the_root_cannot_be_removed() -> None:
    """remove() of the root is refused without being tried."""
    root = memcg.root()
    with pytest.raises(memcg.NotACgroupError, match="cannot be removed"):
        root.remove()
    assert Path(root.path, "cgroup.procs").exists()
