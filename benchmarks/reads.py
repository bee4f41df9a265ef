"""Reading control files: what types cost over the bare system call, and how that compares with cgroupspy."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import time
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import memcg

from .report import Row, Table, ratio
from .room import rotated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .room import Room

BARE: Final = "os.pread(fd, 4096, 0), fd kept"
NAIVE: Final = "the same, into a dict"
OURS: Final = "memcg"
PEER: Final = "cgroupspy"

TURN = 10
"""Reads in a row, each timed by itself, before it is the next contender's turn."""


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many reads of each file by each contender, rounded up to whole turns."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memcg.temporary(parent=room.group, limit="64M"))
        stack.enter_context(group.popen(["cat"], stdin=subprocess.PIPE))  # uses memory, until its input is closed
        peer = _cgroupspy(group.path)
        notes = [] if peer else ["not compared with cgroupspy, which is missing: pip install 'memcg[bench]'"]
        for name in ("usage_in_bytes", "oom_control", "stat"):
            fd = os.open(group.path / f"memory.{name}", os.O_RDONLY)
            stack.callback(os.close, fd)
            readers: dict[str, Callable[[], object]] = {BARE: partial(os.pread, fd, 4096, 0)}
            if name == "stat":
                readers[NAIVE] = partial(_naive, fd)
            readers[OURS] = partial(attrgetter(name), group)
            if peer:
                readers[PEER] = partial(attrgetter(name), peer)
            rows = _take_turns(readers, samples)
            bars = [ratio(rows[OURS], rows[BARE], 2.5)] if name == "stat" else []
            bars += [ratio(rows[OURS], rows[PEER], 1)] if peer else []
            title = f"reads: memory.{name}; {len(rows[BARE].samples)} reads each"
            yield Table(title, "µs", BARE, list(rows.values()), bars, notes)


def _take_turns(readers: dict[str, Callable[[], object]], samples: int) -> dict[str, Row]:
    taken: dict[str, list[int]] = {name: [] for name in readers}
    clock = time.perf_counter_ns
    for turn in range(-(-samples // TURN)):
        for name in rotated(list(readers), turn):
            read, times = readers[name], taken[name]
            for _ in range(TURN):
                began = clock()
                read()
                times.append(clock() - began)
    return {name: Row(name, times) for name, times in taken.items()}


def _naive(fd: int) -> dict[str, int]:
    """What a program without a library would do."""
    pairs = (line.split() for line in os.pread(fd, 4096, 0).decode().splitlines())
    return {key: int(value) for key, value in pairs}


def _cgroupspy(path: Path) -> object | None:
    """The memory controller of that group as cgroupspy has it, or None where it is not installed."""
    try:
        node = importlib.import_module("cgroupspy.nodes").Node
    except ImportError:
        return None
    # It knows a controller by the name of the directory where its hierarchy is mounted.
    mount = next(parent for parent in path.parents if parent.name == "memory")
    root = node(str(mount.parent))
    controller: object = node(str(path.relative_to(mount)), node(mount.name, root)).controller
    return controller
