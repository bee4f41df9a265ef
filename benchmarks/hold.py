"""The hold: how soon the kernel's killer is on again, when the delay has run out and when a process has died.

All is measured with real OOMs: a hog that is stopped at the limit of a small group, as the killer is off. What the
guard is compared with does no more than it must, and knows nothing but one group: it waits, and writes one byte.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import statistics
import struct
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import memcg
from memcg import MiB

from .lab import (
    LIMIT,
    PATIENCE,
    Lab,
    answer_of,
    await_end,
    is_off,
    line_of,
    until_on,
    wait_for,
)
from .report import UNITS, Bar, Row, Table, absolute, tail
from .room import Unavailable, rotated
from .wake import _ended as ended
from .wake import _on as on
from .wake import _two_cpus as two_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .room import Room

    Popen = subprocess.Popen[bytes]

Event = TypeVar("Event", bound=memcg.HoldEvent)

OURS: Final = "memcg's guard"
BARE: Final = "C, timerfd and write(2)"
PYTHON: Final = "Python, time.sleep and os.pwrite"
BARE_OWNER: Final = "C, poll(2) of a pidfd and write(2)"
PYTHON_OWNER: Final = "Python, poll of a pidfd and os.pwrite"

DELAY = 0.02
"""Seconds; each OOM lasts that long."""
PAUSE = 0.1
"""Seconds between two turns of what a hold costs."""
HOLDS = 1000
"""Holds in one guard, besides the one that is measured."""
FILES = 14 * HOLDS + 1000
"""Open files that this takes, of the guard and of this process."""

_PYTHON_PROGRAM = """
import os, select, signal, struct, sys, time
signal.alarm(900)
control = os.open(sys.argv[1], os.O_WRONLY)
if len(sys.argv) == 3:
    poll = select.poll()
    poll.register(os.pidfd_open(int(sys.argv[2])), select.POLLIN)
    os.write(1, b"\\n")
    poll.poll()
    os.pwrite(control, b"0", 0)
else:
    while message := os.read(0, 8):
        time.sleep(max(0, struct.unpack("q", message)[0] / 1e9 - time.monotonic()))
        os.pwrite(control, b"0", 0)
        os.write(1, struct.pack("q", time.monotonic_ns()))
"""
PYTHON_GUARD = [sys.executable, "-I", "-S", "-c", _PYTHON_PROGRAM]
"""What guard.c does."""

OWNER = """
import signal, sys, time
import memcg
signal.alarm(900)
group = memcg.open(sys.argv[1])
if sys.argv[2:] == ["hold"]:
    hold = group.oom.hold(300)
    print(*hold.guard_pids, flush=True)
else:
    print(flush=True)
