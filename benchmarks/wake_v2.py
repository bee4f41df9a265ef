"""The wake-up on cgroup v2: how long it takes from a kill by the kernel to the handler that hears of it.

The kernel tells of a change of ``memory.events`` at most once in 10 ms. The first it tells of is that the limit
was hit; OOM and kill come a moment later, and whoever waits for the next signal hears of them 10 ms after that.

Hogs run out of memory one after another, and are killed. Each listener is a process of its own, started anew for a
short round, and the listeners take turns. When a victim is chosen, the kernel's trace tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import time
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import memcg
from memcg import MiB

from .report import Row, Table, ratio
from .room import Room, Unavailable, rotated
from .tracing import _tracefs as tracefs
from .wake import _compile as compile_program
from .wake import _ended as ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Wait = Callable[[], tuple[int, int]]
    """Blocks until there was a kill; when it heard of its OOM, and of the kill."""

NAMES: Final = {
    "poll": "Python, select.poll on memory.events",
    "inotify": "Python, inotify on memory.events",
    "memcg": "memcg, Subscription.wait()",
}
"""The listeners, in the order of the report."""

ROUND = 20
"""OOMs that count in each round of each listener."""
WARM_UP = 2
"""OOMs at the start of each round that do not count."""
LIMIT = 4 * MiB
PAUSE = 0.05
"""Seconds between one hog and the next, after which the kernel signals the first change at once."""
PATIENCE = 30
"""Seconds after which something has failed."""
NOTED = 4
"""Numbers that a listener notes of each OOM."""

_MARKED = re.compile(r" (\d+)\.(\d{6}): mark_victim: ")


@dataclass
class _Figures:
    """What was measured of one listener, in nanoseconds."""

    wake: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many OOMs, rounded up to whole rounds, for each listener."""
    hog = compile_program("hog", room.directory)
    trace: Path | None = None
    why_not = "any victim in the kernel's trace"
    try:
        trace = room.enter(_victims())
    except Unavailable as error:
        why_not = str(error)
    figures = {kind: _Figures() for kind in NAMES}
    for turn in range(-(-samples // ROUND)):
        for kind in rotated(list(NAMES), turn):
            _round(room, hog, trace, kind, figures[kind])
    wake = {kind: Row(NAMES[kind], each.wake) for kind, each in figures.items()}
    stall = {kind: Row(NAMES[kind], each.stall) for kind, each in figures.items()}
    ooms = f"{len(stall['poll'].samples)} OOMs each"
    traced = all(row.samples for row in wake.values())
    if traced:
        yield Table(
            f"wake-v2: from the kernel's choice of a victim to the handler; {ooms}",
            "ms",
            NAMES["poll"],
            list(wake.values()),
            [ratio(wake["memcg"], wake[bare], 0.5) for bare in ("poll", "inotify")],
        )
    yield Table(
        f"wake-v2: from the hog's touch of memory, with the kernel's reclaim, to the handler of the OOM; {ooms}",
        "ms",
        NAMES["poll"],
        list(stall.values()),
        notes=[] if traced else [f"the wake-up is not told apart from the reclaim, without {why_not}"],
    )
    yield Table(
        f"wake-v2: CPU time of the listener for each OOM; {ooms}",
        "ms",
        NAMES["poll"],
        [Row(NAMES[kind], each.cpu) for kind, each in figures.items()],
    )


def _round(room: Room, hog: Path, trace: Path | None, kind: str, figures: _Figures) -> None:
    """One listener and some hogs, in new groups."""
    count = WARM_UP + ROUND
    with contextlib.ExitStack() as stack:
        fd = os.memfd_create("memcg-bench")
        stack.callback(os.close, fd)
        os.truncate(fd, 8 * (1 + NOTED * count))
        shared = stack.enter_context(mmap.mmap(fd, 0))
        records = stack.enter_context(memoryview(shared).cast("q"))
        listeners = stack.enter_context(memcg.temporary(parent=room.group))
        group = stack.enter_context(memcg.temporary(parent=room.group, limit=LIMIT))
        command = [sys.executable, "-m", "benchmarks.wake_v2", kind, str(fd), str(group.path), str(count)]
        place = Path(__file__).parent.parent
        listener = stack.enter_context(
            ended(listeners.popen(command, stdout=subprocess.PIPE, pass_fds=[fd], cwd=place))
        )
        assert listener.stdout is not None
        if listener.stdout.read(1) != b"\n":
            raise Unavailable(f"the listener {kind!r}, which did not start")
        if trace:
            trace.write_text("")
        for position in range(1, 1 + NOTED * count, NOTED):
            with ended(group.popen([str(hog), str(fd), str(4 * LIMIT)], pass_fds=[fd])) as process:
                process.wait(timeout=PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while not records[position]:
                if time.monotonic() > deadline:
                    raise Unavailable(f"the listener {kind!r}, which has missed a kill")
                time.sleep(0.001)
            time.sleep(PAUSE)
        _take(figures, records[1:].tolist(), trace.read_text() if trace else "")


def _take(figures: _Figures, noted: list[int], trace: str) -> None:
    """Takes what a listener has noted, and the moments at which the kernel chose a victim."""
    marked = sorted(int(seconds) * 10**9 + int(rest) * 1000 + 500 for seconds, rest in _MARKED.findall(trace))
    previous = 0
    for position in range(0, len(noted), NOTED):
        killed, oom, touched, cpu = noted[position : position + NOTED]
        if position >= WARM_UP * NOTED:
            figures.stall.append(oom - touched)
            figures.cpu.append(cpu)
            chosen = marked[bisect(marked, killed) - 1] if marked and marked[0] <= killed else 0
            if chosen > previous:
                figures.wake.append(killed - chosen)
        previous = killed


@contextlib.contextmanager
def _victims() -> Iterator[Path]:
    """A trace of the kernel's choices of victims, for the length of a ``with`` block."""
    with contextlib.ExitStack() as stack:
        try:
            instance = stack.enter_context(tracefs()) / "instances" / f"memcg-bench-victims-{os.getpid()}"
            instance.mkdir()
            stack.callback(instance.rmdir)  # ends the tracing too
            (instance / "trace_clock").write_text("mono")
            (instance / "events/oom/mark_victim/enable").write_text("1")
        except OSError as error:
            raise Unavailable(f"the kernel's trace: {error}") from error
        yield instance / "trace"


# The listeners: ``python -m benchmarks.wake_v2 KIND RECORDS_FD GROUP EVENTS``. Each notes when it has heard of a
# kill and of the OOM before it, when the hog has touched memory last, and its own CPU time since the kill before.


def _counts(events: int) -> tuple[int, int]:
    """How often there was an OOM, and how many kills."""
    words = os.pread(events, 4096, 0).split()
    return int(words[words.index(b"oom") + 1]), int(words[words.index(b"oom_kill") + 1])


def _bare(events: int, wait_for_change: Callable[[], object]) -> Wait:
    """Waits for changes, and reads, until there was a kill."""
    ooms, kills = _counts(events)

    def wait() -> tuple[int, int]:
        nonlocal ooms, kills
        ooms_before, kills_before, oom_time, now = ooms, kills, 0, 0
        while kills == kills_before:
            wait_for_change()
            ooms, kills = _counts(events)
            now = time.monotonic_ns()
            if ooms != ooms_before:
                oom_time = oom_time or now
        return oom_time or now, now

    return wait


@contextlib.contextmanager
def _poll(group: str) -> Iterator[Wait]:
    """The least that a program can do."""
    events = os.open(f"{group}/memory.events", os.O_RDONLY)
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    yield _bare(events, poll.poll)


@contextlib.contextmanager
def _inotify(group: str) -> Iterator[Wait]:
    """What other libraries do."""
    libc = ctypes.CDLL(None)
    changes = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(changes, os.fsencode(f"{group}/memory.events"), 2)  # IN_MODIFY
    yield _bare(os.open(f"{group}/memory.events", os.O_RDONLY), lambda: os.read(changes, 4096))


@contextlib.contextmanager
def _memcg(group: str) -> Iterator[Wait]:
    """The library."""
    with memcg.open(group).oom.subscribe() as events:

        def wait() -> tuple[int, int]:
            oom_time = 0
            while True:
                event = events.wait()
                now = time.monotonic_ns()
                if isinstance(event, memcg.OomEvent):
                    oom_time = oom_time or now
                elif isinstance(event, memcg.KernelKill):
                    return oom_time or now, now

        yield wait


def _listen(kind: str, records_fd: int, group: str, events: int) -> None:
    shared = mmap.mmap(records_fd, 8 * (1 + NOTED * events), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    records = memoryview(shared).cast("q")
    listeners = {"poll": _poll, "inotify": _inotify, "memcg": _memcg}
    with listeners[kind](group) as wait:
        os.write(1, b"\n")
        cpu = time.thread_time_ns()
        for position in range(1, 1 + NOTED * events, NOTED):
            oom_time, kill_time = wait()
            before, cpu = cpu, time.thread_time_ns()
            records[position + 1], records[position + 2] = oom_time, records[0]
            records[position + 3] = cpu - before
            records[position] = kill_time


if __name__ == "__main__":
    signal.alarm(300)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
    _listen(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
