"""What a hold on cgroup v2 costs load that is no OOM, and how far an OOM gets before the group stands still:
``python -m benchmarks.held_v2 [--help]``.

Load that is no OOM takes turns: without a hold, and with one. Of an OOM, what counts is that the kernel has killed
nobody before the group was frozen; except where one system call takes it all, which only the limit can end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import memcg
from memcg import MiB
from memcg._ffi import lib

from .room import Unavailable
from .wake import _compile as compile_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROCESSES = (1, 4, 16, 64, 128)
ENOUGH = 30
"""Seconds for an OOM, at the most."""


@dataclass(frozen=True)
class Work:
    """Load that is no OOM: a command, and the limit of the group that it runs in."""

    name: str
    limit: int
    command: str


def works(directory: Path) -> Iterator[Work]:
    """Commands on what `prepare` has put into the directory."""
    data, written, source = (shlex.quote(f"{directory}/{name}") for name in ("data", "written", "source.c"))
    small = 32 * MiB
    yield Work("reads a file of 10 times the limit", small, f"cat {data} >/dev/null")
    yield Work("dd writes 10 times the limit", small, f"dd if=/dev/zero of={written} bs=1M count=320 status=none")
    yield Work("tar of a tree", small, f"tar -cf {written} -C {shlex.quote(sysconfig.get_path('stdlib'))} .")
    yield Work("compiles 3 files", 64 * MiB, f"for i in 1 2 3; do cc -O2 -c -o {written} {source}; done")


def prepare(directory: Path) -> None:
    functions = (f"int f{i}(int a) {{ return a * {i} % 7 ? a : f{i - 1}(a + 1); }}\n" for i in range(1, 300))
    (directory / "source.c").write_text("#include <stdio.h>\nint f0(int a) { return a; }\n" + "".join(functions))
    write = ["dd", "if=/dev/zero", f"of={directory}/data", "bs=1M", "count=320", "status=none"]
    subprocess.run(write, check=True)
    os.sync()


def forget(directory: Path) -> None:
    """Takes the files out of memory, as who reads them then is charged for them."""
    (directory / "written").unlink(missing_ok=True)
    for file in [directory / "data", *Path(sysconfig.get_path("stdlib")).rglob("*.*")]:
        if file.is_file():
            with file.open("rb") as data:
                os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_cost(directory: Path, rounds: int, delay: float, words: Sequence[str]) -> None:
    prepare(directory)
    print("| load | without, s | with a hold, s | ratio | false freezes | OOMs | kills |")
    print("|---|---|---|---|---|---|---|")
    for work in works(directory):
        if not any(word in work.name for word in words):
            continue
        subprocess.run(["sh", "-c", work.command], check=True)  # what it takes to run it is in memory then
        seconds: dict[bool, list[float]] = {False: [], True: []}
        freezes = ooms = kills = 0
        for turn in range(2 * rounds):
            held = turn % 4 in (1, 2)
            forget(directory)
            with contextlib.ExitStack() as stack:
                group = stack.enter_context(memcg.temporary(limit=work.limit))
                assert isinstance(group, memcg.CgroupV2)
                hold = stack.enter_context(group.oom.hold(delay)) if held else None
                began = time.monotonic()
                group.popen(["sh", "-c", work.command]).wait()
                seconds[held].append(time.monotonic() - began)
                kills += group.events.oom_kill or 0
                if hold:
                    freezes += hold.false_freezes
                    ooms += hold._record().ooms
        without, with_hold = (statistics.median(seconds[held]) for held in (False, True))
        times = [" ".join(f"{each:.2f}" for each in seconds[held]) for held in (False, True)]
        cells = [work.name, *times, f"{with_hold / without:.2f}", str(freezes), str(ooms), str(kills)]
        print("| " + " | ".join(cells) + " |", flush=True)


def measure_ooms(program: Path, limit: int, rounds: int, delay: float) -> None:
    print("| processes | headroom, MiB | over the line when frozen, MiB | from the line to the OOM, ms ", end="")
    print("| from there to frozen, ms | kills before | missed | expired |\n|---|---|---|---|---|---|---|---|")
    for count in (*PROCESSES, 0):
        for _ in range(rounds):
            size = 2 * limit // count if count else 8 * limit
            cells = _one_oom([str(program), str(count), str(size)], limit, delay)
            print(f"| {' | '.join([str(count) if count else 'one call', *cells])} |", flush=True)


def _one_oom(command: Sequence[str], limit: int, delay: float) -> list[str]:
    """The headroom, how far above the line the group was frozen, and how soon; who was killed before."""
    with memcg.temporary(limit=limit) as group, group.oom.hold(delay) as hold:
        assert isinstance(group, memcg.CgroupV2)
        process = group.popen(command)
        crossed, frozen = 0.0, False
        began = time.monotonic()
        while not frozen and process.poll() is None and time.monotonic() - began < ENOUGH:
            record = hold._record()
            over = group.current - (limit - record.headroom)
            if over > 0 and not crossed:
                crossed = time.monotonic()
            frozen = record.state == lib.MEMCG_OOM and bool(record.frozen)
        ended = time.monotonic()
        kills = group.events.oom_kill or 0
        headroom = f"{record.headroom / MiB:.1f}"
        ends = [str(kills), str(hold._record().missed), str(hold.expirations)]
        group.kill()
        process.wait()
    if not frozen:
        return [headroom, "ended by the kernel" if kills else "never frozen", "-", "-", *ends]
    told = record.oom_time / 1e9
    return [headroom, f"{over / MiB:+.2f}", f"{(told - crossed) * 1e3:.0f}", f"{(ended - told) * 1e3:.0f}", *ends]


def main() -> int:
    description = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_v2", description=description)
    parser.add_argument("what", choices=["cost", "ooms"])
    parser.add_argument("--directory", type=Path, help="for files; one on a disk, not in memory")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often")
    parser.add_argument("--delay", type=float, default=2, metavar="SECONDS", help="of the hold")
    parser.add_argument("--limit", type=int, default=256, metavar="MIB", help="of the group that has an OOM")
    parser.add_argument("--loads", default="", metavar="WORDS", help="only loads whose names have one of these")
    options = parser.parse_args()
    print(f"Linux {platform.release()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="memcg-bench-", dir=options.directory) as name:
        directory = Path(name)
        if options.what == "cost":
            measure_cost(directory, options.rounds, options.delay, options.loads.split(","))
        else:
            program = compile_program("load", directory)
            measure_ooms(program, options.limit * MiB, options.rounds, options.delay)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as error:
        sys.exit(f"benchmarks: this machine lacks {error}")
