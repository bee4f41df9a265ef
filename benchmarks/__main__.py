"""``python -m benchmarks [MEASURE[=SAMPLES] ...] [--report-only]``."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from typing import TYPE_CHECKING, NamedTuple

import memcg

from . import hold, imports, popen, reads, wake, wake_v2
from .room import Interrupted, Room, Unavailable, room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .report import Table


class Measure(NamedTuple):
    """One measure, and how many samples it takes of each contender if nothing else is asked for."""

    run: Callable[[Room, int], Iterator[Table]]
    samples: int
    only: type[memcg.CgroupV1] | type[memcg.CgroupV2] | None = None
    """The version of cgroup that it is about, if it is about one."""

    def fits(self, room: Room) -> bool:
        """Whether it can be taken here."""
        return self.only is None or isinstance(room.group, self.only)


MEASURES = {
    "wake": Measure(wake.measure, 600, memcg.CgroupV1),
    "wake-v2": Measure(wake_v2.measure, 200, memcg.CgroupV2),
    "hold": Measure(hold.measure, 150, memcg.CgroupV1),
    "reads": Measure(reads.measure, 5000, memcg.CgroupV1),
    "popen": Measure(popen.measure, 500),
    "import": Measure(imports.measure, 100),
}


def main() -> int:
    """Takes the measures that the command line names, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures memcg against baselines that take turns with it in the same run. Trust the ratios: "
        "the times depend on the machine and on what else it does. All takes some minutes, needs a memory "
        "hierarchy that the caller may write (root), and leaves nothing behind.",
    )
    defaults = ", ".join(f"{name}={measure.samples}" for name, measure in MEASURES.items())
    parser.add_argument(
        "measures",
        metavar="MEASURE[=SAMPLES]",
        nargs="*",
        type=_measure,
        default=[],
        help=f"what to measure, and how often; by default, of these what is for the version of cgroup that is "
        f"here: {defaults}",
    )
    parser.add_argument("--report-only", action="store_true", help="end with status 0 though a bar is missed")
    options = parser.parse_args()
    try:
        missed = _run(options.measures)
    except Unavailable as error:
        print(f"benchmarks: this machine lacks {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 128 + error.number
    print(f"{missed} of the bars missed" if missed else "all bars held")
    return 1 if missed and not options.report_only else 0


def _measure(text: str) -> tuple[str, int]:
    name, _, samples = text.partition("=")
    if name not in MEASURES:
        raise argparse.ArgumentTypeError(f"there is {', '.join(MEASURES)}, and no {name!r}")
    if samples and not (samples.isdecimal() and int(samples)):
        raise argparse.ArgumentTypeError(f"samples are a number from 1 up, not {samples!r}")
    return name, int(samples or MEASURES[name].samples)


def _run(measures: list[tuple[str, int]]) -> int:
    """Prints each table as soon as it is there; the number of bars that were missed."""
    missed = 0
    with room() as ours:
        cpus = len(os.sched_getaffinity(0))
        print(f"memcg {importlib.metadata.version('memcg')}, Python {platform.python_version()}, ", end="")
        print(f"Linux {platform.release()}, {cpus} CPU{'s' if cpus > 1 else ''}, ", end="")
        print(f"load {os.getloadavg()[0]:.2f}\n", flush=True)
        fitting = [(name, each.samples) for name, each in MEASURES.items() if each.fits(ours)]
        for name, samples in measures or fitting:
            if not MEASURES[name].fits(ours):
                raise Unavailable(f"the version of cgroup that {name!r} is about")
            for table in MEASURES[name].run(ours, samples):
                print(f"{table}\n", flush=True)
                missed += sum(not bar.ok for bar in table.bars)
    return missed


sys.exit(main())
