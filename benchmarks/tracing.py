"""When the kernel wakes a task, from its own trace (Documentation/trace/ftrace.rst)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .room import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAKING = re.compile(r" (\d+)\.(\d{6}): sched_waking: ")


class Wakings:
    """The moments at which one task was woken, in an instance of the kernel's trace that nobody else uses."""

    def __init__(self, instance: Path) -> None:
        self._trace = instance / "trace"
        self._event = instance / "events/sched/sched_waking"
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text("256")

    def watch(self, pid: int) -> None:
        """Forgets all there was, and notes each waking of *pid* from now on."""
        (self._event / "enable").write_text("0")
        self._trace.write_text("")
        (self._event / "filter").write_text(f"pid == {pid}")
        (self._event / "enable").write_text("1")

    def read(self) -> list[int]:
        """The moments so far, in order, in nanoseconds as `time.monotonic_ns` has them."""
        # The trace shows whole microseconds, rounded down: on average half of one is missing.
        found = _WAKING.findall(self._trace.read_text())
        return sorted(int(seconds) * 10**9 + int(rest) * 1000 + 500 for seconds, rest in found)


@contextlib.contextmanager
def wakings() -> Iterator[Wakings]:
    """The trace, for the length of a ``with`` block.

    Raises:
        Unavailable: no permission, or a kernel without it.
    """
    with contextlib.ExitStack() as stack:
        try:
            instance = stack.enter_context(_tracefs()) / "instances" / f"memcg-bench-{os.getpid()}"
            instance.mkdir()
            stack.callback(instance.rmdir)  # ends the tracing too
            trace = Wakings(instance)
            trace.watch(os.getpid())
        except OSError as error:
            raise Unavailable(f"the kernel's trace: {error}") from error
        yield trace


@contextlib.contextmanager
def _tracefs() -> Iterator[Path]:
    """Where tracefs is mounted, if need be by us, for the length of the body."""
    for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.isdir(f"{place}/instances"):
            yield Path(place)
            return
    with tempfile.TemporaryDirectory(prefix="memcg-bench-") as place:
        mount = ["mount", "-t", "tracefs", "tracefs", place]
        done = subprocess.run(mount, stderr=subprocess.PIPE, text=True, timeout=10)
        if done.returncode:
            raise Unavailable(f"the kernel's trace: {done.stderr.splitlines()[0]}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True, timeout=10)
