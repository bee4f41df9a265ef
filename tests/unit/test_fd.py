"""Owned file descriptors: closed once, by their owner, and never used after that."""

from __future__ import annotations

import errno
import functools
import gc
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

import memcg.fd
from memcg import ClosedError, EventFD, OwnedFd
from memcg.fd import bookkeeping
from unit.helpers import SOON, in_child, run_python, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any


class Recorded(OwnedFd):
    """An OwnedFd of a file that no other has, which keeps a record of its closing."""

    def __init__(self) -> None:
        super().__init__(os.memfd_create("owned"))
        self.number = self.fileno()
        self.inode = os.fstat(self.number).st_ino
        self.destroyed: list[int] = []

    def _destroy(self, fd: int) -> None:
        self.destroyed.append(fd)
        super()._destroy(fd)

    @property
    def is_open(self) -> bool:
        """Whether its number still stands for its file."""
        try:
            return os.fstat(self.number).st_ino == self.inode
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return False


def forget(files: list[Recorded]) -> None:
    """Lets go of what was the last reference to them."""
    files.clear()
    gc.collect()


def test_close_closes_and_a_second_call_does_nothing() -> None:
    """The first close() closes the file, and further ones are no error."""
    file = Recorded()
    assert not file.closed
    for _ in range(3):
        file.close()
        assert file.closed
        assert not file.is_open
    assert file.destroyed == [file.number]


def test_the_end_of_a_with_block_closes() -> None:
    """A with block yields the object itself, and closes it, also where the body raises."""
    with Recorded() as file:
        assert file.is_open
    assert not file.is_open
    with pytest.raises(ZeroDivisionError), Recorded() as file:
        raise ZeroDivisionError
    assert not file.is_open


def test_use_after_close_is_a_clear_error() -> None:
    """fileno() and pin() of a closed file raise ClosedError, naming the class."""
    event = EventFD()
    event.close()
    with pytest.raises(ClosedError, match="this EventFD is closed"):
        event.fileno()
    with pytest.raises(ClosedError, match="this EventFD is closed"):
        event.pin()


def test_a_number_that_was_given_to_another_file_is_not_closed() -> None:
    """When the number has a new owner, neither close() nor the garbage collector touches that."""
    file = Recorded()
    file.close()
    stranger = os.memfd_create("stranger")
    try:
        assert stranger == file.number
        file.close()
        del file
        gc.collect()
        os.fstat(stranger)
    finally:
        os.close(stranger)


def test_a_forgotten_file_is_closed_with_a_warning() -> None:
    """The garbage collector closes a file that nobody closed, and a ResourceWarning says so."""
    files = [Recorded()]
    number = files[0].number
    with pytest.warns(ResourceWarning, match=rf"unclosed <.*Recorded fd={number}>"):
        forget(files)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_forgotten_file_is_closed_where_warnings_are_errors() -> None:
    """A ResourceWarning that is turned into an exception does not keep the file open."""
    run_python(
        """
        import os, sys, memcg
        sys.unraisablehook = lambda unraisable: None
        event = memcg.EventFD()
        number = event.fileno()
        del event
        try:
            os.fstat(number)
        except OSError:
            pass
        else:
            raise SystemExit("still open")
        """,
        "-Werror",
    )


def test_a_closed_file_is_forgotten_in_silence() -> None:
    """Nothing is warned of where close() was called."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Recorded().close()
        gc.collect()
    assert not caught


def test_an_object_whose_init_failed_is_forgotten_in_silence() -> None:
    """Where there never was a file, __del__ neither warns nor fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(memcg.InvalidValueError):
            EventFD(-1)
        gc.collect()
    assert not caught


def test_a_file_that_someone_else_closed_does_no_harm_when_forgotten() -> None:
    """The garbage collector is quiet about a number that is not open any more, but for the ResourceWarning."""
    files = [Recorded()]
    os.close(files[0].number)
    with pytest.warns(ResourceWarning):
        forget(files)


