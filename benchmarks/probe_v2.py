"""Whether a failure of ``memory.reclaim`` tells an OOM from load that is merely being reclaimed, on cgroup v2:
``python -m benchmarks.probe_v2 [--help]``.

A group has its ``memory.high`` at 50 MiB and its limit at 66 MiB, and runs a load that crosses the line. Whenever
its count of ``high`` events has changed, the kernel is asked to reclaim what is over the line and 1 MiB more.
After a failure it is asked again, at least 20 ms after the first one, whether there was an event or not.

Each load runs three times: on its own ("runs"); with the group frozen from the event until reclaim has brought it
back below the line, or for 3 seconds ("frozen"); and, for what the kernel makes of it, with the limit at the line
and no probe ("limit").

An OOM is what the rule of the hold makes of the answers: two failures, at least 20 ms apart, and no page reclaimed
from the first to the second, as ``pgsteal`` of ``memory.stat`` has it. By the strict rule, a failure counts only
where the group would be above the line even without what is left of its page cache and what is being written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import select
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import memcg
from memcg import MiB

from .room import Unavailable
from .wake import _compile as compile_program

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = 50 * MiB
LIMIT = 66 * MiB
AND_MORE = MiB
BETWEEN_FAILURES = 0.02
"""Seconds from a failure to the one that counts, at the least."""
PATIENCE = 3.0
"""Seconds for which a frozen group is probed."""
MODES = ("runs", "frozen", "limit")


@dataclass(frozen=True)
class Load:
    """A command, and whether it ends in an OOM."""

    name: str
    command: str
    is_oom: bool = False


def loads(program: Path, directory: Path, size: int, swap: int) -> Iterator[Load]:
    """The loads: *size* bytes of data each, which are in the file ``data`` of *directory*."""
    data, written = shlex.quote(f"{directory}/data"), shlex.quote(f"{directory}/written")
    read = f"cat {data} {data} {data} >/dev/null"
    yield Load("anonymous memory", f"{program} 1 {size}", is_oom=size > LIMIT + swap)
    yield Load("the same, of 8 processes", f"{program} 8 {size // 8}", is_oom=size > LIMIT + swap)
    if swap:
        fits = LINE + swap // 2
        yield Load("anonymous memory that fits into swap", f"{program} 1 {fits}")
        yield Load("the same, of 8 processes", f"{program} 8 {fits // 8}")
    yield Load("dd, which writes", f"dd if=/dev/zero of={written} bs=1M count={size // MiB} status=none")
    yield Load("a file read twice", f"cat {data} {data} >/dev/null")
    for held in (30, 45, 48):
        yield Load(f"{held} MiB held, a file read three times", f"{program} 1 {held * MiB} sh -c '{read}'")
    yield Load(
        "48 MiB held, and dd",
        f"{program} 1 {48 * MiB} dd if=/dev/zero of={written} bs=1M count={size // MiB} status=none",
    )


@dataclass(frozen=True)
class Probe:
    """One write to ``memory.reclaim``, and what there was to be seen after it."""

    time: float
    seconds: float
    ok: bool
    over: int
    """Bytes above the line, after it."""
    steals: int
    dirty: int
    writeback: int
    cache: int
    """Of files, and on the kernel's lists, so that it could be reclaimed."""
    anon: int
    swap: int


@dataclass
class Trial:
    """One run of a load."""

    load: Load
    mode: str
    swap: int
    began: float = field(default_factory=time.monotonic)
    probes: list[Probe] = field(default_factory=list)
    events: int = 0
    most: int = 0
    kills: int = 0
    seconds: float = 0.0
    complete: bool = True

    def ooms(self, *, strict: bool) -> list[float]:
        """When the rule made an OOM of it, in seconds after the first probe."""
        found: list[float] = []
        first: Probe | None = None
        for probe in self.probes:
            if probe.ok or (strict and probe.over <= probe.cache + probe.writeback):
                first = None
            elif first is None or probe.steals != first.steals:
                first = probe
            elif probe.time - first.time >= BETWEEN_FAILURES:
                found.append(probe.time - self.probes[0].time)
                first = None
        return found

    def longest_failure(self) -> float:
        """Seconds from a failure until reclaim has succeeded again, at the most."""
        longest, since = 0.0, None
        for probe in self.probes:
            if probe.ok:
                since = None
            else:
                since = probe.time if since is None else since
                longest = max(longest, probe.time - since)
        return longest

    def __str__(self) -> str:
        ooms, strict = self.ooms(strict=False), self.ooms(strict=True)
        times = [probe.seconds * 1000 for probe in self.probes] or [0.0]
        failures = sum(not probe.ok for probe in self.probes)
        first = f"{strict[0]:.2f}" if strict else "-"
        cells = [
            self.load.name + ("" if self.complete else " (stopped)"),
            "yes" if self.load.is_oom else "no",
            self.mode,
            str(self.events),
            str(len(self.probes) - failures),
            str(failures),
            f"{self.longest_failure() * 1000:.0f}",
            f"{statistics.median(times):.1f}, {max(times):.0f}",
            f"{len(ooms)}",
            f"{len(strict)}",
            first,
            f"{self.most / MiB:.1f}",
            str(self.kills),
            f"{self.seconds:.1f}",
        ]
        return "| " + " | ".join(cells) + " |"


