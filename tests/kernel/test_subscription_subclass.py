"""What a subclass of Subscription, and a source of another kind, can count on."""

from __future__ import annotations

import os
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import Event, Subscription
from support.forked import in_child
from support.processes import Worker, start_waiting, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Watch(Subscription[Event]):
    """A subscription by another name, which notes when it is closed, and can be called unfit."""

    _noun = "watch"

    def __init__(self, group: memcg.Cgroup) -> None:
        self.closings: list[bool] = []
        self.at_closing: Callable[[], object] = lambda: None
        self.unfit = False
        super().__init__(group.oom._source())

    def _check_usable(self, even_over: bool = False) -> None:
        super()._check_usable(even_over)
        if self.unfit and not even_over:
            raise memcg.GuardLostError("the guard is gone")

    def _before_close(self) -> None:
        self.closings.append(all(os.fstat(fd) for fd, _ in self._source.files()))
        self.at_closing()


@pytest.fixture
def watch(group: memcg.Cgroup) -> Iterator[Watch]:
    """A watch on the group."""
    with Watch(group) as watch:
        yield watch


# Names.


def test_a_subclass_is_called_by_its_own_name(group: memcg.Cgroup) -> None:
    """repr() has the name of the subclass, and messages have its noun, in a forked child too."""
    with Watch(group) as watch, ThreadPoolExecutor(1) as pool:
        assert repr(watch) == f"<memcg.Watch armed {group.cgroup_path!r}>"

        def use() -> None:
            with pytest.raises(memcg.ClosedError, match="this watch belongs to the process"):
                watch.wait()

        in_child(use)
        waiting = start_waiting(pool, watch.wait)
        watch.close()
        with pytest.raises(memcg.ClosedError, match="this watch is closed"):
            waiting.result(timeout=30)
    with pytest.raises(memcg.ClosedError, match="this watch is closed"):
        watch.wait()


# Closing.


def test_closing_begins_with_the_hook_and_open_files(watch: Watch) -> None:
    """The hook is called once, however often close() is, and may itself use what the subscription has open."""
    watch.at_closing = lambda: watch.wait(0)
    watch.close()
    watch.close()
    assert watch.closings == [True]
    assert watch.closed


def test_the_files_stay_open_until_the_hook_is_through(watch: Watch) -> None:
    """Another thread's close() in the meantime wakes whoever waits, and leaves the files to the first."""
    entered, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        entered.set()
        assert go_on.wait(30)
        watch.closings.append(all(os.fstat(fd) for fd, _ in watch._source.files()))

    watch.at_closing = linger
    with ThreadPoolExecutor(2) as pool:
        waiting = start_waiting(pool, watch.wait)
        closing = pool.submit(watch.close)
        assert entered.wait(30)
        assert not waiting.done()
        assert not watch.closed
        watch.close()
        with pytest.raises(memcg.ClosedError):
            waiting.result(timeout=30)
        go_on.set()
        closing.result(timeout=30)
    assert watch.closings == [True, True]
    with pytest.raises(memcg.ClosedError):
        watch._source.files()


def test_many_threads_that_close_call_the_hook_once(group: memcg.Cgroup) -> None:
    """Of threads that close at the same moment, one calls the hook, and none gets an error."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            watch, start = Watch(group), threading.Barrier(4)

            def close(watch: Watch = watch, start: threading.Barrier = start) -> None:
                start.wait(30)
                watch.close()

            for each in [pool.submit(close) for _ in range(4)]:
                each.result(timeout=30)
            assert watch.closings == [True]
            with pytest.raises(memcg.ClosedError):
                watch._source.files()


def test_closing_again_from_within_the_hook(watch: Watch) -> None:
    """A signal handler that closes in the middle of closing does no harm: the files stay open to the end."""

    def again() -> None:
        watch.close()
        watch.closings.append(all(os.fstat(fd) for fd, _ in watch._source.files()))

    watch.at_closing = again
    watch.close()
    assert watch.closings == [True, True]


def test_an_error_of_the_hook_comes_out_and_all_is_closed(group: memcg.Cgroup) -> None:
    """What the hook raises is raised by close(), by which time nothing is left open."""
    before = set(os.listdir("/proc/self/fd"))
    watch = Watch(group)
    watch.at_closing = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), watch:
        pass
    assert watch.closed
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_forgotten_one_calls_the_hook_too(group: memcg.Cgroup) -> None:
    """One that is dropped without close() gives a ResourceWarning by its name, and the hook is called."""
    watch = Watch(group)
    closings = watch.closings
    with pytest.warns(ResourceWarning, match="unclosed <memcg.Watch armed"):
        del watch
    assert closings == [True]


def test_in_a_forked_child_the_hook_is_not_called(watch: Watch) -> None:
    """Closing in a child, where the hook would speak for the parent, is silent; the parent's own is not."""

    def close() -> tuple[bool, list[bool]]:
        watch.close()
        return watch.closed, watch.closings

    assert in_child(close) == (True, [])
    watch.close()
    assert watch.closings == [True]


