"""``memcg demo``: a program runs out of memory in a real group, first left to the kernel, then taken over."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ClosedError
from ..notify.events import KernelKill, OomEvent, Removed
from ..temporary import temporary
from ..units import MiB, format_size
from . import job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from types import FrameType

    from ..cgroup import Cgroup
    from ..notify.subscription import Subscription

LIMIT = 64 * MiB
WANTED = 3 * LIMIT
STEP = 64 * MiB
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo() -> int:
    """Runs both acts, and returns the exit status."""
    with _Stopper() as stopper:
        print(
            f"A job that needs {format_size(WANTED)} runs in a memory cgroup with a limit of {format_size(LIMIT)},"
        )
        print(f"on Linux {platform.release()}. Times are counted from the moment the job stalls.\n")
        try:
            status = _act("1. The kernel decides", stopper, take_over=False)
            print()
            finished = _act("2. This program decides", stopper, take_over=True)
        except ClosedError:
            if not stopper.signal:
                raise
            print("\nInterrupted: the job was ended, and its group removed.")
            return 128 + stopper.signal
    if status == 0 or finished != 0:
        print("\nThat is not what was to be shown. Please report it, with all of the above.", file=sys.stderr)
        return 1
    print("\nThe same job, the same limit: killed when left alone, finished when somebody stood by.")
    return 0


def _act(title: str, stopper: _Stopper, *, take_over: bool) -> int:
    """One run of the job in a group of its own; its exit status."""
    print(title)
    with temporary(limit=LIMIT) as group, group.oom.subscribe() as events, stopper.ends(events):
        print(f"            group {group.path}")
        if take_over:
            group.oom.disable()
            print("            the kernel's OOM killer is switched off for it, and a handler waits")
        with _Progress() as progress:
            process = group.popen(
                [sys.executable, "-I", job.__file__, str(progress.fd), str(WANTED)],
                pass_fds=[progress.fd],
                start_new_session=True,  # so that Ctrl-C reaches this program alone
            )
            for event in events.until(process):
                stalled, done = progress.read()
                say = _Teller(event.time, stalled)
                match event:
                    case OomEvent():
                        say(f"OomEvent: out of memory, {done // MiB} MiB done", group)
                        if take_over:
                            say(f"the job is not dead: {_state(process.pid)}")
                            group.limit = group.usage + STEP
                            say(f"the handler raises the limit by {format_size(STEP)}", group)
                    case KernelKill():
                        say(f"KernelKill: the kernel killed {event.count} process")
                    case Removed():
                        say("Removed: somebody removed the group")
            stopper.check()
            status = process.wait()
            done = progress.read()[1]
        print(f"            => {_verdict(process, status)}, {done // MiB} of {WANTED // MiB} MiB done")
    return status


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
        job.PROGRESS.pack_into(self._memory, 0, time.monotonic(), 0)
        return self

    def read(self) -> tuple[float, int]:
        """When the page in hand was begun, and how many bytes are done."""
        began, done = job.PROGRESS.unpack_from(self._memory)
        return began, done

    def __exit__(self, *exception: object) -> None:
        self._memory.close()
        os.close(self.fd)


class _Stopper:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the wait for events, instead of breaking in at any instruction: so what
    was begun is finished, and cleaned up."""

    signal = 0
    _events: Subscription | None = None

    def __enter__(self) -> _Stopper:
        self._former = [(number, signal.signal(number, self._stop)) for number in _ENDINGS]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former:
            signal.signal(number, handler)

    @contextlib.contextmanager
    def ends(self, events: Subscription) -> Iterator[None]:
        """Within the body, a signal closes *events*."""
        self._events = events
        self.check()
        try:
            yield
        finally:
            self._events = None

    def check(self) -> None:
        """Raises `ClosedError`, as the events do that a signal has closed, if there was a signal."""
        if self.signal:
            raise ClosedError

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._events is not None:
            self._events.close()


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