def test_the_repr_shows_the_state() -> None:
    """repr() has the number while it is open, "closed" afterwards, and the public name."""
    with EventFD() as event:
        assert repr(event) == f"<memcg.EventFD fd={event.fileno()}>"
    assert repr(event) == "<memcg.EventFD closed>"


def test_closing_a_pinned_file_waits_for_the_last_pin() -> None:
    """A number in use stays taken after close(), until the last user has let go; then it is closed, once."""
    file = Recorded()
    assert file.pin() == file.pin() == file.number
    file.close()
    assert file.closed
    with pytest.raises(ClosedError):
        file.pin()
    assert file.is_open
    file.unpin()
    assert file.is_open
    file.unpin()
    assert not file.is_open
    file.close()
    assert file.destroyed == [file.number]


def test_a_file_whose_user_never_lets_go_is_closed_when_forgotten() -> None:
    """A pin that a stray exception left behind does not keep a closed file open beyond the object's life."""
    file = Recorded()
    number, destroyed = file.number, file.destroyed
    file.pin()
    file.close()
    del file
    gc.collect()
    try:
        assert destroyed == [number]
    finally:
        if not destroyed:
            os.close(number)


def test_a_pin_that_ended_leaves_the_file_open() -> None:
    """Using a file and letting go of it closes nothing."""
    with Recorded() as file:
        file.pin()
        file.unpin()
        assert file.is_open
    assert file.destroyed == [file.number]


def test_threads_that_use_a_number_never_meet_its_next_owner() -> None:
    """While threads read an eventfd as fast as they can, another closes it and opens others with the same number;
    nothing is ever read from those."""
    for _ in range(100):
        event = EventFD()

        def use(event: EventFD = event) -> None:
            while True:
                try:
                    event.try_read()
                except ClosedError:
                    return

        users = [start(use) for _ in range(3)]
        event.close()
        strangers = [os.eventfd(7, os.EFD_NONBLOCK) for _ in range(3)]
        for user in users:
            user.result(SOON)
        try:
            assert [os.eventfd_read(stranger) for stranger in strangers] == [7, 7, 7]
        finally:
            for stranger in strangers:
                os.close(stranger)


