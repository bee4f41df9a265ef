"""A guard without the library: whatever is sent to it, and what it answers."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import memcg.oom.guard
from memcg._ffi import ffi, lib
from support.holds import guard_is_gone
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from memcg._ffi import Record

REQUEST = struct.Struct("IIIIqqqQ")
REPLY = struct.Struct("iIIIIIiiiIq")


class Answer(NamedTuple):
    """A reply, member by member."""

    error: int
    step: int
    done: int
    slot: int
    kernel: int
    locked: int
    guard: int
    keeper: int
    warden: int
    unused: int
    bytes: int


def request(
    kind: int,
    *,
    slot: int = 0,
    flags: int = 0,
    delay: int = 0,
    total: int = 0,
    bytes: int = 0,
    path: int = 0,
    unused: int = 0,
) -> bytes:
    """A message of the right size."""
    return REQUEST.pack(kind, slot, flags, unused, delay, total, bytes, path)


def hello(*, page: int = mmap.PAGESIZE, processors: int = os.cpu_count() or 1) -> bytes:
    """The first message."""
    return request(lib.MEMCG_HELLO, slot=processors, bytes=page)


class Peer:
    """A guard, and its socket. It is gone after the ``with`` block."""

    def __init__(self, program: Path | None = None) -> None:
        other = ffi.new("int[]", [-1])
        self.socket = socket.socket(fileno=lib.memcg_guard_socket(other))
        self.socket.settimeout(20)
        error = lib.memcg_guard_start(os.fsencode(program or memcg.oom.guard.PROGRAM), other[0])
        os.close(other[0])
        assert error == 0, os.strerror(-error)
        self.pids: tuple[int, ...] = ()
        """Of the guard, the keeper and the warden, once they are known."""
        self._table: mmap.mmap | None = None

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends a message, as it is."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        sent = self.socket.sendmsg([data], rights)
        assert sent == len(data)

    def receive(self) -> Answer:
        """The next answer."""
        data, fds, _, _ = socket.recv_fds(self.socket, REPLY.size + 1, 1)
        for fd in fds:
            if self._table is None:
                size = lib.MEMCG_HOLDS * ffi.sizeof("struct memcg_record")
                self._table = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
            os.close(fd)
        assert len(data) == REPLY.size, f"the guard has gone, or says {data!r}"
        return Answer(*REPLY.unpack(data))

    def ask(self, data: bytes, fds: Sequence[int] = ()) -> Answer:
        """Sends a message, and returns the answer."""
        self.send(data, fds)
        return self.receive()

    def has_more(self) -> bool:
        """Whether there is an answer that nobody asked for."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def meet(self) -> Self:
        """Says who we are."""
        owner = os.pidfd_open(os.getpid())
        try:
            answer = self.ask(hello(), [owner])
        finally:
            os.close(owner)
        assert answer.error == 0, os.strerror(answer.error)
        assert self._table is not None
        self.pids = (answer.guard, answer.keeper, answer.warden)
        return self

    def hold(self, group: memcg.Cgroup, **fields: int) -> int:
        """Has *group* held; the number of the hold."""
        with contextlib.ExitStack() as files:
            fds = [os.open(group.path, os.O_RDONLY), os.eventfd(0, os.EFD_NONBLOCK)]
            for fd in fds:
                files.callback(os.close, fd)
            answer = self.ask(request(lib.MEMCG_HOLD, **fields), fds)
        assert answer.error == 0, (answer.step, os.strerror(answer.error))
        return answer.slot

    def record(self, slot: int) -> Record:
        """What the guard has to tell of a hold."""
        assert self._table is not None
        table, record = ffi.from_buffer(self._table), ffi.new("struct memcg_record *")
        try:
            assert lib.memcg_read_record(table, slot, record) == 0
        finally:
            ffi.release(table)
        return record

    def files(self) -> int:
        """How many file descriptors the three processes have, in their one table."""
        return len(os.listdir(f"/proc/{self.pids[0]}/fd"))

    def close(self) -> None:
        """Hangs up."""
        self.socket.close()
        if self._table is not None:
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        wait_until(lambda: guard_is_gone(self.pids), "the guard is gone")
