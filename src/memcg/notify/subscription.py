"""A subscription to what happens to one group, or to the machine."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import warnings
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, final

from ..epoll import READABLE_ONCE, Epoll, checkpoint
from ..errors import BusyError, ClosedError, InvalidTypeError, ProcessNotFoundError, kernel_errors, shown
from ..fd import OwnedFd
from ..pidfd import PidFD, parse_pid
from ..timer import Timer
from ..units import Deadline
from .sources import Told

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .sources import Source


class Process(Protocol):
    """A child as `subprocess.Popen` and `asyncio.subprocess.Process` have it."""

    @property
    def pid(self) -> int:
        """Its PID."""

    @property
    def returncode(self) -> int | None:
        """None while it has not been waited for."""


class Subscription(Generic[Told]):
    """What happens to one group, told as it happens; made by `Cgroup.subscribe` and `OomController.subscribe`.

    It is armed when it is made: what comes later is not lost, whether or not someone waits. It is its own
    iterator, in ``for`` and, on asyncio and trio, in ``async for``; leaving the loop loses nothing, and a later
    loop goes on where it was left. ::

        with cg.oom.subscribe() as events:
            for event in events.until(process):
                ...

    Close it, best by ``with``. Any thread may do so: whoever waits is woken, and iteration ends quietly. One
    thread or task can wait at a time. In a forked child it cannot be used, and closing it there changes nothing
    for the parent.
    """

    # For subclasses, as are _check_usable and _before_close.
    _noun: ClassVar[str] = "subscription"  # as messages call it

    def __init__(self, source: Source[Told]) -> None:
        self._source = source
        self._pending: deque[Told] = deque()
        self._turn = threading.Lock()
        with contextlib.ExitStack() as failure:
            files = contextlib.ExitStack()
            failure.callback(files.close)
            files.callback(source.close)
            self._timer = files.enter_context(Timer())
            # While it is pinned, all of these stay open; so it alone is pinned.
            self._epoll = failure.enter_context(Epoll(self._noun, after=files.close))
            self._epoll.add(self._timer.fileno())
            for fd, events in source.files():
                self._epoll.add(fd, events)
            self._timer.set(source.due)
            failure.pop_all()
        self._opened = True

    # Waiting.

    def wait(self, timeout: float | None = None) -> Told | None:
        """Blocks until there is an event, and returns it; None only when the time is up.

        Args:
            timeout: Seconds to wait at most; 0 does not wait, None waits for ever.

        Raises:
            ClosedError: closed, before or while waiting; or all is over, as the last event was returned before.
            BusyError: another thread or task waits already.
        """
        return self._next(Deadline(timeout), None)

    async def next(self) -> Told:
        """Awaits the next event, on asyncio or trio. Cancelling it loses nothing.

        Raises:
            ClosedError: closed, before or while waiting; or all is over, as the last event was returned before.
            BusyError: another thread or task waits already.
        """
        event = await self._anext(None)
        assert event is not None
        return event

    def until(self, process: Process | PidFD | int) -> Until[Told]:
        """The events until *process* has exited and all that it caused is told; for ``for`` or ``async for``.

        The process is not waited for in the sense of wait(2): call ``process.wait()`` afterwards as usual.

        Args:
            process: A `subprocess.Popen` or the like, a `PidFD`, or a PID.
        """
        self._check_usable(even_over=True)
        return Until(self, process)

    def fileno(self) -> int:
        """An epoll file descriptor for any event loop: where it is readable, call ``wait(0)`` until that is None.

        It can be readable with nothing to tell: then ``wait(0)`` returns None at once.

        Raises:
            ClosedError: after `close`.
        """
        self._check_usable(even_over=True)
        return self._epoll.fileno()

    def close(self) -> None:
        """Ends the subscription; a second call does nothing. Events that nobody took are dropped."""
        try:
            if not self._epoll.inherited:  # a child would speak for its parent
                self._begin_close()
        finally:
            self._epoll.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._epoll.closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Told:
        return self._iterate(Deadline(None), None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        return await self._aiterate(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_epoll") and not self.closed:
            try:
                if not self._epoll.inherited:
                    warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:  # also where warnings are errors
                self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "over" if self._source.over is not None else "armed"
        group = self._source.group
        whose = "of the machine" if group is None else repr(group.cgroup_path)
        return f"<memcg.{type(self).__name__} {state} {whose}>"

    # Inside.

    def _next(self, deadline: Deadline, process: _Exit | None) -> Told | None:
        """The next event, or None when the time is up or *process* has exited, and a last look found nothing."""
        self._take_turn()
        try:
            gone = self._has_exited(process)
            while not self._pending:
                ready = [] if gone else self._epoll.wait_pinned(deadline)
                self._collect(ready or None)
                if gone or not ready:
                    break
                gone = self._has_exited(process, ready)
            return self._pending.popleft() if self._pending else None
        finally:
            self._end_turn()

    async def _anext(self, process: _Exit | None) -> Told | None:
        """As `_next`, without a deadline."""
        self._take_turn()
        try:
            gone = self._has_exited(process)
            if gone or self._pending:
                await checkpoint()
            while not self._pending:
                ready = [] if gone else await self._epoll.wait_async()
                self._collect(ready or None)
                if gone:
                    break
                gone = self._has_exited(process, ready)
            return self._pending.popleft() if self._pending else None
        finally:
            self._end_turn()

    def _has_exited(self, process: _Exit | None, ready: list[int] | None = None) -> bool:
        """Whether *process* has exited: asked of itself, or, after a wait, found in what is *ready*."""
        if process is None:
            return False
        return process.exited(self._epoll) if ready is None else process.fileno() in ready

    def _iterate(self, deadline: Deadline, process: _Exit | None) -> Told:
        """As `_next`, where the end is the end of an iteration."""
        if not self._finished():
            with contextlib.suppress(ClosedError):
                event = self._next(deadline, process)
                if event is not None:
                    return event
        raise StopIteration

    async def _aiterate(self, process: _Exit | None) -> Told:
        """As `_anext`, where the end is the end of an iteration."""
        if not self._finished():
            with contextlib.suppress(ClosedError):
                event = await self._anext(process)
                if event is not None:
                    return event
        raise StopAsyncIteration

    def _take_turn(self) -> None:
        """Keeps other waiters out, and all files open, until `_end_turn`."""
        self._check_usable(even_over=bool(self._pending))
        if not self._turn.acquire(blocking=False):
            raise BusyError("another thread or task is waiting for events here already")
        try:
            self._epoll.pin()
        except BaseException:
            self._turn.release()
            raise

    def _end_turn(self) -> None:
        self._turn.release()
        self._epoll.unpin()

    def _check_usable(self, even_over: bool = False) -> None:
        """Raises what there is to say against using it now; called first in every use but `close`.

        Args:
            even_over: Whether it will do that events that have been told can still be taken.
        """
        if self._epoll.inherited:
            raise ClosedError(
                f"this {self._noun} belongs to the process that this one forked from; make one in this process"
            )
        if self._epoll.closed:
            raise ClosedError(f"this {self._noun} is closed")
        if self._source.over is not None and not even_over:
            raise ClosedError(f"{self._source.over}: there are no more events")

    def _begin_close(self) -> None:
        try:
            self._epoll.pin()  # so that no other thread's close() takes the files away meanwhile
        except ClosedError:
            return
        try:
            # In one step, so that of several threads, or a signal handler, only one finds it.
            if self.__dict__.pop("_opened", False):
                self._before_close()
        finally:
            self._epoll.unpin()

    def _before_close(self) -> None:
        """What is done first when this is closed: once, in the thread that closes it first, with all files open.

        Whoever waits goes on waiting meanwhile. In a forked child it is not called. What it raises comes out of
        `close`, and all is closed nevertheless.
        """

    def _finished(self) -> bool:
        if self._epoll.inherited:
            self._check_usable()
        return self._epoll.closed or (self._source.over is not None and not self._pending)

    def _collect(self, ready: list[int] | None) -> None:
        """Takes in what is *ready*, or, with None, whatever a thorough last look finds."""
        self._pending.extend(self._source.collect(ready))
        self._timer.set(self._source.due)


class _Exit(OwnedFd):
    """What becomes readable when a process exits, as a copy of a pidfd: no two waits share its number."""

    def __init__(self, process: PidFD) -> None:
        number = process.pin()
        try:
            with kernel_errors("wait for a process", f"/proc/{process.pid}"):
                super().__init__(os.dup(number))
        finally:
            process.unpin()
        self._poll = select.poll()
        self._poll.register(self.fileno(), select.POLLIN)
        self._added = False

    def exited(self, epoll: Epoll) -> bool:
        """Whether it has; if not, *epoll* will tell when it does.

        It tells once only, so that a loop that was broken off leaves nothing that keeps others awake. Whether that
        was while somebody else waited there is why this asks anew.
        """
        if not self._added:
            epoll.add(self.fileno(), READABLE_ONCE)
            self._added = True
        return bool(self._poll.poll(0))


@final
class Until(Generic[Told]):
    """The events of a subscription until a process has exited; see `Subscription.until`."""

    def __init__(self, subscription: Subscription[Told], process: Process | PidFD | int) -> None:
        self._subscription = subscription
        self._process = _open(process)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Told:
        try:
            # A process that is gone leaves nothing to wait for: one last look, without blocking.
            return self._subscription._iterate(Deadline(None if self._process else 0), self._process)
        except StopIteration:
            self._close()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        try:
            if self._process:
                return await self._subscription._aiterate(self._process)
            await checkpoint()
            return self._subscription._iterate(Deadline(0), None)
        except (StopIteration, StopAsyncIteration):
            self._close()
            raise StopAsyncIteration from None

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._close()


def _open(process: Process | PidFD | int) -> _Exit | None:
    """What tells of its exit, or None where the process has exited and been waited for."""
    if isinstance(process, PidFD):
        return _Exit(process)
    if isinstance(process, int):
        pid = parse_pid(process)
    elif not isinstance(getattr(process, "pid", None), int):
        raise InvalidTypeError(f"until() takes a Popen, a PidFD or a PID, not {shown(process)}")
    elif process.returncode is None:
        pid = process.pid
    else:
        return None
    try:
        with PidFD(pid) as opened:
            return _Exit(opened)
    except ProcessNotFoundError:
        return None
