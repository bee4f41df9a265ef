"""What may be sent to the guard: it answers each message of its owner once, whatever that is, and goes on."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

import memcg
import memcg.oom.guard
from memcg import MiB
from memcg._ffi import ffi, lib
from support.forked import in_child
from support.guards import REQUEST, Peer, hello, request
from support.holds import assert_nothing_left, guard_is_gone, wait_stopped
from support.marks import is_held, marks
from support.pace import at_most
from support.processes import finish, start_hog, wait_until
from support.sanitized import sanitized_guard
from support.settings import settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memcg import Cgroup

SECOND = 10**9
KINDS = range(lib.MEMCG_HELLO, lib.MEMCG_LOOK + 1)
LIMIT = 32 * MiB

NUMBERS = (0, 1, -1, 4096, 10**6, SECOND, 60 * SECOND, 2**63 - 1, 2**63 - 65536, -(2**63))
SIZES = (0, 1, REQUEST.size - 1, REQUEST.size + 1, 2 * REQUEST.size, 1 << 16)


@pytest.fixture(params=["as built", "sanitized"])
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The guard, and the same with sanitizers, which have nothing to report afterwards."""
    if request.param == "as built":
        yield memcg.oom.guard.PROGRAM
        return
    sanitized = sanitized_guard()
    yield sanitized.program
    assert sanitized.report() == ""


@pytest.fixture
def neighbour(nursery: memcg.Cgroup) -> Iterator[memcg.Cgroup]:
    """A group that nobody gives to the guard."""
    with memcg.temporary(parent=nursery, limit="8M") as group:
        yield group


