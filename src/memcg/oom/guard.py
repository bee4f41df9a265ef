"""The guard of this process: the program that holds groups for it, and outlives whatever happens to it.

There is one for all holds of a process, started with the first of them; it ends with the last. What it does is
described in csrc/guard.c and csrc/hold.c, and the messages in csrc/guard_protocol.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from .._ffi import ffi, lib
from ..epoll import stand_in
from ..errors import ClosedError, GuardLostError, KernelError, kernel_error
from ..fd import OwnedFd
from ..pidfd import PidFD

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .._ffi import Record, Reply, Request

PROGRAM = Path(__file__).parent.with_name("memcg-guard")

ANSWER = 10_000
"""How long to wait for an answer, in milliseconds. It takes less than one, or the guard is as good as lost."""

Locked = Literal["all", "hot", "none"]
_LOCKED: dict[int, Locked] = {
    lib.MEMCG_LOCKED_ALL: "all",
    lib.MEMCG_LOCKED_HOT: "hot",
    lib.MEMCG_LOCKED_NONE: "none",
}

_current: Guard | None = None
_turn = threading.RLock()  # reentrant, as a signal handler may close a hold


def _in_child() -> None:
    """A forked child has no guard: its parent has."""
    global _current, _turn
    _turn = threading.RLock()
    _current = None


def turn() -> AbstractContextManager[object]:
    """Within it, nobody else starts, asks or gives back a guard; nor does anybody fork, as a child that has the
    socket without knowing it would keep the guard from seeing its owner go."""
    return _turn


os.register_at_fork(
    before=lambda: _turn.acquire(),
    after_in_parent=lambda: _turn.release(),
    after_in_child=_in_child,
)


@final
class Guard:
    """The running guard, as its owner sees it. Get it with `acquire`, and give it back with `release`."""

    def __init__(self) -> None:
        self.lost: bool = False
        """Whether it has been found out that the guard is gone."""
        self.pid: int = 0
        self._owner = os.getpid()
        self._users = 0
        with contextlib.ExitStack() as failure:
            self._socket, guards_end = _socket_pair()
            failure.callback(self._socket.close)
            with guards_end:
                error = lib.memcg_guard_start(os.fsencode(PROGRAM), guards_end.fileno())
            if error:
                raise _start_error(-error)
            lib.memcg_guard_keep_from_children(self._socket.fileno(), stand_in())
            # Before the number is free for others.
            failure.callback(lib.memcg_guard_keep_from_children, -1, -1)
            with PidFD(self._owner) as owner:
                hello = ffi.new("struct memcg_request *")
                hello.kind, hello.slot, hello.bytes = lib.MEMCG_HELLO, os.cpu_count() or 1, PAGESIZE
                reply, table = self._call(hello, (owner.fileno(),))
            if reply.error or table is None:
                raise _start_error(reply.error or errno.EPROTO)
            with table:
                mapped = lib.memcg_map_table(table.fileno())
            if not mapped:
                raise _start_error(errno.ENOMEM)
            # Until the last who may read it has let go of this object.
            self._table = ffi.gc(mapped, lib.memcg_unmap_table)
            failure.pop_all()
        self.pid = reply.guard
        self.pids: tuple[int, int, int] = (reply.guard, reply.keeper, reply.warden)
        """Those of the guard, its keeper, and the keeper's own keeper."""
        self.locked: Locked = _LOCKED.get(reply.locked, "none")

    def fileno(self) -> int:
        """What hangs up when the guard is lost."""
        return self._socket.fileno()

    def call(
        self,
        kind: int,
        *,
        slot: int = 0,
        flags: int = 0,
        delay: int = 0,
        total: int = 0,
        bytes: int = 0,
        path: int = 0,
        fds: tuple[int, ...] = (),
    ) -> Reply:
        """Asks the guard for something, and returns its answer, whose ``error`` is for the caller to look at.

        Raises:
            GuardLostError: there is no guard any more.
        """
        request = ffi.new("struct memcg_request *")
        request.kind, request.slot, request.flags = kind, slot, flags
        request.delay, request.total, request.bytes, request.path = delay, total, bytes, path
        reply, _ = self._call(request, fds)
        return reply

    def read(self, slot: int) -> Record:
        """What the guard has to tell of a hold.

        Raises:
            GuardLostError: it has died while it wrote that.
        """
        record = ffi.new("struct memcg_record *")
        if lib.memcg_read_record(self._table, slot, record):
            raise self.lost_error()
        return record

    def check(self) -> None:
        """Raises `GuardLostError` where the guard is gone."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLRDHUP)
        if self.lost or poll.poll(0):
            raise self.lost_error()

    def lost_error(self) -> GuardLostError:
        """What is raised when it is gone; from then on it is."""
        self.lost = True  # the socket stays open, as others may be waiting for it to hang up
        self.hang_up()  # should it be there after all
        if not self.pid:
            return GuardLostError(f"the guard ended before it was ready: {PROGRAM} cannot run here")
        return GuardLostError(
            f"the guard (process {self.pid}) is gone: its keeper has put everything back, and the kernel's OOM "
            f"killer is on again; for a hold with a new guard, call hold() again"
        )

    def hang_up(self) -> None:
        """Has the guard put everything back, and end, whoever else may have a copy of the socket."""
        if os.getpid() == self._owner:
            lib.memcg_guard_hang_up(self._socket.fileno())

    def _call(self, request: Request, fds: tuple[int, ...]) -> tuple[Reply, OwnedFd | None]:
        if os.getpid() != self._owner:
            raise ClosedError(
                "this hold belongs to the process that this one forked from; make one in this process"
            )
        reply = ffi.new("struct memcg_reply *")
        passed, received = ffi.new("int[]", list(fds)), ffi.new("int[]", [-1])
        if self.lost:
            raise self.lost_error()
        reply.error = -1  # until there is an answer
        try:
            with _turn:
                number = self._socket.pin()  # a signal handler may close the last hold
                try:
                    error = lib.memcg_guard_call(number, request, passed, len(fds), reply, received, ANSWER)
                finally:
                    self._socket.unpin()
        except BaseException:  # of a signal handler, and perhaps the answer has come
            if request.kind == lib.MEMCG_HOLD and not reply.error:
                self.call(lib.MEMCG_RELEASE, slot=reply.slot)
            raise
        if error in (-errno.EPIPE, -errno.ECONNRESET, -errno.ETIMEDOUT):
            raise self.lost_error()
        if error:
            raise kernel_error(-error, "ask the guard", str(PROGRAM))
        return reply, OwnedFd(received[0]) if received[0] >= 0 else None


def acquire() -> Guard:
    """The guard of this process, started if there is none; for one hold, which gives it back with `release`."""
    global _current
    with _turn:
        if _current is None or _current.lost:
            _current = Guard()
        _current._users += 1
        return _current


def release(guard: Guard) -> None:
    """Ends what `acquire` began. The guard goes with its last hold."""
    global _current
    with _turn:
        guard._users -= 1
        if guard._users:
            return
        if _current is guard:
            lib.memcg_guard_keep_from_children(-1, -1)
            _current = None
        with contextlib.suppress(ClosedError):
            guard.hang_up()
        guard._socket.close()


def _start_error(number: int) -> KernelError:
    hints = {
        errno.ENOENT: "this installation of memcg lacks it",
        errno.EACCES: "it may not be run from there; is that mounted noexec?",
        errno.EMFILE: "raise RLIMIT_NOFILE (ulimit -n), or fs.inotify.max_user_instances",
        errno.EAGAIN: "too many processes: raise RLIMIT_NPROC (ulimit -u), or pids.max of the cgroup",
    }
    kind = KernelError if number == errno.ENOENT else None  # it is no cgroup that is missing
    return kernel_error(number, "start the guard", str(PROGRAM), hints.get(number, ""), kind)


def _socket_pair() -> tuple[OwnedFd, OwnedFd]:
    other = ffi.new("int[]", [-1])
    fd = lib.memcg_guard_socket(other)
    if fd < 0:
        raise kernel_error(-fd, "create a socket for the guard", "socket")
    return OwnedFd(fd), OwnedFd(other[0])
