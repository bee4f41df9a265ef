"""What a hold refuses, why, and that nothing is left of it."""

from __future__ import annotations

import datetime
import math
import os
import resource
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB, OomEvent
from memcg.oom import guard
from support.forked import as_nobody, give_away, in_child
from support.holds import Owner, assert_nothing_left, guards_of, held, take
from support.marks import is_held, marks
from support.processes import Worker, finish, start_hog, wait_blocked, wait_until
from support.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcg import Cgroup, CgroupV1

NEEDED_V1 = ("cgroup.event_control", "memory.oom_control", "memory.limit_in_bytes")
NEEDED_V2 = ("cgroup.freeze", "memory.high", "memory.max", "memory.reclaim")
"""The files that one has to be able to write to hold a group, beside the directory."""


def needed(group: Cgroup) -> tuple[str, ...]:
    """All that one has to own to hold *group*."""
    if isinstance(group, memcg.CgroupV1):
        return (".", "cgroup.procs", *NEEDED_V1, "memory.memsw.limit_in_bytes")
    return (".", *NEEDED_V2)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guard's program as a file of its own, so that all its processes can be told from those of others."""
    own = Path(shutil.copy2(guard.PROGRAM, tmp_path / "memcg-guard"))
    monkeypatch.setattr(guard, "PROGRAM", own)
    return own


def refuse(group: Cgroup, error: type[Exception], words: str, *arguments: object, **options: object) -> None:
    """Proves that this hold is refused in these words, and that it changes nothing."""
    before, fds = settings(group), len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=words):
        group.oom.hold(*arguments, **options)  # type: ignore[arg-type]
    assert settings(group) == before
    assert marks(group) == []
    assert len(os.listdir("/proc/self/fd")) <= fds + 1  # the cache of control files


# Delays.


@pytest.mark.parametrize("name", ["delay", "total"])
def test_delays_that_cannot_be_kept(group: Cgroup, name: str) -> None:
    """0, negative, NaN, infinite, too short, too long, and what is no time: each with the reason, and no guard is
    started for it."""
    for wrong, kind, words in (
        (0, memcg.InvalidValueError, "0.001 s or more, not 0: .*no handler can act"),
        (0.0, memcg.InvalidValueError, "0.001 s or more"),
        (0.0009, memcg.InvalidValueError, "0.001 s or more"),
        (datetime.timedelta(0), memcg.InvalidValueError, "0.001 s or more"),
        (-1, memcg.InvalidValueError, "above 0, not -1"),
        (-math.inf, memcg.InvalidValueError, "above 0"),
        (datetime.timedelta(-1), memcg.InvalidValueError, "above 0"),
        (math.nan, memcg.InvalidValueError, "above 0, not nan"),
        (math.inf, memcg.InvalidValueError, "for no limit, use None"),
        (2**31 / 1000, memcg.InvalidValueError, r"or less, not 2147483.648: .*32-bit"),
        (10**400, memcg.InvalidValueError, "or less"),
        (datetime.timedelta(25), memcg.InvalidValueError, "or less"),
        (True, memcg.InvalidTypeError, "a number of seconds, or a timedelta, not True"),
        (False, memcg.InvalidTypeError, "not False"),
        ("10", memcg.InvalidTypeError, "not '10'"),
        (b"10", memcg.InvalidTypeError, "not b'10'"),
        ([10], memcg.InvalidTypeError, "a number of seconds"),
        (1j, memcg.InvalidTypeError, "a number of seconds"),
    ):
        options = {"delay": wrong} if name == "delay" else {"delay": 0.001, "total": wrong}
        refuse(group, kind, f"^{name} is .*{words}", **options)


@pytest.mark.parametrize(
    ("delay", "total", "expected"),
    [
        (0.001, None, 0.001),
        (1, 1, 1.0),
        ((2**31 - 1) / 1000, None, 2147483.647),
        (datetime.timedelta(milliseconds=1500), datetime.timedelta(hours=1), 1.5),
        (None, None, None),
    ],
)
def test_delays_that_can_be_kept(
    group: Cgroup,
    delay: float | datetime.timedelta | None,
    total: float | datetime.timedelta | None,
    expected: float | None,
) -> None:
    """The shortest and the longest, whole numbers, timedeltas, and none."""
    with held(group, delay, total=total) as hold:  # type: ignore[arg-type]
        assert hold.delay == expected


def test_a_total_that_makes_no_sense(group: Cgroup) -> None:
    """A total below the delay, or one where there is no delay, could never be used up as it says."""
    refuse(group, memcg.InvalidValueError, "total is at least the delay, 2, and not 1", 2, total=1)
    refuse(group, memcg.InvalidValueError, "total is at least the delay, None, and not 1", None, total=1)