class Sender:
    """Sends messages at random. What it gives to the guard is *group*, and what is no group."""

    def __init__(self, peer: Peer, group: Cgroup, place: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.peer, self.group, self.place = peer, group, place
        self.switch = "memory.oom_control" if isinstance(group, memcg.CgroupV1) else "cgroup.freeze"
        self.hog: subprocess.Popen[str] | None = None
        self.epoll = select.epoll()
        self.kinds_of_files: tuple[Callable[[], int], ...] = (
            lambda: os.open(group.path, os.O_RDONLY),
            lambda: os.open(group.path, os.O_RDONLY),
            lambda: os.open(group.path, os.O_PATH),
            lambda: os.open(group.path / self.switch, os.O_RDWR),
            lambda: os.eventfd(0, os.EFD_NONBLOCK),
            lambda: os.eventfd(0, os.EFD_NONBLOCK),
            lambda: os.open(place, os.O_RDONLY),
            lambda: os.open(place / "file", os.O_RDWR | os.O_CREAT),
            lambda: os.open("/dev/null", os.O_RDWR),
            lambda: os.memfd_create("memcg-test"),
            lambda: os.dup(self.epoll.fileno()),
            self.pipe,
            self.half_a_socket,
            self.victim,
        )

    def pipe(self) -> int:
        """The end of a pipe whose other end is closed."""
        reading, writing = os.pipe2(os.O_NONBLOCK)
        kept, other = self.random.sample((reading, writing), 2)
        os.close(other)
        return kept

    def half_a_socket(self) -> int:
        """A socket whose other end is closed."""
        ours, other = socket.socketpair(
            socket.AF_UNIX, self.random.choice((socket.SOCK_STREAM, socket.SOCK_DGRAM))
        )
        ours.setblocking(False)
        other.close()
        return ours.detach()

    def victim(self) -> int:
        """A pidfd of the process in the group, for there is none else to be killed."""
        return os.pidfd_open(self.hog.pid) if self.hog and self.hog.poll() is None else os.eventfd(0)

    def number(self) -> int:
        """A number of 64 bits, mostly one that means something."""
        return self.random.choice((*NUMBERS, self.random.randrange(-(2**63), 2**63)))

    def message(self) -> bytes:
        """Mostly one of the right size."""
        chance = self.random.random()
        if chance < 0.1:
            return self.random.randbytes(self.random.choice(SIZES))
        if chance < 0.15:
            return self.random.randbytes(REQUEST.size)
        kind = self.random.choice((*KINDS, lib.MEMCG_HOLD, lib.MEMCG_HOLD, 0, lib.MEMCG_LOOK + 1, 2**32 - 1))
        return request(
            kind,
            slot=self.random.choice((0, 0, 0, 0, 1, 2, 1023, 1024, 2**31, 2**32 - 1)),
            flags=self.random.choice((0, self.random.randrange(64), 2**32 - 1)),
            delay=self.random.choice((SECOND, 0, self.number())),
            total=self.random.choice((0, 0, self.number())),
            bytes=self.random.choice((MiB, 64 * MiB, self.number())),
            unused=self.random.randrange(2**32),
        )

    @contextlib.contextmanager
    def files(self) -> Iterator[list[int]]:
        """Mostly what a hold takes, or nothing; at times ten of any kind."""
        chance = self.random.random()
        if chance < 0.4:
            kinds = [self.kinds_of_files[0], self.kinds_of_files[4]]
        elif chance < 0.5:
            kinds = [self.victim]
        else:
            count = self.random.choice((0, 0, 0, 1, 2, 2, 3, 8, 9, 10))
            kinds = [self.random.choice(self.kinds_of_files) for _ in range(count)]
        fds: list[int] = []
        try:
            for kind in kinds:
                fds.append(kind())  # noqa: PERF401 - what is open is to be closed, whatever fails
            yield fds
        finally:
            for fd in fds:
                os.close(fd)

    def send(self) -> None:
        """Sends a message, which gets one answer; or has a child send it, which gets none."""
        message = self.message()
        with self.files() as fds:
            if self.random.random() < 0.005:
                in_child(lambda: self.peer.send(message, fds))
                return
            answer = self.peer.ask(message, fds)
        sound = len(message) == REQUEST.size and len(fds) <= 8 and REQUEST.unpack(message)[0] in KINDS
        assert sound or answer.error == errno.EPROTO, (message, fds, answer)

    def disturb(self) -> None:
        """Lets something happen in the group."""
        chance = self.random.random()
        if chance < 0.3 and self.hog is None:
            self.hog = start_hog(self.group, 64, stay=True)
        elif chance < 0.4:
            (self.group.path / self.switch).write_text(self.random.choice("01"))
        elif chance < 0.5:
            with contextlib.suppress(OSError):
                os.mkdir(self.group.path / f"child{self.random.randrange(3)}")

    def tidy(self) -> None:
        """Ends all holds, and what is in the group."""
        if self.hog is not None:
            self.hog.kill()
            finish(self.hog)
            self.hog = None
        for slot in range(64):
            self.peer.ask(request(lib.MEMCG_RELEASE, slot=slot))
        for number in range(3):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self.group.path / f"child{number}")
        (self.group.path / self.switch).write_text("0")
        self.group.limit = LIMIT


def check_hold(peer: Peer, group: Cgroup) -> None:
    """Proves that a proper hold still works, to its expiry."""
    slot = peer.hold(group, delay=SECOND // 10)
    assert is_held(group)
    hog = start_hog(group, 64)
    assert finish(hog) == -signal.SIGKILL
    wait_until(lambda: peer.record(slot).told == 1, "the expiry is told")
    assert peer.record(slot).kills == 1
    assert peer.ask(request(lib.MEMCG_RELEASE, slot=slot)).error == 0
    assert not is_held(group)


def check_messages(count: int, seed: int, program: Path, group: Cgroup, around: list[Cgroup], place: Path) -> None:
    """Proves for *count* messages what the module says."""
    before = [settings(each) for each in around]
    with Peer(program) as peer:
        peer.meet()
        sender = Sender(peer, group, place, seed)
        with sender.epoll:
            peer.ask(request(lib.MEMCG_RELEASE, slot=peer.hold(group)))  # on v2, the worker comes with the first
            files = peer.files()
            for number in range(1, count + 1):
                sender.send()
                if number % 7 == 0:
                    sender.disturb()
                if number % 50 == 0 or number == count:
                    sender.tidy()
                    # What has just ended is looked after for a moment.
                    what = f"seed {seed}: nothing is left open after message {number}"
                    wait_until(lambda: peer.files() == files, what, 5)
                    assert not guard_is_gone(peer.pids)
                    assert [settings(each) for each in around] == before, f"seed {seed}"
                    assert_nothing_left_but_lock(group)
        check_hold(peer, group)
        assert not peer.has_more()
    assert_nothing_left(group, peer.pids)


def assert_nothing_left_but_lock(group: Cgroup) -> None:
    """Proves that no mark is left where nothing is held."""
    assert marks(group) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_messages_at_random(seed: int, program: Path, group: Cgroup, neighbour: Cgroup, tmp_path: Path) -> None:
    """Whatever is sent, with any files: one answer each, nothing left open, no other group touched."""
    check_messages(250, seed, program, group, [neighbour], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10, 14))
