"""EventFD: blocking, in threads, and without file descriptors to spare."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from memcg import ClosedError, EventFD, WaitTimeoutError
from memcg.epoll import Epoll
from support.processes import wait_until
from unit.helpers import SOON, in_child, run_python, start, wait_for_waiters, when_waited_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcg.units import Deadline

FULL = EventFD.MAX_VALUE


@pytest.fixture
def event() -> Iterator[EventFD]:
    """A counter of 0."""
    with EventFD() as event:
        yield event


@pytest.fixture
def full() -> Iterator[EventFD]:
    """A counter that takes no more."""
    with EventFD() as event:
        event.write(FULL)
        yield event


# Timeouts.


@pytest.mark.parametrize("timeout", [None, 0, 0.0, 30, float("inf")])
def test_what_need_not_wait_does_not(event: EventFD, timeout: float | None) -> None:
    """Where the counter allows it, reads and writes are done at once, whatever the timeout."""
    event.write(2, timeout)
    assert event.read(timeout) == 2


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_read_gives_up_when_the_time_is_up(event: EventFD, timeout: float) -> None:
    """A read of 0 raises WaitTimeoutError, which is a TimeoutError, and not before its time."""
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"within {timeout} s") as caught:
        event.read(timeout)
    assert type(caught.value) is WaitTimeoutError
    assert time.monotonic() - began >= timeout


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_write_gives_up_when_the_time_is_up(full: EventFD, timeout: float) -> None:
    """A write without room raises WaitTimeoutError, not before its time, and has added nothing."""
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=f"within {timeout} s"):
        full.write(1, timeout)
    assert time.monotonic() - began >= timeout
    assert full.read() == FULL


def test_a_semaphores_read_gives_up_too() -> None:
    """A semaphore of 0 makes its readers wait like any other."""
    with EventFD(1, semaphore=True) as event:
        assert event.read(0) == 1
        with pytest.raises(WaitTimeoutError):
            event.read(0.001)


@pytest.mark.parametrize("timeout", [1e7, 1e9, 1e30, 10**400], ids=["months", "decades", "1e30", "10**400"])
def test_a_long_timeout_is_a_long_time(event: EventFD, timeout: float) -> None:
    """A wait of longer than the kernel's own calls can express is no error."""
    writer = when_waited_for(event, lambda: event.write(5))
    assert event.read(timeout) == 5
    writer.result(SOON)


# Blocking.


def test_a_read_waits_for_a_write(event: EventFD) -> None:
    """A reader blocks while the counter is 0, and gets what another thread writes."""
    reader = start(event.read)
    wait_for_waiters(event)
    assert not reader.done()
    event.write(5)
    assert reader.result(SOON) == 5


def test_a_read_with_time_left_waits_for_a_write(event: EventFD) -> None:
    """A timeout that is not up changes nothing."""
    reader = start(event.read, SOON * 2)
    wait_for_waiters(event)
    event.write(5)
    assert reader.result(SOON) == 5


def test_writing_0_wakes_no_reader(event: EventFD) -> None:
    """A reader goes on waiting when 0 is written, and takes the next value."""
    reader = start(event.read)
    wait_for_waiters(event)
    event.write(0)
    event.write(6)
    assert reader.result(SOON) == 6


def test_a_write_waits_for_room(full: EventFD) -> None:
    """A writer blocks while the counter is full, and is done once another thread has read it."""
    writer = start(full.write, 3)
    wait_for_waiters(full)
    assert not writer.done()
    assert full.read() == FULL
    writer.result(SOON)
    assert full.read() == 3


def test_a_write_waits_for_as_much_room_as_it_needs() -> None:
    """On a semaphore, which each read makes room for 1 in, a writer of 3 waits for the third."""
    with EventFD(semaphore=True) as event:
        event.write(FULL)
        writer = start(event.write, 3)
        wait_for_waiters(event)
        for _ in range(2):
            assert event.read() == 1
        with pytest.raises(WaitTimeoutError):
            event.write(3, timeout=0)
        assert not writer.done()
        assert event.read() == 1
        writer.result(SOON)
        with pytest.raises(WaitTimeoutError):
            event.write(1, timeout=0)