time.sleep(300)
"""

BUSY = "import signal\nsignal.alarm(900)\nwhile True: pass"


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many expiries of each guard in each state of the machine, and a part of that of all else."""
    lab = Lab(room)
    yield from _expiries(lab, samples)
    yield from _owners(lab, max(2, samples // 5))
    yield _watchers(lab, max(2, samples // 3))
    yield _costs(lab, max(2, samples // 3))


# The delay has run out.


class _Guard(Protocol):
    late: list[int]
    """How long after the deadline the killer was on, each time, in nanoseconds."""

    def trial(self) -> None:
        """One OOM, and its expiry."""

    def finish(self) -> None:
        """Waits for the figure of the last trial."""


class _Held:
    """A group with a hold."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self._lab = lab
        self.group = lab.new_group(stack)
        self.hold = stack.enter_context(self.group.oom.hold(DELAY))
        self.late: list[int] = []
        self.left_out = 0
        """How often the deadline was over before this process, which is no guard, had got to reading it."""
        self._pending = False
        self._deadline: float | None = None

    def trial(self) -> None:
        self.finish()
        with self._lab.hog(self.group) as hog:
            self._meet_oom()
            wait_for(hog)

    def finish(self) -> None:
        """The guard tells of an expiry once the OOM is over, so that others may have their turn before this."""
        if not self._pending:
            return
        self._pending = False
        late = self._take(memcg.DelayExpired).time
        if self._deadline is None:
            self.left_out += 1
        else:
            self.late.append(round((late - self._deadline) * 1e9))

    def watched_trial(self) -> float | None:
        """One OOM and its expiry, seen from outside: how much later than the guard says the killer was seen on, in
        nanoseconds; None where it was off again before it was seen."""
        self.finish()
        control = os.open(self.group.path / "memory.oom_control", os.O_RDONLY)
        try:
            with self._lab.hog(self.group) as hog:
                self._meet_oom()
                until = time.monotonic_ns() + round(2 * DELAY * 1e9)
                while is_off(control) and time.monotonic_ns() < until:
                    pass
                seen = time.monotonic_ns()
                wait_for(hog)
        finally:
            os.close(control)
        self._pending = False
        told = self._take(memcg.DelayExpired).time * 1e9
        return seen - told if seen < until else None

    def _meet_oom(self) -> None:
        self._take(memcg.OomEvent)
        self._deadline = self.hold.deadline
        self._pending = True

    def _take(self, kind: type[Event]) -> Event:
        while (event := self.hold.wait(PATIENCE)) is not None:
            if isinstance(event, kind):
                return event
        raise Unavailable(f"a {kind.__name__} within {PATIENCE} seconds")


class _Bare:
    """A group with the least of a guard."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack, command: list[str]) -> None:
        self._lab = lab
        self._group = lab.new_group(stack)
        command = [*command, str(self._group.path / "memory.oom_control")]
        pipe = subprocess.PIPE
        self._process = stack.enter_context(
            ended(lab.room.group.popen(command, stdin=pipe, stdout=pipe, bufsize=0))
        )
        self.late: list[int] = []

    def trial(self) -> None:
        self._group.oom.disable()
        with self._lab.blocked_hog(self._group) as hog:
            deadline = time.monotonic_ns() + round(DELAY * 1e9)
            assert self._process.stdin is not None
            self._process.stdin.write(struct.pack("q", deadline))
            wait_for(hog)
        self.late.append(struct.unpack("q", answer_of(self._process, 8))[0] - deadline)

    def finish(self) -> None:
        """There is nothing to wait for."""


def _expiries(lab: Lab, samples: int) -> Iterator[Table]:
    with contextlib.ExitStack() as stack:
        held = _Held(lab, stack)
        guards: dict[str, _Guard] = {
            OURS: held,
            BARE: _Bare(lab, stack, [lab.guard]),
            PYTHON: _Bare(lab, stack, PYTHON_GUARD),
        }
        yield _lateness("a quiet machine", held, guards, samples, [_outside(held)])
        with _busy(lab.room):
            cpus = len(os.sched_getaffinity(0))
            yield _lateness(f"{cpus} CPUs, a busy loop on each", held, guards, samples)
        title = f"{HOLDS:,} more holds in the same guard"
        try:
            stack.enter_context(_many_holds(lab))
        except Unavailable as error:
            yield Table(f"hold: {title}", "µs", BARE, [], [], [f"not measured, without {error}"])
            return
        at_rest = _at_rest(held.hold.guard_pids)
        yield _lateness(title, held, guards, samples, at_rest)


def _lateness(title: str, held: _Held, guards: dict[str, _Guard], samples: int, bars: Sequence[Bar] = ()) -> Table:
    """So many expiries of each, in turns."""
    for turn in range(-2, samples):
        for guard in rotated(list(guards.values()), turn):
            guard.trial()
        if turn == -1:
            held.left_out = 0
            for guard in guards.values():
                guard.finish()
                guard.late.clear()
    for guard in guards.values():
        guard.finish()
    rows = [Row(name, tuple(guard.late)) for name, guard in guards.items()]
    ours = rows[0]
    notes = [f"left out: {held.left_out} whose deadline was not known in time"] if held.left_out else []
    title = f"hold: from the deadline to the killer enabled; {title}; {samples} expiries each"
    return Table(title, "µs", BARE, rows, [absolute(ours, 0.5, "ms"), *tail(ours, 5, "ms"), *bars], notes)


def _outside(held: _Held) -> Bar:
    """That the file has changed by the time that the guard says."""
    later = [each for each in (held.watched_trial() for _ in range(10)) if each is not None]
    figure = statistics.median(later) / UNITS["ms"] if later else math.inf
    return Bar("seen on from outside, after the guard says it was", figure, 0.5, "ms")


@contextlib.contextmanager
def _busy(room: Room) -> Iterator[None]:
    """Every CPU has something to do."""
    with contextlib.ExitStack() as stack:
        for cpu in os.sched_getaffinity(0):
            with on(cpu):
                stack.enter_context(ended(room.group.popen([sys.executable, "-I", "-S", "-c", BUSY])))
        yield


@contextlib.contextmanager
def _many_holds(lab: Lab) -> Iterator[None]:
    """More holds of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        raise Unavailable(f"{FILES:,} open files (ulimit -Hn says {hard:,})")
    with contextlib.ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        above = lab.new_group(held, None)
        for number in range(HOLDS):
            group = above.create(str(number), limit=LIMIT)
            held.enter_context(group.oom.hold(DELAY))
        yield


def _at_rest(pids: Sequence[int]) -> list[Bar]:
    """What the guard and those who watch it take, with nothing to do."""
    time.sleep(1)  # the last look at what has just happened comes some hundred milliseconds after it
    before = [_cpu_time(pid) for pid in pids]
    time.sleep(1)
    used = sum(map(_cpu_time, pids)) - sum(before)
    most = max(map(_resident, pids))
    of = "guard, keeper and warden"
    return [
        Bar(f"CPU time of {of}, in a second at rest", used / UNITS["ms"], 0, "ms"),
        Bar(f"memory of {of}, each at most", most / MiB, 1, "MiB"),
    ]


def _cpu_time(pid: int) -> int:
    """In nanoseconds; finer than what /proc has. The clock is that of clock_getcpuclockid(3)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# Somebody has died.


class _Doomed:
    """A group, an owner that is to be killed, and what guards the group then: memcg, or a command."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack, guard: list[str] | None, with_oom: bool) -> None:
        self._lab = lab
        self._guard = guard
        self._with_oom = with_oom
        self._group = lab.new_group(stack)
        self._control = os.open(self._group.path / "memory.oom_control", os.O_RDONLY)
        stack.callback(os.close, self._control)
        self.times: list[int] = []

    def start(self, stack: contextlib.ExitStack) -> None:
        """Starts the owner, and does not wait for it."""
        owner = [sys.executable, "-I", "-c", OWNER, str(self._group.path), "bare" if self._guard else "hold"]
        self._owner = self._start(stack, owner)

    def guard(self, stack: contextlib.ExitStack) -> None:
        """Waits for the owner, and has the group guarded."""
        pids = [*map(int, line_of(self._owner).split()), self._owner.pid]
        if self._guard:
            self._group.oom.disable()
            path = str(self._group.path / "memory.oom_control")
            guard = self._start(stack, [*self._guard, path, str(self._owner.pid)])
            line_of(guard)
            pids.append(guard.pid)
        self._processes = [stack.enter_context(memcg.PidFD(pid)) for pid in pids]
        for pid in pids:
            os.sched_setaffinity(pid, {two_cpus()[0]})

    def kill(self) -> None:
        """Kills the owner, and waits until nobody is left."""
        with contextlib.ExitStack() as stack:
            hog = stack.enter_context(self._lab.blocked_hog(self._group)) if self._with_oom else None
            with on(two_cpus()[1]):
                self.times.append(until_on(self._control, partial(self._owner.send_signal, signal.SIGKILL)))
            if hog:
                wait_for(hog)
        await_end(self._processes)

    def _start(self, stack: contextlib.ExitStack, command: list[str]) -> Popen:
        return stack.enter_context(ended(self._lab.room.group.popen(command, stdout=subprocess.PIPE)))


def _owners(lab: Lab, samples: int) -> Iterator[Table]:
    """The owner is killed, so many times for each guard, in turns."""
    guards = {OURS: None, BARE_OWNER: [lab.guard], PYTHON_OWNER: PYTHON_GUARD}
    cases = [(with_oom, name) for with_oom in (False, True) for name in guards]
    with contextlib.ExitStack() as stack:
        doomed = {case: _Doomed(lab, stack, guards[case[1]], case[0]) for case in cases}
        for turn in range(-1, samples):
            with contextlib.ExitStack() as processes:
                for one in doomed.values():
                    one.start(processes)
                for one in doomed.values():
                    one.guard(processes)
                for one in rotated(list(doomed.values()), turn):
                    one.kill()
            if turn < 0:
                for one in doomed.values():
                    one.times.clear()
    for with_oom, state in ((False, "no OOM"), (True, "an OOM in hand")):
        rows = [Row(name, doomed[with_oom, name].times) for name in guards]
        title = f"hold: from SIGKILL of the owner to the killer enabled; {state}; {samples} owners each"
        yield Table(title, "ms", BARE_OWNER, rows, [absolute(rows[0], 2, "ms")])


def _watchers(lab: Lab, samples: int) -> Table:
    """One of the three processes of the guard is killed, so many times each, in turns."""
    cases = [("guard", 0, False), ("guard, an OOM in hand", 0, True), ("keeper", 1, False), ("warden", 2, False)]
    times: dict[str, list[int]] = {name: [] for name, _, _ in cases}
    first, last = two_cpus()
    with contextlib.ExitStack() as stack:
        group = lab.new_group(stack)
        control = os.open(group.path / "memory.oom_control", os.O_RDONLY)
        stack.callback(os.close, control)
        for turn in range(-1, samples):
            for name, which, with_oom in rotated(cases, turn):
                with contextlib.ExitStack() as trial:
                    with on(first):
                        hold = trial.enter_context(group.oom.hold(300))
                    processes = [trial.enter_context(memcg.PidFD(pid)) for pid in hold.guard_pids]
                    hog = trial.enter_context(lab.blocked_hog(group)) if with_oom else None
                    with on(last):
                        took = until_on(control, partial(processes[which].send_signal, signal.SIGKILL))
                    if hog:
                        wait_for(hog)
                    await_end(processes)
                if turn >= 0:
                    times[name].append(took)
    rows = [Row(name, each) for name, each in times.items()]
    title = f"hold: from SIGKILL of one who keeps it to the killer enabled; {samples} of each"
    return Table(title, "ms", rows[0].name, rows, [absolute(row, 50, "ms") for row in rows])


# What it costs.


def _costs(lab: Lab, samples: int) -> Table:
    """So many holds, and other processes as a scale, in turns."""
    scale = "subprocess.Popen of /bin/true, until it has ended"
    names = [scale] + [
        f"{what}, {when}" for when in ("the first hold", "with another hold") for what in ("hold()", "close()")
    ]
    times: dict[str, list[int]] = {name: [] for name in names}

    def note(name: str, action: Callable[[], object]) -> None:
        began = time.perf_counter_ns()
        action()
        times[name].append(time.perf_counter_ns() - began)

    with contextlib.ExitStack() as stack:
        groups = [lab.new_group(stack) for _ in range(2)]
        for turn in range(-1, samples):
            # As after a while without holds: what the kernel has just done it may do again sooner (RCU).
            time.sleep(PAUSE)
            note(scale, _run_true)
            with contextlib.ExitStack() as trial:
                holds: list[memcg.Hold] = []

                def hold(group: memcg.CgroupV1, holds: list[memcg.Hold] = holds) -> None:
                    holds.append(group.oom.hold(DELAY))

                for group, name in zip(groups, names[1::2], strict=True):
                    note(name, partial(hold, group))
                    trial.callback(holds[-1].close)
                guard = [trial.enter_context(memcg.PidFD(pid)) for pid in holds[0].guard_pids]
                for one, name in zip(reversed(holds), reversed(names[2::2]), strict=True):
                    note(name, one.close)
                await_end(guard)
            if turn < 0:
                for each in times.values():
                    each.clear()
    rows = [Row(name, each) for name, each in times.items()]
    return Table(f"hold: what it costs its owner; {samples} of each", "ms", scale, rows)


def _run_true() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait(PATIENCE)