def test_many_messages_at_random(
    seed: int, program: Path, group: Cgroup, neighbour: Cgroup, tmp_path: Path
) -> None:
    """The same, for tens of thousands of messages."""
    check_messages(5000, seed, program, group, [neighbour], tmp_path)


def test_before_the_first_proper_message(program: Path, group: Cgroup) -> None:
    """Until it knows its owner, the guard answers whatever comes with an error; then it works."""
    source = random.Random(3)
    owner = os.pidfd_open(os.getpid())
    page = mmap.PAGESIZE
    wrong = [
        *(source.randbytes(size) for size in SIZES),
        *(request(kind) for kind in KINDS if kind != lib.MEMCG_HELLO),
        *(hello(page=bytes) for bytes in (0, -1, 2048, page + 1, 2**17, 2**63 - 1, -(2**63))),
        *(hello(processors=number) for number in (0, 65537, 2**32 - 1)),
    ]
    with Peer(program) as peer, open(os.devnull) as null:
        for message in wrong:
            assert peer.ask(message, source.choice(([], [owner], [owner] * 3))).error == errno.EPROTO
        assert peer.ask(hello()).error == errno.EPROTO
        assert peer.ask(hello(), [owner] * 9).error == errno.EPROTO
        assert peer.ask(hello(), [null.fileno()]).error == errno.EPERM
        os.close(owner)
        peer.meet()
        check_hold(peer, group)
    assert_nothing_left(group, peer.pids)


def test_an_empty_message_is_not_the_end(program: Path) -> None:
    """A message of no bytes looks like the end of the owner to recvmsg(), and is none; closing the socket is."""
    with Peer(program) as peer:
        assert peer.ask(b"").error == errno.EPROTO
        peer.meet()
        assert peer.ask(b"").error == errno.EPROTO
        assert not guard_is_gone(peer.pids)
    assert guard_is_gone(peer.pids)


def test_a_forked_child_is_not_heard(program: Path, group: Cgroup) -> None:
    """What a child of the owner sends over the socket it has inherited changes nothing, and gets no answer."""
    with Peer(program) as peer:
        slot = peer.meet().hold(group, delay=60 * SECOND)
        files = peer.files()

        def send() -> None:
            for kind in (*KINDS, 0):
                with open(group.path / "cgroup.procs") as file, open(os.devnull) as null:
                    peer.send(request(kind, slot=slot, delay=1, bytes=64 * MiB), [file.fileno(), null.fileno()])
            peer.send(b"")

        in_child(send)
        assert peer.ask(request(lib.MEMCG_LOOK, slot=slot)).error == 0
        assert not peer.has_more()
        assert peer.record(slot).state == lib.MEMCG_ARMED
        assert peer.record(slot).delay == 60 * SECOND
        assert peer.files() == files
        assert is_held(group)
    assert_nothing_left(group, peer.pids)