@pytest.mark.parametrize("wrong", ["never", "", None, 1, ["once"]])
def test_rearm_is_one_of_two_words(group: Cgroup, wrong: object) -> None:
    """Whatever else is given is shown, with what can be."""
    refuse(group, memcg.InvalidValueError, "rearm is 'episode' or 'once', not ", 1, rearm=wrong)


# Groups.


def test_the_root() -> None:
    """The root has no limit, and is refused for that."""
    root = memcg.root()
    with pytest.raises(memcg.NoLimitError, match="no memory limit"):
        root.oom.hold(1)


def test_a_group_without_a_limit(group: Cgroup) -> None:
    """A group that never runs out by itself is refused, whatever is above it; the error says what to do."""
    child = group.create("child")
    refuse(child, memcg.NoLimitError, f"{child.path} has no memory limit, .*set one .*or hold the group above", 1)


def test_a_group_that_is_gone(group: Cgroup) -> None:
    """A removed group cannot be held."""
    child = group.create("child", limit=16 * MiB)
    child.remove()
    with pytest.raises(memcg.CgroupNotFoundError):
        child.oom.hold(1)


@pytest.mark.parametrize("where", ["in it", "below it"])
def test_from_inside(group: Cgroup, where: str) -> None:
    """Who is in the group, or below, would be stopped with it: refused, naming where, and what to do."""
    place = group if where == "in it" else group.create("child")

    def hold() -> None:
        place.add(os.getpid())
        refuse(group, memcg.InsideHeldGroupError, f"this process is in {group.path}, or below: .*from outside", 1)

    in_child(hold)
    assert_nothing_left(group)


@pytest.mark.parametrize("takeover", [False, True])
def test_a_killer_that_is_off_already(group_v1: CgroupV1, takeover: bool) -> None:
    """It is somebody's will, and refused; takeover=True takes it over, and leaves it on in the end."""
    group = group_v1
    group.oom.disable()
    if takeover:
        with held(group, 10, takeover=True):
            assert not group.oom.killer_enabled
    else:
        words = "is off already, .*takeover=True, which leaves it on in the end, or switch it on first"
        refuse(group, memcg.KillerDisabledError, words, 10)
        assert not group.oom.killer_enabled
        group.oom.enable()


def test_taking_over_an_oom(group_v1: CgroupV1) -> None:
    """A group that is stuck already is told as an OOM, with a delay from now."""
    group = group_v1
    group.oom.disable()
    hog = start_hog(group, 64)
    wait_blocked(hog)
    with held(group, 0.2, takeover=True) as hold:
        began, _ = take(hold, OomEvent)
        assert began.origin == group
        expired, _ = take(hold, memcg.DelayExpired)
        assert expired.kills == 1
        assert expired.time - began.time > 0.15
    assert finish(hog) == -signal.SIGKILL


def test_takeover_of_what_is_not_off(group: Cgroup) -> None:
    """takeover=True asks for nothing where the killer is on, and nothing frozen."""
    with held(group, 10, takeover=True):
        assert is_held(group)


def test_held_already_by_this_process(group: Cgroup) -> None:
    """A second hold is refused, and the first goes on as if nothing had been."""
    with held(group, 10) as hold:
        with pytest.raises(memcg.AlreadyHeldError, match=f"{group.path} is held already, by this") as caught:
            group.oom.hold(10)
        assert (caught.value.guard, caught.value.owner) == (hold.guard_pids[0], os.getpid())
        hog = start_hog(group, 64)
        take(hold, OomEvent)
        assert hold.raise_limit(by="64M")
        assert finish(hog) == 0


@pytest.mark.parametrize("takeover", [False, True])
def test_held_already_by_another_process(group: Cgroup, takeover: bool) -> None:
    """The error names the process and its guard; with takeover too, as that is for what nobody holds."""
    with Owner(group, 10) as owner:
        with pytest.raises(memcg.AlreadyHeldError, match=f"by process {owner.pid} ") as caught:
            group.oom.hold(10, takeover=takeover)
        assert (caught.value.guard, caught.value.owner) == (owner.guard_pids[0], owner.pid)
        assert f"process {owner.guard_pids[0]}" in str(caught.value)
        hog = start_hog(group, 64)
        owner.next("OomEvent")
        assert owner.do("hold.raise_limit(by='64M')") is True
        assert finish(hog) == 0
    assert_nothing_left(group, owner.guard_pids)
    with held(group, 10):  # it is free again at once
        pass


def test_an_ancestor_with_a_lower_limit(group: Cgroup) -> None:
    """The ancestor's limit will be hit first: a warning, at the line of the caller, names it."""
    child = group.create("child", limit=64 * MiB)
    with pytest.warns(RuntimeWarning, match=f"{group.path} has a limit of 32 MiB, below the 64 MiB of") as caught:
        with held(child, 10):
            pass
    assert [warning.filename for warning in caught] == [held.__wrapped__.__code__.co_filename]  # type: ignore[attr-defined]
    child.limit = 32 * MiB
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with held(child, 10):  # the same limit comes from the own one
            pass