def test_one_that_was_never_made_calls_no_hook(group: memcg.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where arming fails half-way, there is nothing to close, and no file is left open."""
    with closing(group.oom._source()) as source:
        monkeypatch.setattr(type(source), "files", lambda source: [(-1, select.EPOLLIN)])
    before = set(os.listdir("/proc/self/fd"))
    watch = Watch.__new__(Watch)
    with pytest.raises(ValueError, match="-1"):
        Watch.__init__(watch, group)
    assert watch.closed
    watch.close()
    assert watch.closings == []
    assert set(os.listdir("/proc/self/fd")) <= before


# Checking.


def test_each_use_is_checked_by_the_subclass(watch: Watch) -> None:
    """What the subclass finds wrong is raised by every use, loops included, instead of ending them quietly."""
    watch.unfit = True
    for use in (watch.wait, lambda: watch.wait(0), lambda: next(watch), lambda: list(watch)):
        with pytest.raises(memcg.GuardLostError, match="the guard is gone"):
            use()
    with pytest.raises(memcg.GuardLostError):
        next(watch.until(os.getpid()))


def test_what_was_told_before_can_still_be_taken(watch: Watch, group: memcg.Cgroup) -> None:
    """Events that have been taken in are given first; then the subclass has its say."""
    with Worker(group) as worker:
        assert worker.do("hogs 1 64") == "-9"
        wait_until(lambda: group.oom.kills == 1, "the kill is counted")
        assert isinstance(watch.wait(0), memcg.OomEvent)
    watch.unfit = True
    assert isinstance(watch.wait(0), memcg.KernelKill)
    with pytest.raises(memcg.GuardLostError):
        watch.wait(0)


# Sources.


class Line:
    """Hears the other end of a socket shut down writing, which epoll tells apart from data."""

    due: float | None = None

    def __init__(self, group: memcg.Cgroup, end: socket.socket) -> None:
        self.group = group
        self.over: str | None = None
        self.end = end
        self.asked: list[list[int] | None] = []

    def files(self) -> Iterator[tuple[int, int]]:
        """The socket, and not what can be read from it."""
        yield self.end.fileno(), select.EPOLLRDHUP

    def collect(self, ready: list[int] | None) -> tuple[str, ...]:
        """One event, the last."""
        self.asked.append(ready)
        if self.over or not ready:
            return ()
        self.over = "the other end hung up"
        return ("hung up",)

    def close(self) -> None:
        """Closes its end."""
        self.end.close()


def test_a_source_of_another_kind(group: memcg.Cgroup) -> None:
    """A source says what to wait for on each file, yields what it likes, and says why it is over."""
    ours, other = socket.socketpair()
    line = Line(group, ours)
    with Subscription(line) as events, other:
        other.send(b"data")
        assert events.wait(0.01) is None
        assert line.asked == [None]
        other.shutdown(socket.SHUT_WR)
        assert events.wait(30) == "hung up"
        assert line.asked == [None, [ours.fileno()]]
        with pytest.raises(memcg.ClosedError, match="the other end hung up: there are no more events"):
            events.wait()
        assert list(events) == []
        assert repr(events) == f"<memcg.Subscription over {group.cgroup_path!r}>"
    assert ours.fileno() == -1
