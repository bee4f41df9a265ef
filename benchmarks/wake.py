"""The wake-up: how long it takes from the kernel's signal of an OOM to the first line of the handler.

A hog touches memory in a group whose OOM killer is switched off. At the limit it stops, the listener is told and
raises the limit, the hog goes on; and so on, OOM by OOM. Each listener is a process of its own, started anew for
a short round, and the listeners take turns. The hog has one CPU and the listener another, so that every wake-up
is of the same kind: of a sleeping task on another CPU. CPU time is what the listener's thread uses from the end
of one handler to the start of the next, so that the handler's own work, which is the same in all, is not in it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import memcg
from memcg import KiB, MiB

from .report import Row, Table, absolute, ratio
from .room import Room, Unavailable, rotated
from .tracing import Wakings, wakings

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = {
    "c": "C, read(2)",
    "bare": "Python, os.eventfd_read",
    "look": "  the same, then reads memory.oom_control",
    "memcg": "memcg, Subscription.wait()",
    "until": "memcg, for event in until(process)",
}
"""The listeners, in the order of the report. The third does the least that tells an OOM from a removal."""

ROUND = 50
"""OOMs that count in each round of each listener."""
WARM_UP = 10
"""OOMs at the start of each round that do not count, while caches and branch predictors fill."""
LIMIT = 4 * MiB
STEP = 256 * KiB
"""What each handler adds to the limit: 64 pages, as many as the kernel charges at a time."""
HERE = Path(__file__).parent


@dataclass
class _Figures:
    """What was measured of one listener, in nanoseconds."""

    wake: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)
    awake: int = 0
    """How often it had not gone to sleep when the signal came, so that there was no wake-up."""


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many OOMs, rounded up to whole rounds, for each listener."""
    programs = {name: _compile(name, room.directory) for name in ("hog", "listener")}
    trace: Wakings | None = None
    why_not = "any wake-up in the kernel's trace"
    try:
        trace = room.enter(wakings())
    except Unavailable as error:
        why_not = str(error)
    figures = {kind: _Figures() for kind in NAMES}
    for turn in range(-(-samples // ROUND)):
        for kind in rotated(list(NAMES), turn):
            _round(room, programs, trace, kind, figures[kind])

    wake = {kind: Row(NAMES[kind], each.wake) for kind, each in figures.items()}
    stall = {kind: Row(NAMES[kind], each.stall) for kind, each in figures.items()}
    cpu = {kind: Row(NAMES[kind], each.cpu) for kind, each in figures.items()}
    oom = f"{len(stall['c'].samples)} OOMs each"
    traced = all(row.samples for row in wake.values())
    if traced:
        awake = sum(each.awake for each in figures.values())
        yield Table(
            f"wake: from the kernel's signal of an OOM to the handler; {oom}",
            "µs",
            NAMES["bare"],
            list(wake.values()),
            [ratio(wake["memcg"], wake["bare"], 1.2)],
            [f"left out: {awake} signals that met a listener which was not asleep yet"] if awake else [],
        )
    yield Table(
        f"wake: from the hog's touch of memory, with the kernel's own reclaim, to the handler; {oom}",
        "µs",
        NAMES["bare"],
        list(stall.values()),
        [] if traced else [ratio(stall["memcg"], stall["bare"], 1.2)],
        [] if traced else [f"the wake-up is not told apart from the reclaim, without {why_not}"],
    )
    yield Table(
        f"wake: CPU time of the listener for each OOM, without what its handler does; {oom}",
        "µs",
        NAMES["bare"],
        list(cpu.values()),
        [absolute(cpu["memcg"], 50, "µs")],
    )


def _compile(name: str, directory: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev)")
    program = directory / name
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / f"{name}.c")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    if done.returncode:
        raise Unavailable(f"a C compiler that compiles {name}.c:\n{done.stderr}")
    return program


def _round(room: Room, programs: dict[str, Path], trace: Wakings | None, kind: str, figures: _Figures) -> None:
    """One listener and one hog, in new groups."""
    count = WARM_UP + ROUND
    hog_cpu, listener_cpu = _two_cpus()
    with contextlib.ExitStack() as stack:
        fd = os.memfd_create("memcg-bench")
        stack.callback(os.close, fd)
        os.truncate(fd, 8 * (1 + 3 * count))
        listeners = stack.enter_context(memcg.temporary(parent=room.group))
        group = stack.enter_context(memcg.temporary(parent=room.group, limit=LIMIT))
        group.oom.disable()
        arguments = [str(fd), str(group.path), str(count), str(LIMIT), str(STEP)]
        python = [sys.executable, "-I", str(HERE / "listeners.py"), kind]
        command = [str(programs["listener"])] if kind == "c" else python
        with _on(listener_cpu):
            listener = stack.enter_context(
                _ended(listeners.popen([*command, *arguments], stdout=subprocess.PIPE, pass_fds=[fd]))
            )
        assert listener.stdout is not None
        if listener.stdout.read(1) != b"\n":
            raise Unavailable(f"the listener {kind!r}, which did not start")
        if trace:
            trace.watch(listener.pid)
        with _on(hog_cpu):
            hog = [str(programs["hog"]), str(fd), str(LIMIT + (count + 1) * STEP)]
            stack.enter_context(_ended(group.popen(hog, pass_fds=[fd])))
        if listener.wait(timeout=60):
            raise Unavailable(f"the listener {kind!r}, which failed")
        _take(figures, fd, trace.read() if trace else None)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kills *process* in the end, as it may be stopped by an OOM that nobody handles any more."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def _take(figures: _Figures, fd: int, woken: list[int] | None) -> None:
    """Takes what a listener has noted, and the moments at which the kernel woke it."""
    with mmap.mmap(fd, 0) as shared, memoryview(shared).cast("q") as view:
        noted = view[1:].tolist()
    previous = 0
    for position, (handled, touched, cpu) in enumerate(zip(noted[::3], noted[1::3], noted[2::3], strict=True)):
        if position >= WARM_UP:
            figures.stall.append(handled - touched)
            figures.cpu.append(cpu)
            if woken is not None:
                latest = woken[bisect(woken, handled) - 1] if woken and woken[0] <= handled else 0
                if latest > previous:
                    figures.wake.append(handled - latest)
                else:
                    figures.awake += 1
        previous = handled


def _two_cpus() -> tuple[int, int]:
    """A CPU for the hog and one for the listener; the same where there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


@contextlib.contextmanager
def _on(cpu: int) -> Iterator[None]:
    """Children that are started in the body run on *cpu* only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
