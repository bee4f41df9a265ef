"""The listeners in Python: ``python -I listeners.py KIND RECORDS_FD GROUP EVENTS LIMIT STEP``.

Like listener.c, each subscribes to the OOMs of the group, writes a newline, and then, for each OOM that it is told
of, notes when that was and raises the limit. KIND is how it listens.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

Wait = Callable[[], object]
"""Blocks until there was an OOM."""


def _arm(group: str) -> tuple[int, int]:
    """An eventfd that is signalled at each OOM, and the file to read then."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    control = os.open(f"{group}/memory.oom_control", os.O_RDONLY)
    registry = os.open(f"{group}/cgroup.event_control", os.O_WRONLY)
    os.write(registry, b"%d %d" % (event, control))
    return event, control


@contextlib.contextmanager
def bare(group: str) -> Iterator[Wait]:
    """The least that a Python program can do."""
    event, _ = _arm(group)
    yield partial(os.eventfd_read, event)


@contextlib.contextmanager
def look(group: str) -> Iterator[Wait]:
    """The same, and a look whether the group is under OOM, or was removed, which signals too."""
    event, control = _arm(group)

    def wait() -> bytes:
        os.eventfd_read(event)
        return os.pread(control, 4096, 0)

    yield wait


@contextlib.contextmanager
def memcg(group: str) -> Iterator[Wait]:
    """The library."""
    import memcg

    with memcg.open(group).oom.subscribe() as events:
        yield events.wait


@contextlib.contextmanager
def until(group: str) -> Iterator[Wait]:
    """The library, waiting for a process too, as most programs do."""
    import memcg

    with memcg.open(group).oom.subscribe() as events:
        yield events.until(os.getppid()).__next__


LISTENERS: dict[str, Callable[[str], AbstractContextManager[Wait]]] = {
    "bare": bare,
    "look": look,
    "memcg": memcg,
    "until": until,
}


def main(kind: str, records_fd: int, group: str, events: int, limit: int, step: int) -> None:
    """Listens until that many events have come."""
    shared = mmap.mmap(records_fd, 8 * (1 + 3 * events), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    records = memoryview(shared).cast("q")
    limit_file = os.open(f"{group}/memory.limit_in_bytes", os.O_WRONLY)
    with LISTENERS[kind](group) as wait:
        os.write(1, b"\n")
        cpu = time.thread_time_ns()
        for position in range(1, 1 + 3 * events, 3):
            wait()
            handled = time.monotonic_ns()
            records[position + 2] = time.thread_time_ns() - cpu
            records[position] = handled
            records[position + 1] = records[0]
            limit += step
            os.pwrite(limit_file, b"%d" % limit, 0)
            cpu = time.thread_time_ns()


if __name__ == "__main__":
    signal.alarm(60)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