HEADER = """\
| load | an OOM | group | `high` seen | success | EAGAIN | longest failure, ms | a call takes, ms: median, most \
| called an OOM | by the strict rule | first, s | most over, MiB | kills | s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def try_load(load: Load, mode: str, *, swap: int, most: float) -> Trial:
    """Runs *load* for *most* seconds at the most."""
    frozen = mode == "frozen"
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memcg.temporary(limit=LINE if mode == "limit" else LIMIT))
        assert isinstance(group, memcg.CgroupV2)
        with contextlib.suppress(memcg.ControlFileMissingError):
            group.swap_max = swap
        if mode != "limit":
            group.high = LINE
        events = os.open(group.path / "memory.events.local", os.O_RDONLY)
        stack.callback(os.close, events)
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        trial = Trial(load, mode, swap)
        process = stack.enter_context(group.popen(["sh", "-c", f"exec {load.command}"]))
        highs = 0
        ask_at = float("inf")
        while process.poll() is None and time.monotonic() - trial.began < most:
            os.pread(events, 512, 0)  # which rearms the poll
            now, seen = time.monotonic(), group.events_local.high
            trial.most = max(trial.most, group.current - LINE)
            if seen != highs or now >= ask_at:
                trial.events += seen != highs
                highs = seen
                ok = _probe_frozen(group, trial) if frozen else _probe(group, trial).ok
                ask_at = float("inf") if ok else time.monotonic() + BETWEEN_FAILURES
                if frozen and not ok and load.is_oom:
                    break
                continue
            poll.poll(1000 * min(0.1, max(0.0, ask_at - time.monotonic())))
        trial.seconds = time.monotonic() - trial.began
        trial.complete = process.poll() is not None
        trial.kills = group.events.oom_kill or 0
        group.kill()
    return trial


def _probe(group: memcg.CgroupV2, trial: Trial) -> Probe:
    over = group.current - LINE
    began = time.monotonic()
    ok = group.reclaim(max(over, 0) + AND_MORE)
    ended = time.monotonic()
    stat = group.stat
    probe = Probe(
        time=ended,
        seconds=ended - began,
        ok=ok,
        over=group.current - LINE,
        steals=stat.pgsteal or 0,
        dirty=stat.file_dirty,
        writeback=stat.file_writeback,
        cache=stat.inactive_file + stat.active_file,
        anon=stat.anon,
        swap=group.swap_current if trial.swap else 0,
    )
    trial.probes.append(probe)
    return probe


def _probe_frozen(group: memcg.CgroupV2, trial: Trial) -> bool:
    """Freezes the group, and probes it until it is below its line; whether that came about."""
    began = time.monotonic()
    group.cgroup_freeze = True
    while True:
        probe = _probe(group, trial)
        trial.most = max(trial.most, probe.over)
        if probe.over <= 0 or time.monotonic() - began > PATIENCE:
            break
        if not probe.ok:
            time.sleep(BETWEEN_FAILURES)
    group.cgroup_freeze = False
    return probe.over <= 0


def main() -> int:
    description = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe_v2", description=description)
    parser.add_argument("--directory", type=Path, help="for files; one on a disk, not in memory")
    parser.add_argument("--size", type=int, default=200, metavar="MIB", help="how much each load reads or writes")
    parser.add_argument("--swap", type=int, default=0, metavar="MIB", help="how much swap the group may use")
    parser.add_argument("--loads", default="", metavar="WORDS", help="only loads whose names have one of these")
    parser.add_argument("--seconds", type=float, default=20, help="for each load, at the most")
    parser.add_argument("--verbose", action="store_true", help="print each failure")
    options = parser.parse_args()
    print(f"Linux {platform.release()}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory(prefix="memcg-bench-", dir=options.directory) as name:
        directory = Path(name)
        program = compile_program("load", directory)
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={directory}/data", "bs=1M", f"count={options.size}", "status=none"],
            check=True,
        )
        os.sync()
        # What runs in the groups is in memory before that, and charged to none of them.
        subprocess.run(
            ["sh", "-c", f"{program} 1 1 cat /dev/null; dd if=/dev/null of=/dev/null status=none"], check=True
        )
        for load in loads(program, directory, options.size * MiB, options.swap * MiB):
            if not any(word in load.name for word in options.loads.split(",")):
                continue
            for mode in MODES:
                _forget(directory)
                trial = try_load(load, mode, swap=options.swap * MiB, most=options.seconds)
                print(trial, flush=True)
                if options.verbose:
                    _show_failures(trial)
    return 0


def _forget(directory: Path) -> None:
    """Takes the files out of memory, as who reads them then is charged for them."""
    (directory / "written").unlink(missing_ok=True)
    with (directory / "data").open("rb") as data:
        os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _show_failures(trial: Trial) -> None:
    for probe in trial.probes:
        if not probe.ok:
            print(
                f"    {probe.time - trial.began:.3f} s: {probe.over / MiB:+.2f} MiB, pgsteal {probe.steals}, ",
                end="",
            )
            print(f"dirty {probe.dirty / MiB:.2f}, writeback {probe.writeback / MiB:.2f}, ", end="")
            print(
                f"cache {probe.cache / MiB:.2f}, anon {probe.anon / MiB:.2f}, swap {probe.swap / MiB:.2f}",
                end=", ",
            )
            print(f"{probe.seconds * 1000:.1f} ms")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as error:
        sys.exit(f"benchmarks: this machine lacks {error}")
