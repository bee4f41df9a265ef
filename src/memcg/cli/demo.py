"""``memcg demo``: a program runs out of memory in a real group: left to the kernel, taken over, and abandoned."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ClosedError, HoldError
from ..notify.events import DelayExpired, KernelKill, OomEvent, OomResolved, Overridden, Removed
from ..temporary import temporary
from ..units import MiB, format_size
from . import job
from .stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import Cgroup
    from ..notify.events import Event, HoldEvent

LIMIT = 64 * MiB
WANTED = 3 * LIMIT
STEP = 64 * MiB
DELAY = 1.5
"""Seconds; whoever decides has that long to do so."""


def demo() -> int:
    """Runs the three acts, and returns the exit status."""
    with Stopper() as stopper:
        print(
            f"A job that needs {format_size(WANTED)} runs in a memory cgroup with a limit of {format_size(LIMIT)},"
        )
        print(f"on Linux {platform.release()}. Times are counted from the moment the job stalls.\n")
        try:
            killed = _left_alone(stopper) != 0
            finished = _taken_over(stopper) == 0
            killed_in_the_end = _abandoned(stopper) != 0
        except ClosedError:
            if not stopper.signal:
                raise
            print("\nInterrupted: the job was ended, and its group removed.")
            return 128 + stopper.signal
    if not (killed and finished and killed_in_the_end):
        print("\nThat is not what was to be shown. Please report it, with all of the above.", file=sys.stderr)
        return 1
    print(
        "The same job, the same limit: killed when left alone, finished when somebody stood by, and not stuck when"
    )
    print("whoever stood by was stuck.")
    return 0


def _left_alone(stopper: Stopper) -> int:
    """The job at its limit, as ever; its exit status, as of the other acts."""
    print("1. The kernel decides")
    with temporary(limit=LIMIT) as group, group.oom.subscribe() as events, stopper.ends(events):
        print(f"            group {group.path}")
        with _Job(group, stopper) as job:
            for event in events.until(job.process):
                _show(event, group, job)
            return job.finish()


def _taken_over(stopper: Stopper) -> int:
    print("2. This program decides")
    with temporary(limit=LIMIT) as group, group.oom.hold(DELAY) as hold, stopper.ends(hold):
        print(f"            group {group.path}")
        print(f"            this program holds it: at each OOM, the kernel waits for {DELAY} s")
        with _Job(group, stopper) as job:
            for event in hold.until(job.process):
                say = _show(event, group, job)
                if isinstance(event, OomEvent):
                    say(f"the job is not dead: {_state(job.process.pid)}")
                    if hold.raise_limit(by=STEP):
                        say(f"the handler raises the limit by {format_size(STEP)}", group)
            return job.finish()


def _abandoned(stopper: Stopper) -> int:
    print("3. A program decides, and stops answering")
    with temporary(limit=LIMIT) as group, group.oom.subscribe() as events, stopper.ends(events):
        print(f"            group {group.path}")
        with _handler(group) as handler:
            print(f"            process {handler.pid} holds it: at each OOM, the kernel waits for {DELAY} s")
            handler.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, handler.pid, os.WSTOPPED | os.WNOWAIT)
            print(f"            and gets a SIGSTOP: {_state(handler.pid)}", flush=True)
            with _Job(group, stopper) as job:
                for event in events.until(job.process):
                    say = _show(event, group, job)
                    if isinstance(event, OomEvent) and event.under_oom:
                        say("the handler does not answer, and the delay runs")
                    if isinstance(event, KernelKill):
                        # On cgroup v2 it went on to its limit after that, and perhaps got a page on v1, too.
                        stalled, _, longest = job.progress.read()
                        pause = max(longest, event.time - stalled)
                        say(f"the job had stood still for {pause * 1000:.0f} ms: nobody answered")
                return job.finish()


def _show(event: Event | HoldEvent, group: Cgroup, job: _Job) -> _Teller:
    """Says what happened, and returns what can say more."""
    stalled, done, _ = job.progress.read()
    say = _Teller(event.time, stalled)
    match event:
        case OomEvent():
            say(f"OomEvent: out of memory, {done // MiB} MiB done", group)
        case KernelKill():
            say(f"KernelKill: the kernel killed {event.count} process")
        case DelayExpired():
            say(f"DelayExpired: nobody decided in time, and the kernel killed {event.kills} process")
        case Removed():
            say("Removed: somebody removed the group")
        case Overridden():
            say(f"Overridden: {event.reason}")
        case OomResolved():  # by then the job is far ahead
            pass
    return say


@contextlib.contextmanager
def _handler(group: Cgroup) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the group, and handles its OOMs while it can."""
    with subprocess.Popen(
        [sys.executable, "-m", "memcg.cli.handler", group.cgroup_path, str(DELAY)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"held\n":
                raise HoldError("the handler of the demo could not hold the group; its own words are above")
            yield process
        finally:
            process.kill()


class _Job:
    """The job of the demo, running in a group, and what it tells of itself."""

    def __init__(self, group: Cgroup, stopper: Stopper) -> None:
        self._group = group
        self._stopper = stopper

    def __enter__(self) -> _Job:
        with contextlib.ExitStack() as files:
            self.progress = files.enter_context(_Progress())
            self.process = self._group.popen(
                [sys.executable, "-I", job.__file__, str(self.progress.fd), str(WANTED)],
                pass_fds=[self.progress.fd],
                start_new_session=True,  # so that Ctrl-C reaches this program alone
            )
            self._files = files.pop_all()
        return self

    def finish(self) -> int:
        """Waits for its end, says what that was, and returns the exit status."""
        self._stopper.check()
        status = self.process.wait()
        done = self.progress.read()[1]
        print(f"            => {_verdict(self.process, status)}, {done // MiB} of {WANTED // MiB} MiB done\n")
        return status

    def __exit__(self, *exception: object) -> None:
        self._files.close()


class _Teller:
    """Prints lines, each with its time since the job stalled."""

    def __init__(self, heard: float, stalled: float) -> None:
        self._now = heard
        self._stalled = stalled

    def __call__(self, text: str, group: Cgroup | None = None) -> None:
        line = f"  {(self._now - self._stalled) * 1000:6.1f} ms  {text}"
        print(f"{line:<53}{_bar(group) if group else ''}".rstrip(), flush=True)
        self._now = time.monotonic()


class _Progress:
    """What the job tells of itself, in memory shared with it."""

    def __enter__(self) -> _Progress:
        self.fd = os.memfd_create("memcg-demo")
        os.truncate(self.fd, mmap.PAGESIZE)
        self._memory = mmap.mmap(self.fd, mmap.PAGESIZE)
        job.PROGRESS.pack_into(self._memory, 0, time.monotonic(), 0, 0.0)
        return self

    def read(self) -> tuple[float, int, float]:
        """When the page in hand was begun, how many bytes are done, and the longest time that a page took."""
        began, done, longest = job.PROGRESS.unpack_from(self._memory)
        return began, done, longest

    def __exit__(self, *exception: object) -> None:
        self._memory.close()
        os.close(self.fd)


def _bar(group: Cgroup, width: int = 12) -> str:
    """Usage against the limit, such as ``[######------] 64/128 MiB``."""
    usage, limit = group.usage, group.limit
    if not limit:
        return format_size(usage)
    full = round(width * min(1, usage / limit))
    return f"[{'#' * full}{'-' * (width - full)}] {usage // MiB}/{limit // MiB} MiB"


def _state(pid: int) -> str:
    """What the kernel says the process is doing, such as ``D (disk sleep)``."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return f"state {line.split(None, 1)[1]}"
    return "gone"


def _verdict(process: subprocess.Popen[bytes], status: int) -> str:
    if status < 0:
        return f"the job was killed by {signal.Signals(-status).name}"
    return "the job has finished" if status == 0 else f"the job has failed with status {status}"
