"""The guard as a program: what it is made of, and how little memory it takes."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcg.oom.guard
from memcg._ffi import lib
from support.guards import Peer, request
from support.holds import assert_nothing_left, guard_is_gone, with_worker
from support.marks import is_held
from support.processes import wait_until
from support.sanitized import build_of_setup

if TYPE_CHECKING:
    from pathlib import Path

    from memcg import Cgroup

LOAD, DYNAMIC, INTERPRETER, STACK = 1, 2, 3, 0x6474E551
EXECUTE, WRITE = 1, 2


class Segment(NamedTuple):
    """An entry of an ELF program's table of segments."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    size: int
    alignment: int


def segments(program: Path) -> list[Segment]:
    """All of a 64-bit little-endian program."""
    data = program.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return [Segment(*struct.unpack_from("<IIQQQQQQ", data, table + size * number)) for number in range(count)]


def check_program(program: Path) -> None:
    """Proves that nothing but the kernel is needed to start it, and that nothing in it can be written and run."""
    parts = segments(program)
    assert [part for part in parts if part.kind in (INTERPRETER, DYNAMIC)] == []
    assert [part.flags & EXECUTE for part in parts if part.kind == STACK] == [0]
    loaded = [part for part in parts if part.kind == LOAD]
    assert [part for part in loaded if part.flags & EXECUTE and part.flags & WRITE] == []
    assert 0 < sum(part.size for part in loaded) < 64 << 10


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="elsewhere the guard is built with a C library"
)
def test_it_needs_nothing_and_is_small() -> None:
    """The guard is a static program of less than 64 KiB, with no interpreter, and not writable where it runs."""
    check_program(memcg.oom.guard.PROGRAM)


@pytest.mark.parametrize("compiler", ["aarch64-linux-gnu-gcc", "x86_64-linux-gnu-gcc"])
def test_it_is_the_same_on_both_machines(compiler: str, tmp_path: Path) -> None:
    """With a compiler for the other machine at hand, the same holds there, without a warning."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    build, program = build_of_setup(), tmp_path / "memcg-guard"
    subprocess.run(
        [
            *(compiler, *build.compile, "-Wall", "-Wextra", "-Werror"),
            *(*build.sources, *build.link, "-o", str(program)),
        ],
        check=True,
    )
    check_program(program)


def memory(pid: int) -> int:
    """How much memory a process has resident, in KiB."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmRSS"].split()[0])


def test_it_takes_little_memory_and_no_more_later(group: Cgroup) -> None:
    """Each of its processes has at most 1 MiB resident, and no page more after 10,000 requests."""
    with Peer() as peer:
        slot = peer.meet().hold(group, delay=10**10)
        pids = with_worker(peer.pids)
        wait_until(lambda: len({memory(pid) for pid in pids}) == 1, "all have touched their memory")
        before = [memory(pid) for pid in pids]
        assert max(before) <= 1024
        files = peer.files()
        for number in range(10_000):
            kind = (lib.MEMCG_LOOK, lib.MEMCG_DELAY, lib.MEMCG_RAISE, lib.MEMCG_EXPIRE)[number % 4]
            assert peer.ask(request(kind, slot=slot, delay=10**10, bytes=1 << 26)).error == 0
        assert [memory(pid) for pid in pids] == before
        assert peer.files() == files
    assert_nothing_left(group, peer.pids)


def test_it_ends_at_once_where_it_is_started_by_hand() -> None:
    """Without a socket as file descriptor 3, the program ends; it does not wait, nor turn in circles."""
    for redirection in ("3<&-", "3</dev/null", "3</dev/zero"):
        ended = subprocess.run(
            ["/bin/sh", "-c", f'exec "$0" {redirection}', str(memcg.oom.guard.PROGRAM)],
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 0


IGNORES_CHILDREN = """
import os, signal, sys, time
import memcg

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 32))
with memcg.open(sys.argv[1]).oom.hold(60) as hold:
    print(*hold.guard_pids, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_the_owner_does_with_signals_is_not_inherited(group: Cgroup, which: int) -> None:
    """Where the owner ignores its children and blocks all signals, the guard still keeps watch over its own."""
    with subprocess.Popen(
        [sys.executable, "-c", IGNORES_CHILDREN, str(group.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        for pid in pids:
            with open(f"/proc/{pid}/status") as file:
                ignored = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
            assert not ignored & 1 << signal.SIGCHLD - 1
        assert is_held(group)
        os.kill(pids[which], signal.SIGKILL)
        wait_until(lambda: guard_is_gone(pids), "the others have ended too")
        owner.communicate(timeout=30)
    assert_nothing_left(group, pids)