# Permissions.


def test_without_any_permission(group: Cgroup) -> None:
    """As nobody, a group that belongs to root cannot be held, and the error says what would help."""

    def hold() -> None:
        with pytest.raises(
            memcg.AccessDeniedError,
            match=r"run as root \(sudo\), or (have root chown|in a group that is delegated to this user)",
        ):
            group.oom.hold(10)

    as_nobody(hold)
    assert_nothing_left(group)


@pytest.mark.parametrize("missing", [".", *NEEDED_V1, *NEEDED_V2])
def test_without_one_permission(group: Cgroup, missing: str) -> None:
    """Where one of the files is not the caller's, the error names it, and what would help; nothing is left."""
    if not (group.path / missing).exists():
        pytest.skip(f"only the other version of cgroups has {missing}")
    give_away(group.path, *(name for name in needed(group) if name != missing))

    def hold() -> str:
        with pytest.raises(memcg.AccessDeniedError, match=r"run as root .*or (have root|in a group)") as caught:
            group.oom.hold(10)
        assert caught.value.filename is not None
        return str(caught.value)

    text = as_nobody(hold)
    assert str(group.path) in text
    assert missing == "." or missing in text
    assert_nothing_left(group)


def test_with_just_these_permissions(group: Cgroup) -> None:
    """Who owns the directory and four of its files can hold the group."""
    give_away(group.path, *needed(group))

    def hold() -> tuple[int, int, int]:
        with group.oom.hold(10) as hold:
            assert hold.raise_limit(by="1M") is False
            return hold.guard_pids

    assert_nothing_left(group, as_nobody(hold))


# File descriptors.


def leave_descriptors(free: int) -> None:
    """Leaves this process that many file descriptors from here on."""
    used = {int(fd) for fd in os.listdir("/proc/self/fd")}
    while (number := os.dup(0)) < max(used):  # no gaps, so that the limit says how many are free
        pass
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def try_to_hold(
    group: Cgroup, program: Path, limit: Callable[[int], None], numbers: Iterable[int]
) -> dict[int, str]:
    """What hold() says with each number of file descriptors, each tried in a child; "" is success."""

    def attempt(number: int) -> str:
        limit(number)
        try:
            hold = group.oom.hold(10)
        except memcg.TooManyOpenFilesError as error:
            return str(error)
        with hold:
            return ""

    outcomes = {}
    for number in numbers:
        outcomes[number] = in_child(partial(attempt, number))
        wait_until(lambda: not guards_of(program), "no guard is left")
        assert_nothing_left(group)
    return outcomes


def test_no_file_descriptors_left(group: Cgroup, program: Path) -> None:
    """Wherever this process runs out of them, hold() says so, and leaves neither mark, lock nor guard."""
    outcomes = try_to_hold(group, program, leave_descriptors, range(30))
    enough = min(number for number, outcome in outcomes.items() if not outcome)
    assert 5 < enough < 25
    for number, outcome in outcomes.items():
        assert ("RLIMIT_NOFILE" in outcome) == (number < enough), number


def test_no_file_descriptors_left_in_the_guard(group: Cgroup, program: Path) -> None:
    """A guard that may have too few says so at once, with the remedy: some are kept for putting things back."""

    def limit(hard: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    outcomes = try_to_hold(group, program, limit, (64, 128, 160, 192, 256, 512))
    assert all("RLIMIT_NOFILE (ulimit -Hn)" in outcomes[hard] for hard in (64, 128))
    assert outcomes[256] == outcomes[512] == ""


def test_many_holds_with_few_descriptors_in_the_guard(group: Cgroup) -> None:
    """Holds that are there go on when one more is refused for want of file descriptors."""
    children = [group.create(f"c{number}", limit=16 * MiB) for number in range(16)]

    def attempt() -> tuple[int, str]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        holds = []
        try:
            for child in children:
                try:
                    holds.append(child.oom.hold(10))
                except memcg.TooManyOpenFilesError as error:
                    assert all(hold.state == "armed" for hold in holds)
                    assert all(is_held(each) for each in children[: len(holds)])
                    return len(holds), str(error)
            return len(holds), ""
        finally:
            for hold in holds:
                hold.close()

    number, text = in_child(attempt)
    assert 2 <= number < 16
    assert "RLIMIT_NOFILE" in text
    assert_nothing_left(group)


def test_refused_amid_an_oom(group_v1: CgroupV1) -> None:
    """A refusal does nothing to a group that is stuck by somebody else's will."""
    group = group_v1
    group.oom.disable()
    with Worker(group) as worker:
        worker.order("touch 64")
        wait_blocked(worker)
        refuse(group, memcg.KillerDisabledError, "is off already", 10)
        assert group.oom.under_oom
        group.limit = 128 * MiB
        assert worker.answer() == "done"
    group.oom.enable()
