"""What ``import memcg`` adds to the start of an interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .report import Row, Table, difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .room import Room

PROGRAMS = {"bare interpreter": "pass", "import memcg": "import memcg"}


def measure(room: Room, samples: int) -> Iterator[Table]:
    """Measures so many starts of each, taking turns, with the bytecode in place."""
    # -I ignores the environment, where writing bytecode may be switched off.
    python = [sys.executable, "-I", "-X", f"pycache_prefix={room.directory / 'bytecode'}", "-c"]
    times: dict[str, list[int]] = {name: [] for name in PROGRAMS}
    for turn in range(-2, samples):
        for name in sorted(PROGRAMS, reverse=turn % 2 == 0):
            began = time.perf_counter_ns()
            subprocess.run([*python, PROGRAMS[name]], check=True, timeout=60, start_new_session=True)
            if turn >= 0:
                times[name].append(time.perf_counter_ns() - began)
    plain, ours = (Row(name, times[name]) for name in PROGRAMS)
    title = f"import: a Python program from start to end; {samples} starts each"
    yield Table(title, "ms", plain.name, [plain, ours], [difference(ours, plain, 60, "ms")])