def test_many_threads_that_close_at_once_close_once() -> None:
    """Of several close() in different threads, exactly one closes the file."""
    for _ in range(100):
        file = Recorded()
        barrier = threading.Barrier(4)

        def close(file: Recorded = file, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(SOON)
            file.close()

        for closing in [start(close) for _ in range(4)]:
            closing.result(SOON)
        assert file.destroyed == [file.number]


# Signal handlers run between two instructions of the main thread, and may close what it is using just then.


def _instructions(function: Callable[[], None], handler: Callable[[], None], at: int) -> int:
    """Calls *function*, with *handler* called before the instruction number *at* that it runs in memcg.fd, as a
    signal handler would be; the number of instructions."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        nonlocal count
        if frame.f_code.co_filename != memcg.fd.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if count == at:
                handler()
            count += 1
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(former)
    return count


def _at_every_instruction(
    use: Callable[[Recorded], None], prepare: Callable[[Recorded], object] = lambda file: None
) -> Iterator[Recorded]:
    """Files that were closed by a signal handler within *use*, once at each of its instructions."""
    for at in [-1, *range(1000)]:  # -1 is never: Python 3.12 sees no instructions when it first runs a function so
        file = Recorded()
        prepare(file)
        count = _instructions(functools.partial(use, file), file.close, at)
        file.close()
        yield file
        if count <= at:
            break
    assert at > 10


def test_a_handler_that_closes_within_close_closes_once() -> None:
    """Wherever in close() a signal handler calls it too, the file is closed exactly once."""
    for file in _at_every_instruction(Recorded.close):
        assert file.destroyed == [file.number]


def test_a_handler_that_closes_within_pin_leaves_a_pinned_number_open() -> None:
    """Wherever in pin() a signal handler closes the file, pin() raises ClosedError, or its number stays ours."""

    def use(file: Recorded) -> None:
        try:
            number = file.pin()
        except ClosedError:
            return
        pinned.append((number, file.is_open))
        file.unpin()

    pinned: list[tuple[int, bool]] = []
    for file in _at_every_instruction(use):
        assert pinned in ([], [(file.number, True)])
        assert file.destroyed == [file.number]
        pinned.clear()


def test_a_handler_that_closes_within_unpin_closes_once() -> None:
    """Wherever in unpin() a signal handler closes the file, it is closed exactly once."""
    for file in _at_every_instruction(Recorded.unpin, Recorded.pin):
        assert file.destroyed == [file.number]


# Forks.


def test_closing_in_a_forked_child_changes_nothing_in_the_parent() -> None:
    """The child closes its own copy of the descriptor, even where threads of the parent were using it."""
    with Recorded() as file:
        file.pin()

        def child() -> None:
            assert file.inherited
            file.close()
            assert not file.is_open

        in_child(child)
        assert not file.inherited
        assert file.is_open
        file.unpin()
        assert file.is_open


def test_a_child_that_forgets_an_inherited_file_is_not_warned() -> None:
    """What the parent owns is the parent's to close: no ResourceWarning in a forked child."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = [Recorded()]

        def child() -> None:
            complaints: list[object] = []
            sys.unraisablehook = complaints.append
            files.clear()
            gc.collect()
            assert not complaints

        in_child(child)
        files[0].close()


def test_what_a_child_opens_is_its_own() -> None:
    """A file that was opened after a fork is not an inherited one, in the child of a child neither."""

    def child() -> None:
        with Recorded() as file:
            assert not file.inherited

            def grandchild() -> None:
                assert file.inherited
                with Recorded() as own:
                    assert not own.inherited

            in_child(grandchild)

    in_child(child)


def test_a_child_is_never_born_with_the_lock_held() -> None:
    """Forking while other threads pin, unpin and close leaves the child able to do the same."""
    done = threading.Event()

    def keep_busy() -> None:
        while not done.is_set():
            with bookkeeping:
                with Recorded() as file:
                    file.pin()
                    file.unpin()

    def child() -> None:
        with Recorded() as file:
            file.pin()
            file.unpin()

    busy = [start(keep_busy) for _ in range(2)]
    try:
        for _ in range(50):
            in_child(child)
    finally:
        done.set()
        for each in busy:
            each.result(SOON)


def test_a_fork_waits_for_a_thread_that_holds_the_lock() -> None:
    """While another thread holds the bookkeeping lock, os.fork() waits, and parent and child go on after it."""
    held, forking = threading.Event(), threading.Event()
    os.register_at_fork(before=forking.set)  # hooks run before those registered earlier, so before the lock's

    def hold() -> None:
        with bookkeeping:
            held.set()
            assert forking.wait(SOON)

    def use() -> None:
        with Recorded() as file:
            file.pin()
            file.unpin()

    holder = start(hold)
    assert held.wait(SOON)
    in_child(use)
    holder.result(SOON)
    use()


def test_a_collection_inside_the_lock_does_not_deadlock() -> None:
    """A garbage collection that closes a forgotten file may run while the same thread holds the lock."""

    def forget() -> None:
        with bookkeeping:
            Recorded()
            gc.collect()

    with pytest.warns(ResourceWarning):
        start(forget).result(SOON)


def test_a_signal_handler_may_close_what_blocks_its_thread() -> None:
    """A handler that closes the file while its own thread is within the lock neither deadlocks nor is lost."""
    file = Recorded()
    former = signal.signal(signal.SIGUSR1, lambda number, frame: file.close())
    try:
        with bookkeeping:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert not file.is_open


@pytest.mark.parametrize("number", ["3", 1.5, None, -1], ids=repr)
def test_only_a_file_descriptor_can_be_owned(number: object) -> None:
    """What is no number of a file is refused at once, and not when it is closed."""
    with pytest.raises((memcg.InvalidTypeError, memcg.InvalidValueError)):
        OwnedFd(number)  # type: ignore[arg-type]
