"""Starting a program in a group, against starting it anywhere."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import memcg

from .report import Row, Table, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .room import Room

PROGRAM = "/bin/true"
NAMES = ("subprocess.Popen", "cg.popen")


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many pairs, in alternating order."""
    with memcg.temporary(parent=room.group) as group:
        starters: tuple[Callable[[list[str]], subprocess.Popen[bytes]], ...] = (subprocess.Popen, group.popen)
        started: tuple[list[int], list[int]] = ([], [])
        ended: tuple[list[int], list[int]] = ([], [])
        for pair in range(-2, samples):
            for which in (0, 1) if pair % 2 else (1, 0):
                began = time.perf_counter_ns()
                process = starters[which]([PROGRAM])
                returned = time.perf_counter_ns()
                process.wait(60)
                if pair >= 0:
                    started[which].append(returned - began)
                    ended[which].append(time.perf_counter_ns() - began)
    for title, figures in (
        (f"popen: until it returns, {PROGRAM} having been started; {samples} pairs", started),
        ("popen: until the program has ended and been waited for", ended),
    ):
        plain, ours = (Row(name, each) for name, each in zip(NAMES, figures, strict=True))
        yield Table(title, "ms", plain.name, [plain, ours], [difference(ours, plain, 1, "ms")])