def test_a_flood_keeps_no_deadline_waiting(program: Path, group: Cgroup) -> None:
    """While a child sends as fast as it can, the delay is kept, and the owner gets its answers."""
    with Peer(program) as peer:
        slot = peer.meet().hold(group, delay=int(at_most(SECOND // 5)))
        flooder = os.fork()
        if flooder == 0:
            with contextlib.suppress(OSError):
                while True:
                    peer.send(request(lib.MEMCG_LOOK, slot=slot))
            os._exit(0)
        try:
            wait_until(lambda: select.select([], [peer.socket], [], 0)[1] == [], "the socket is full")
            hog = start_hog(group, 64)
            assert finish(hog) == -signal.SIGKILL
            wait_until(lambda: peer.record(slot).told == 1, "the expiry is told")
            record = peer.record(slot)
            assert (record.expired_time - record.oom_time) / SECOND < at_most(0.5)
            assert peer.ask(request(lib.MEMCG_LOOK, slot=slot)).error == 0
        finally:
            os.kill(flooder, signal.SIGKILL)
            os.waitpid(flooder, 0)
    assert_nothing_left(group, peer.pids)


def test_an_owner_that_takes_no_answers(program: Path, group: Cgroup) -> None:
    """Answers that nobody takes get lost; the guard does not wait, and the delay is kept."""
    with Peer(program) as peer:
        slot = peer.meet().hold(group, delay=int(at_most(SECOND // 5)))
        for _ in range(2000):
            peer.send(request(lib.MEMCG_LOOK, slot=slot))
        hog = start_hog(group, 64)
        assert finish(hog) == -signal.SIGKILL
        wait_until(lambda: peer.record(slot).told == 1, "the expiry is told")
        while peer.has_more():
            peer.receive()
        assert peer.ask(request(lib.MEMCG_RELEASE, slot=slot)).error == 0
    assert_nothing_left(group, peer.pids)


def test_any_file_as_the_owner_of_a_blocked_group(program: Path, group: Cgroup) -> None:
    """Somebody who hangs up during an OOM leaves nobody blocked."""
    with Peer(program) as peer:
        peer.meet().hold(group)
        hog = start_hog(group, 64)
        wait_stopped(hog)
    assert finish(hog) == -signal.SIGKILL
    assert_nothing_left(group, peer.pids)


# Reading the table.

RECORD = ffi.sizeof("struct memcg_record")


def test_a_record_that_is_never_finished_is_not_read() -> None:
    """Of a guard that has died while it wrote, the record is refused, after a while; others are read."""
    with mmap.mmap(-1, lib.MEMCG_HOLDS * RECORD) as memory:
        table, record = ffi.from_buffer(memory), ffi.new("struct memcg_record *")
        for slot, sequence in enumerate((0, 1, 2, 2**32 - 2, 2**32 - 1)):
            memory[slot * RECORD : slot * RECORD + 4] = sequence.to_bytes(4, "little")
            began = time.monotonic()
            expected = -errno.EAGAIN if sequence % 2 else 0
            assert lib.memcg_read_record(table, slot, record) == expected
            assert time.monotonic() - began < 10
        assert lib.memcg_read_record(table, lib.MEMCG_HOLDS - 1, record) == 0
        assert lib.memcg_read_record(table, lib.MEMCG_HOLDS, record) == -errno.EINVAL
        assert lib.memcg_read_record(table, 2**32 - 1, record) == -errno.EINVAL
        ffi.release(table)


def test_a_record_that_changes_is_read_as_a_whole() -> None:
    """While another process writes a record, as the guard does, none is read of which only a part is new."""
    with mmap.mmap(-1, lib.MEMCG_HOLDS * RECORD) as memory:

        def write() -> None:
            words = memoryview(memory).cast("Q")
            deadline, sequence, value = time.monotonic() + 1, 0, 0
            while time.monotonic() < deadline:
                value += 1
                words[0] = sequence + 1
                for word in range(1, RECORD // 8):
                    words[word] = value
                sequence += 2
                words[0] = sequence

        writer = threading.Thread(target=lambda: in_child(write))
        table, record = ffi.from_buffer(memory), ffi.new("struct memcg_record *")
        writer.start()
        values = set()
        while writer.is_alive():
            if lib.memcg_read_record(table, 0, record) == 0:
                assert record.delay == record.deadline == record.ooms == record.told == record.kills
                values.add(record.kills)
        writer.join()
        ffi.release(table)
    assert len(values) > 10
