"""EventFD: the counter, as eventfd(2) has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import selectors
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg import ClosedError, EventFD, InvalidTypeError, InvalidValueError, WaitTimeoutError
from unit import kernel_aio
from unit.helpers import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HUGE = 10**5000  # more digits than str() gives of an int


@pytest.fixture
def event() -> Iterator[EventFD]:
    """A counter of 0."""
    with EventFD() as event:
        yield event


def shown(event: EventFD) -> int:
    """The counter as /proc shows it, in hexadecimal digits."""
    with open(f"/proc/self/fdinfo/{event.fileno()}") as file:
        (count,) = [line.split()[1] for line in file if line.startswith("eventfd-count:")]
    return int(count, 16)


# The counter.


def test_read_takes_the_whole_counter_and_leaves_0(event: EventFD) -> None:
    """What was written adds up; one read returns the sum, and the next finds nothing."""
    for value in (1, 2, 4, 7, 14):
        event.write(value)
    assert event.read() == 28
    assert event.try_read() is None


def test_write_adds_1_by_default(event: EventFD) -> None:
    """write() without a value is one signal."""
    event.write()
    event.write()
    assert event.read() == 2


@pytest.mark.parametrize("initial", [0, 1, 5, 2**31, 2**32 - 1])
def test_the_counter_starts_with_initial(initial: int) -> None:
    """The first read finds the initial value, up to the largest that eventfd(2) takes."""
    with EventFD(initial) as event:
        assert (event.try_read() or 0) == initial


def test_a_semaphore_is_read_one_at_a_time() -> None:
    """With semaphore=True each read returns 1 and takes 1, until the counter is 0."""
    with EventFD(2, semaphore=True) as event:
        assert event.semaphore
        event.write(2)
        assert [event.read() for _ in range(4)] == [1, 1, 1, 1]
        assert event.try_read() is None


def test_without_semaphore_it_is_none(event: EventFD) -> None:
    """The attribute tells the two kinds apart."""
    assert event.semaphore is False


@given(st.lists(st.integers(0, 2**60), max_size=10), st.booleans())
def test_the_counter_is_a_sum(values: list[int], semaphore: bool) -> None:
    """Whatever is written, the counter is the sum; a read takes all of it, or 1 of a semaphore."""
    with EventFD(semaphore=semaphore) as event:
        for value in values:
            event.write(value)
        total = sum(values)
        assert shown(event) == total
        taken = event.try_read()
        assert taken == (None if total == 0 else 1 if semaphore else total)
        assert shown(event) == total - (taken or 0)


def test_the_counter_holds_2_to_the_64_minus_2(event: EventFD) -> None:
    """MAX_VALUE can be written, and comes back whole."""
    assert EventFD.MAX_VALUE == 2**64 - 2 == 0xFFFFFFFFFFFFFFFE
    event.write(EventFD.MAX_VALUE)
    assert event.read() == 2**64 - 2


def test_writing_0_adds_nothing(event: EventFD) -> None:
    """0 may be written, also where the counter is full, and makes nothing readable."""
    event.write(0)
    assert event.try_read() is None
    event.write(EventFD.MAX_VALUE)
    event.write(0, timeout=0)
    assert event.read() == EventFD.MAX_VALUE


def test_a_read_and_a_write_make_room(event: EventFD) -> None:
    """A full counter takes no more, and everything again once it was read."""
    event.write(EventFD.MAX_VALUE)
    with pytest.raises(WaitTimeoutError):
        event.write(1, timeout=0)
    assert event.read() == EventFD.MAX_VALUE
    event.write(EventFD.MAX_VALUE, timeout=0)
    assert event.read() == EventFD.MAX_VALUE


def test_a_write_that_does_not_fit_adds_nothing(event: EventFD) -> None:
    """Where only a part of the value would fit, none of it is added."""
    event.write(EventFD.MAX_VALUE - 1)
    with pytest.raises(WaitTimeoutError, match="no room for 2 more"):
        event.write(2, timeout=0)
    assert event.read() == EventFD.MAX_VALUE - 1


@pytest.mark.skipif(not kernel_aio.available(), reason="this kernel or sandbox has no io_submit(2)")
def test_the_kernels_own_signals_can_take_it_one_further(event: EventFD) -> None:
    """At 2**64 - 1, where only the kernel can take it, poll tells of an error, select of both, and read works."""
    event.write(EventFD.MAX_VALUE)
    for _ in range(2):  # it stops there
        kernel_aio.signal_from_kernel(event.fileno())
    assert poll(event) & select.POLLERR
    readable, writable, _ = select.select([event], [event], [], 0)
    assert (readable, writable) == ([event], [event])
    with pytest.raises(WaitTimeoutError):
        event.write(1, timeout=0)
    assert event.read() == 2**64 - 1
    assert event.try_read() is None
    event.write(3)
    assert event.read() == 3


@pytest.mark.skipif(not kernel_aio.available(), reason="this kernel or sandbox has no io_submit(2)")
def test_a_signal_of_the_kernel_adds_1(event: EventFD) -> None:
    """The kernel as the writer is what an eventfd is for: its signals add to what else was written."""
    event.write(2)
    kernel_aio.signal_from_kernel(event.fileno())
    assert event.read() == 3


# Bad input.


@pytest.mark.parametrize("initial", [-1, 2**32, 2**64, HUGE, -HUGE], ids=["-1", "2**32", "2**64", "huge", "-huge"])
def test_initial_out_of_range_is_refused(initial: int) -> None:
    """An initial value that the kernel would truncate is an InvalidValueError that says how to do it."""
    with pytest.raises(InvalidValueError, match=r"2\*\*32 - 1.*write\(\) larger values"):
        EventFD(initial)


@pytest.mark.parametrize(
    "value", [-1, 2**64 - 1, 2**64, HUGE, -HUGE], ids=["-1", "2**64-1", "2**64", "huge", "-huge"]
)
def test_a_value_out_of_range_is_refused(event: EventFD, value: int) -> None:
    """A value that write(2) refuses with EINVAL, or that is no u64, is an InvalidValueError, and adds nothing."""
    with pytest.raises(InvalidValueError, match=r"from 0 to 2\*\*64 - 2"):
        event.write(value)
    assert event.try_read() is None


@pytest.mark.parametrize("value", ["1", 1.0, None, True, b"1"], ids=repr)
def test_a_value_of_another_type_is_refused(event: EventFD, value: object) -> None:
    """What is no int is an InvalidTypeError, for initial and for write(), and adds nothing."""
    with pytest.raises(InvalidTypeError, match="is an int"):
        EventFD(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="is an int"):
        event.write(value)  # type: ignore[arg-type]
    assert event.try_read() is None


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True], ids=repr)
def test_a_bad_timeout_is_refused_and_nothing_is_done(event: EventFD, timeout: float) -> None:
    """A timeout that is no duration is refused before anything is read or written, also where there is no wait."""
    event.write(5)
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        event.read(timeout)
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        event.write(1, timeout)
    assert event.read() == 5


@pytest.mark.parametrize(
    "use",
    [EventFD.read, EventFD.try_read, EventFD.write, EventFD.fileno, lambda event: event.read(timeout=0)],
    ids=["read", "try_read", "write", "fileno", "read(timeout=0)"],
)
def test_use_after_close_is_an_error(use: Callable[[EventFD], object]) -> None:
    """Every use of a closed EventFD raises ClosedError, and does not wait."""
    event = EventFD(5)
    event.close()
    with pytest.raises(ClosedError, match="this EventFD is closed"):
        use(event)


# The file descriptor.


def test_it_is_close_on_exec_and_non_blocking(event: EventFD) -> None:
    """The descriptor has FD_CLOEXEC, so no child program gets it, and O_NONBLOCK, so no read outlasts its time."""
    assert fcntl.fcntl(event, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(event, fcntl.F_GETFL) & os.O_NONBLOCK
    assert not os.get_inheritable(event.fileno())


def test_it_is_an_eventfd_of_the_kernel(event: EventFD) -> None:
    """The file is what /proc calls an eventfd, and is read and written as eight bytes in the native order."""
    assert os.readlink(f"/proc/self/fd/{event.fileno()}") == "anon_inode:[eventfd]"
    os.write(event.fileno(), struct.pack("=Q", 258))
    assert struct.unpack("=Q", os.read(event.fileno(), 8)) == (258,)


def test_a_program_that_it_is_passed_to_shares_it(event: EventFD) -> None:
    """Passed on explicitly, it survives exec, and the other program writes to the same counter."""
    number = event.fileno()
    program = f"import os; os.eventfd_write({number}, 9)"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], pass_fds=[number], check=True, timeout=60)
    assert event.read(timeout=0) == 9


def test_parent_and_child_share_the_counter(event: EventFD) -> None:
    """After a fork, what the child writes the parent reads, and the other way round."""
    event.write(3)

    def child() -> None:
        assert event.read(timeout=0) == 3
        event.write(28)
        event.close()

    in_child(child)
    assert event.read(timeout=0) == 28


def test_the_childs_close_leaves_the_parents(event: EventFD) -> None:
    """Closing it in a forked child does not close it in the parent."""
    in_child(event.close)
    event.write(1)
    assert event.read(timeout=0) == 1


def test_a_duplicate_keeps_the_counter_alive() -> None:
    """A descriptor from dup(2) goes on with the same counter after the EventFD was closed."""
    with EventFD() as event:
        event.write(4)
        copy = os.dup(event.fileno())
    try:
        os.eventfd_write(copy, 1)
        assert os.eventfd_read(copy) == 5
    finally:
        os.close(copy)


# Waiting for it with what Python has.


def poll(event: EventFD) -> int:
    """What poll(2) says of it now."""
    poller = select.poll()
    poller.register(event, select.POLLIN | select.POLLOUT | select.POLLPRI)
    return dict(poller.poll(0)).get(event.fileno(), 0)


def selected(event: EventFD) -> int:
    """The same of select(2)."""
    readable, writable, _ = select.select([event], [event], [], 0)
    return (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)


def epolled(event: EventFD) -> int:
    """The same of epoll(7)."""
    with contextlib.closing(select.epoll()) as poller:
        poller.register(event, select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI)
        return dict(poller.poll(0)).get(event.fileno(), 0)


def selector(event: EventFD) -> int:
    """The same of selectors."""
    with selectors.DefaultSelector() as poller:
        poller.register(event, selectors.EVENT_READ | selectors.EVENT_WRITE)
        masks = [mask for _, mask in poller.select(0)]
    mask = masks[0] if masks else 0
    return (select.POLLIN if mask & selectors.EVENT_READ else 0) | (
        select.POLLOUT if mask & selectors.EVENT_WRITE else 0
    )


@pytest.mark.parametrize("state", [poll, selected, epolled, selector])
@pytest.mark.parametrize(
    ("counter", "expected"),
    [
        (0, select.POLLOUT),
        (1, select.POLLIN | select.POLLOUT),
        (EventFD.MAX_VALUE - 1, select.POLLIN | select.POLLOUT),
        (EventFD.MAX_VALUE, select.POLLIN),
    ],
    ids=["0", "1", "one fits", "full"],
)
def test_it_is_readable_above_0_and_writable_where_1_fits(
    event: EventFD, counter: int, expected: int, state: Callable[[EventFD], int]
) -> None:
    """select, poll, epoll and selectors take it as it is, and see what eventfd(2) says they do."""
    event.write(counter)
    assert state(event) == expected
    event.try_read()
    assert state(event) == select.POLLOUT


def test_every_write_is_an_edge(event: EventFD) -> None:
    """Edge-triggered epoll tells of each write, though nothing was read in between, and of none twice."""
    with contextlib.closing(select.epoll()) as poller:
        poller.register(event, select.EPOLLIN | select.EPOLLET)
        assert poller.poll(0) == []
        for _ in range(3):
            event.write()
            assert poller.poll(0) == [(event.fileno(), select.EPOLLIN)]
            assert poller.poll(0) == []
        assert event.read() == 3
        assert poller.poll(0) == []
