"""Figures, what they are compared with, the bars they must not exceed, and how all that is printed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS = {"µs": 1_000, "ms": 1_000_000}
"""The units to print times in, in nanoseconds."""
WIDTH = 54
"""Characters for the names of contenders and bars."""


@dataclass(frozen=True)
class Row:
    """One contender, and how long it took each time, in nanoseconds."""

    name: str
    samples: Sequence[int]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> int:
        return sorted(self.samples)[math.ceil(0.99 * len(self.samples)) - 1]


@dataclass(frozen=True)
class Bar:
    """A figure, and the most that it may be."""

    what: str
    figure: float
    limit: float
    unit: str

    @property
    def ok(self) -> bool:
        return self.figure <= self.limit

    def __str__(self) -> str:
        figures = f"{self.figure:7.2f} {self.unit:2}   at most {self.limit:g} {self.unit}"
        return f"  {self.what:<{WIDTH}}{figures:<32}{'ok' if self.ok else 'MISSED'}"


@dataclass(frozen=True)
class Table:
    """Contenders that took turns in one run; ratios are to the row *baseline*, by name."""

    title: str
    unit: str
    baseline: str
    rows: Sequence[Row]
    bars: Sequence[Bar] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        scale = UNITS[self.unit]
        medians = {row.name: row.median for row in self.rows}
        lines = [self.title, f"  {'':<{WIDTH}}{'median ' + self.unit:>11}{'p99 ' + self.unit:>11}{'ratio':>9}"]
        for row in self.rows:
            p99 = f"{row.p99 / scale:.1f}" if len(row.samples) >= 100 else "-"
            ratio = row.median / medians[self.baseline]
            lines.append(f"  {row.name:<{WIDTH}}{row.median / scale:11.1f}{p99:>11}{ratio:9.2f}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([*lines, *map(str, self.bars)])


def ratio(row: Row, baseline: Row, at_most: float) -> Bar:
    """The ratio of two medians."""
    return Bar(f"{row.name} / {baseline.name}", row.median / baseline.median, at_most, "x")


def difference(row: Row, baseline: Row, at_most: float, unit: str) -> Bar:
    """The median of the differences of pairs, each measured one right after the other."""
    pairs = [a - b for a, b in zip(row.samples, baseline.samples, strict=True)]
    return Bar(f"{row.name} - {baseline.name}", statistics.median(pairs) / UNITS[unit], at_most, unit)


def absolute(row: Row, at_most: float, unit: str) -> Bar:
    """A median as it is."""
    return Bar(row.name, row.median / UNITS[unit], at_most, unit)


def tail(row: Row, at_most: float, unit: str) -> list[Bar]:
    """A 99th percentile as it is; none of fewer than 100 samples."""
    if len(row.samples) < 100:
        return []
    return [Bar(f"{row.name}, p99", row.p99 / UNITS[unit], at_most, unit)]
