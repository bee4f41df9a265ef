"""Pressure stall information: how long processes had to wait for a resource, as frozen dataclasses.

Kernel: Documentation/accounting/psi.rst.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, final

from ..cgroupfs.formats import parse_nested_keyed

Percent = Annotated[float, "percent"]
"""A share of the time, from 0 to 100."""
Seconds = Annotated[float, "seconds"]
"""A length of time."""


@final
@dataclass(frozen=True)
class PressureLine:
    """One line of a pressure file: the share of the time that was lost, lately and in all."""

    avg10: Percent
    """Over the last 10 seconds, in percent, as are the next two."""
    avg60: Percent
    avg300: Percent
    total: Seconds
    """Since the group was created, or the machine started; in seconds, where the kernel shows microseconds."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Keys that this version of memcg does not know."""

    @classmethod
    def parse(cls, cells: Mapping[str, str]) -> "PressureLine":
        """From the ``KEY=VALUE`` words of the line."""
        rest = dict(cells)
        avg10, avg60, avg300 = (float(rest.pop(key)) for key in ("avg10", "avg60", "avg300"))
        return cls(avg10, avg60, avg300, int(rest.pop("total")) / 1_000_000, rest)


@final
@dataclass(frozen=True)
class Pressure:
    """``memory.pressure`` or ``io.pressure``."""

    some: PressureLine
    """While at least one process waited."""
    full: PressureLine
    """While all that were not idle waited, so that nothing was done at all."""
    extra: Mapping[str, PressureLine] = field(default_factory=dict)
    """Lines that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "Pressure":
        """From the text of the file."""
        lines = _parse_lines(data)
        return cls(lines.pop("some"), lines.pop("full"), lines)


@final
@dataclass(frozen=True)
class CpuPressure:
    """``cpu.pressure``."""

    some: PressureLine
    """While at least one process waited."""
    full: PressureLine | None = None
    """While all that were not idle waited; None before Linux 5.13."""
    extra: Mapping[str, PressureLine] = field(default_factory=dict)
    """Lines that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "CpuPressure":
        """From the text of the file."""
        lines = _parse_lines(data)
        return cls(lines.pop("some"), lines.pop("full", None), lines)


@final
@dataclass(frozen=True)
class IrqPressure:
    """``irq.pressure``: the time that interrupts took from processes."""

    full: PressureLine
    """While no process could run."""
    extra: Mapping[str, PressureLine] = field(default_factory=dict)
    """Lines that this version of memcg does not know."""

    @classmethod
    def parse(cls, data: bytes) -> "IrqPressure":
        """From the text of the file."""
        lines = _parse_lines(data)
        return cls(lines.pop("full"), lines)


def _parse_lines(data: bytes) -> dict[str, PressureLine]:
    return {key: PressureLine.parse(cells) for key, cells in parse_nested_keyed(data).items()}