def test_a_writer_that_waits_for_more_than_1_sleeps(event: EventFD, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 1 fits, the file counts as writable, and a writer of 2 is still not woken again and again."""
    waits = 0
    wait = Epoll.wait

    def count(self: Epoll, deadline: Deadline) -> list[int]:
        nonlocal waits
        waits += 1
        return wait(self, deadline)

    monkeypatch.setattr(Epoll, "wait", count)
    event.write(FULL - 1)
    with pytest.raises(WaitTimeoutError):
        event.write(2, timeout=0.2)
    assert waits <= 3
    writer = start(event.write, 2)
    wait_for_waiters(event)
    assert event.read() == FULL - 1
    writer.result(SOON)
    assert event.read() == 2


# Many threads.


@pytest.mark.parametrize("semaphore", [False, True])
def test_what_many_threads_read_is_what_many_wrote(semaphore: bool) -> None:
    """The sum of all reads is the sum of all writes: nothing is lost, and nothing read twice."""
    writes, readers = 200, 4
    with EventFD(semaphore=semaphore) as event:

        def read_all() -> int:
            total = 0
            with contextlib.suppress(ClosedError):
                while True:
                    total += event.read()
            return total

        def write_all() -> None:
            for _ in range(writes):
                event.write(2)

        reading = [start(read_all) for _ in range(readers)]
        writing = [start(write_all) for _ in range(3)]
        for writer in writing:
            writer.result(SOON)
        wait_for_waiters(event, readers)  # as they do once all is read
        rest = 0
        while (value := event.try_read()) is not None:
            rest += value
        event.close()
        assert sum(reader.result(SOON) for reader in reading) + rest == 3 * writes * 2


def test_writers_that_wait_all_get_through(full: EventFD) -> None:
    """Of several writers that wait for room, none is forgotten, and each adds its value once."""
    writers = [start(full.write, FULL // 2) for _ in range(4)]
    wait_for_waiters(full, 4)
    total = 0
    while not all(writer.done() for writer in writers):
        total += full.try_read() or 0
    for writer in writers:
        writer.result(SOON)
    total += full.try_read() or 0
    assert total == FULL + 4 * (FULL // 2)


def test_one_write_serves_one_of_several_readers(event: EventFD) -> None:
    """All readers may be woken, but one gets the value, and the others wait on."""
    readers = [start(event.read) for _ in range(4)]
    wait_for_waiters(event, 4)
    event.write(5)
    wait_until(lambda: any(reader.done() for reader in readers), "one has read it", SOON)
    wait_for_waiters(event, 3)
    assert sum(reader.done() for reader in readers) == 1
    for value in (6, 7, 8):
        event.write(value)
        wait_until(lambda value=value: sum(each.done() for each in readers) == value - 4, "one more", SOON)  # type: ignore[misc]
    assert sorted(reader.result(SOON) for reader in readers) == [5, 6, 7, 8]


# Closing while someone waits.


@pytest.mark.parametrize("waiters", [1, 4])
def test_closing_wakes_every_reader(waiters: int) -> None:
    """A thread that waits in read() gets ClosedError, and never reads from a file that got the number next."""
    event = EventFD()
    readers = [start(event.read) for _ in range(waiters)]
    wait_for_waiters(event, waiters)
    event.close()
    strangers = [os.eventfd(7, os.EFD_NONBLOCK) for _ in range(8)]
    try:
        for reader in readers:
            with pytest.raises(ClosedError, match="this EventFD is closed"):
                reader.result(SOON)
        assert [os.eventfd_read(stranger) for stranger in strangers] == [7] * 8
    finally:
        for stranger in strangers:
            os.close(stranger)


@pytest.mark.parametrize("waiters", [1, 4])
def test_closing_wakes_every_writer(waiters: int) -> None:
    """A thread that waits in write() gets ClosedError, and never writes to a file that got the number next."""
    event = EventFD()
    event.write(FULL)
    writers = [start(event.write, 5) for _ in range(waiters)]
    wait_for_waiters(event, waiters)
    event.close()
    strangers = [os.eventfd(7, os.EFD_NONBLOCK) for _ in range(8)]
    try:
        for writer in writers:
            with pytest.raises(ClosedError, match="this EventFD is closed"):
                writer.result(SOON)
        assert [os.eventfd_read(stranger) for stranger in strangers] == [7] * 8
    finally:
        for stranger in strangers:
            os.close(stranger)


def test_closing_at_any_moment_wakes() -> None:
    """Wherever a reader is on its way into the wait, close() gets it out again: it is not missed."""
    for turn in range(200):
        event = EventFD()
        reader = start(event.read)
        for _ in range(turn % 10):
            os.sched_yield()
        event.close()
        with pytest.raises(ClosedError):
            reader.result(SOON)


def test_after_the_last_waiter_the_number_is_free() -> None:
    """close() leaves the number taken while a reader is on its way out, and free afterwards."""
    event = EventFD()
    number = event.fileno()
    reader = start(event.read)
    wait_for_waiters(event)
    event.close()
    with pytest.raises(ClosedError):
        reader.result(SOON)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_thread_of_a_child_is_woken_too() -> None:
    """In a forked child, which shares the counter, close() wakes the child's own waiters, and not the parent's."""
    with EventFD() as event:
        reader = start(event.read)
        wait_for_waiters(event)

        def child() -> None:
            event._waits.clear()  # those of the parent's threads
            own = start(event.read)
            wait_for_waiters(event)
            event.close()
            with pytest.raises(ClosedError):
                own.result(10)

        in_child(child)
        assert not reader.done()
        event.write(5)
        assert reader.result(SOON) == 5


# Want of file descriptors.

_WITHOUT_FDS = """
    import errno, os, resource, threading, time
    import memcg

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def take_all():
        taken = []
        while True:
            try:
                taken.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                return taken

    def refused(call):
        try:
            call()
        except memcg.TooManyOpenFilesError as error:
            assert error.errno == errno.EMFILE and "ulimit -n" in str(error), error
            return True
        return False
"""


def test_without_file_descriptors_the_error_says_so() -> None:
    """Where RLIMIT_NOFILE is reached, creating and waiting raise TooManyOpenFilesError, and nothing is lost."""
    run_python(
        f"""{_WITHOUT_FDS}
    event = memcg.EventFD(3)
    taken = take_all()
    assert refused(memcg.EventFD)
    assert event.read() == 3
    assert refused(event.read)
    event.write(4)
    assert event.read() == 4
    for fd in taken:
        os.close(fd)
    event.write(5)
    assert event.read() == 5
    before = len(os.listdir("/proc/self/fd"))
    event.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    """
    )


def test_not_waiting_needs_no_file_descriptor() -> None:
    """A timeout of 0 is up at once, also where no file descriptor is left."""
    run_python(
        f"""{_WITHOUT_FDS}
    event = memcg.EventFD()
    take_all()
    try:
        event.read(timeout=0)
    except memcg.WaitTimeoutError:
        pass
    event.write(event.MAX_VALUE)
    try:
        event.write(1, timeout=0)
    except memcg.WaitTimeoutError:
        pass
    event.close()
    """
    )


def test_closing_needs_no_file_descriptor() -> None:
    """A waiting thread is woken by close(), also where no file descriptor is left."""
    run_python(
        f"""{_WITHOUT_FDS}
    event = memcg.EventFD()
    outcome = []

    def read():
        try:
            event.read()
        except memcg.ClosedError:
            outcome.append("closed")

    reader = threading.Thread(target=read)
    reader.start()
    while not any(epoll._pins for epoll in tuple(event._waits)):
        time.sleep(0.001)
    take_all()
    event.close()
    reader.join(30)
    assert outcome == ["closed"]
    """
    )
