"""The guard dies at any point of what it does: whoever is left puts everything back, or else whoever repairs.

It is killed at one system call after the other, before it or after it, until the last that a request takes. A
stride of 1 tries them all, which takes ten minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from memcg._ffi import lib
from memcg.oom.repair import repair
from support.guards import Peer, request
from support.holds import wait_stopped
from support.marks import is_held, marks
from support.processes import finish, start_hog, wait_until
from support.tracing import Traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcg import Cgroup

LIMIT = 32 * MiB
HOUR = 3600 * 10**9
MOST = 1000
"""No request takes so many steps."""
IDLE = 0.5
"""Who does nothing for so long, in seconds, is done."""


@pytest.fixture(params=[pytest.param(3, marks=pytest.mark.slow, id="many"), pytest.param(23, id="some")])
def stride(request: pytest.FixtureRequest) -> int:
    """How many steps further it is killed each time."""
    stride: int = request.param
    return stride


@pytest.fixture(autouse=True)
def _can_trace() -> None:
    """Tracing takes a privilege that a container may not have."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        with Traced(pid):
            pass
    except PermissionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pytest.skip("no process may be traced here")


@dataclass
class Sweep:
    """Kills guards of *group*, each *stride* steps further into what it does than the one before."""

    group: Cgroup
    stride: int
    whole: bool
    """Whether its keepers die with it, and the next one repairs."""

    def run(self, prepare: Callable[[Peer], None], act: Callable[[Peer], None], check: Callable[[], None]) -> int:
        """Until what *act* asks for leaves nothing more to do; how many steps that took."""
        for number in range(1, MOST, self.stride):
            with Peer() as peer:
                prepare(peer.meet())
                with Traced(peer.pids[0]) as guard:
                    act(peer)
                    done = not all(guard.step(IDLE) for _ in range(number))
                    for pid in reversed(peer.pids) if self.whole else ():
                        os.kill(pid, signal.SIGKILL)
                    guard.kill()
            # Leaving Peer has waited for the keepers.
            if self.whole:
                assert repair(self.group).failed == ()
            try:
                check()
            except AssertionError as error:
                raise AssertionError(f"killed at step {number}: {error}") from error
            if done:
                return number
        raise AssertionError("no end")


@pytest.fixture(params=[False, True], ids=["the guard", "all three"])
def sweep(group: Cgroup, stride: int, request: pytest.FixtureRequest) -> Sweep:
    """Of guards that die alone, or with their keepers."""
    return Sweep(group, stride, request.param)


def ask_to_hold(peer: Peer, group: Cgroup) -> None:
    """Sends the request, and does not wait for the answer."""
    with contextlib.ExitStack() as files:
        fds = [os.open(group.path, os.O_RDONLY), os.eventfd(0, os.EFD_NONBLOCK)]
        for fd in fds:
            files.callback(os.close, fd)
        peer.send(request(lib.MEMCG_HOLD, delay=HOUR), fds)


@pytest.fixture
def job(group: Cgroup) -> Cgroup:
    """A group below *group*, for processes, as on v2 these are not in a group with children."""
    return group.create("job")


@pytest.fixture
def off(group: Cgroup) -> Iterator[Cgroup]:
    """A group below *group* whose killer, on v1, is off before the hold."""
    with memcg.temporary(name="off", parent=group) as child:
        if isinstance(child, memcg.CgroupV1):
            child.oom.disable()
        yield child


def assert_put_back(group: Cgroup, off: Cgroup) -> None:
    """Proves that the former state of *group* is back, but perhaps for a mark that the next one removes."""
    assert not is_held(group), "left off, or frozen"
    assert is_held(off) == isinstance(off, memcg.CgroupV1), "what was off before is on"
    assert group.limit == LIMIT
    if isinstance(group, memcg.CgroupV2):
        assert group.high is None
    assert repair(group).failed == ()
    assert marks(group) == []


def test_while_it_begins_a_hold(group: Cgroup, off: Cgroup, sweep: Sweep) -> None:
    """However far the guard came, the killer is on, and one that was off before still is off."""
    steps = sweep.run(
        prepare=lambda peer: None,
        act=lambda peer: ask_to_hold(peer, group),
        check=lambda: assert_put_back(group, off),
    )
    assert steps > 40


def test_while_it_ends_a_hold(group: Cgroup, off: Cgroup, sweep: Sweep) -> None:
    """The keeper ends what the guard has begun: the killer on, there and below, and no mark."""

    def prepare(peer: Peer) -> None:
        peer.hold(group, delay=HOUR)
        for path in (group.path / "child", group.path / "child" / "grandchild"):
            path.mkdir(exist_ok=True)

    def check() -> None:
        assert marks(group) == []
        assert_put_back(group, off)
        for child in (memcg.open(group.path / "child"), memcg.open(group.path / "child" / "grandchild")):
            assert not is_held(child), f"left off: {child.path}"
            child.path.rmdir() if child.path.name == "grandchild" else None
        (group.path / "child").rmdir()

    steps = sweep.run(prepare, act=lambda peer: peer.send(request(lib.MEMCG_RELEASE)), check=check)
    assert steps > 20


@pytest.mark.usefixtures("group_v1")
def test_while_it_sees_to_a_child(group: Cgroup, off: Cgroup, sweep: Sweep) -> None:
    """A group that is made during the hold, and one below it, have the killer on when all is over."""

    def act(peer: Peer) -> None:
        (group.path / "child").mkdir()
        (group.path / "child" / "grandchild").mkdir()

    def check() -> None:
        assert_put_back(group, off)
        for path in (group.path / "child" / "grandchild", group.path / "child"):
            assert memcg.open(path).oom.killer_enabled, f"left off: {path}"
            path.rmdir()

    sweep.run(lambda peer: void(peer.hold(group, delay=HOUR)), act, check)


def void(_: object) -> None:
    """For what returns something that nobody wants."""


def test_while_it_lets_the_killer_in(group: Cgroup, job: Cgroup, off: Cgroup, sweep: Sweep) -> None:
    """During an expiry and the re-arming after it, nobody stays blocked, and the killer is on."""
    hogs = []

    def prepare(peer: Peer) -> None:
        peer.hold(group, delay=HOUR)
        hogs.append(start_hog(job, 64))
        wait_stopped(hogs[-1])

    def check() -> None:
        assert finish(hogs[-1]) == -signal.SIGKILL
        assert_put_back(group, off)

    sweep.run(prepare, lambda peer: peer.send(request(lib.MEMCG_EXPIRE)), check)


def test_while_it_raises_the_limit(group: Cgroup, job: Cgroup, off: Cgroup, sweep: Sweep) -> None:
    """A limit that was to be raised for a while is what it was, if there is room."""

    def prepare(peer: Peer) -> None:
        slot = peer.hold(group, delay=HOUR)
        hog = start_hog(job, 64)
        wait_stopped(hog)
        wait_until(lambda: peer.record(slot).state == lib.MEMCG_OOM, "the guard knows")
        hogs.append(hog)

    def act(peer: Peer) -> None:
        hogs[-1].kill()  # the guard, which is stopped, cannot know that the OOM is over
        finish(hogs[-1])
        flags = lib.MEMCG_UNTIL_RESOLVED
        peer.send(request(lib.MEMCG_RAISE, bytes=2 * LIMIT, flags=flags))

    hogs: list[subprocess.Popen[str]] = []
    steps = sweep.run(prepare, act, check=lambda: assert_put_back(group, off))
    assert steps > 10
