"""Pressure stall information, on texts as kernels write them."""

from __future__ import annotations

import dataclasses

import pytest

from memcg import CpuPressure, IrqPressure, Pressure, PressureLine

SOME = b"some avg10=0.50 avg60=12.25 avg300=100.00 total=1500000\n"
FULL = b"full avg10=0.00 avg60=1.00 avg300=2.00 total=1\n"


def test_both_lines() -> None:
    """memory.pressure and io.pressure have a line "some" and a line "full"; total becomes seconds."""
    pressure = Pressure.parse(SOME + FULL)
    assert pressure.some == PressureLine(avg10=0.5, avg60=12.25, avg300=100.0, total=1.5)
    assert pressure.full == PressureLine(avg10=0.0, avg60=1.0, avg300=2.0, total=0.000001)
    assert pressure.extra == {}
    assert Pressure.parse(FULL + SOME) == pressure


def test_every_microsecond_counts() -> None:
    """A total of years keeps its microseconds."""
    assert Pressure.parse(SOME.replace(b"1500000", b"94608000123456") + FULL).some.total == 94608000.123456


def test_cpu_pressure_of_old_kernels() -> None:
    """Before Linux 5.13, cpu.pressure had no line "full"."""
    assert CpuPressure.parse(SOME) == CpuPressure(PressureLine(0.5, 12.25, 100.0, 1.5), None)
    assert CpuPressure.parse(SOME + FULL).full == PressureLine(0.0, 1.0, 2.0, 0.000001)


def test_irq_pressure() -> None:
    """irq.pressure has only a line "full"."""
    assert IrqPressure.parse(FULL) == IrqPressure(PressureLine(0.0, 1.0, 2.0, 0.000001))


def test_what_is_new_is_kept() -> None:
    """Lines and words that are not known are in extra, as they stand."""
    pressure = Pressure.parse(
        SOME.replace(b" total", b" avg900=1.00 total") + FULL + FULL.replace(b"full", b"most")
    )
    assert pressure.some.extra == {"avg900": "1.00"}
    assert pressure.some.total == 1.5
    assert pressure.extra == {"most": pressure.full}


@pytest.mark.parametrize("data", [b"", SOME, FULL, b"some\nfull\n", SOME + b"full avg10=x\n", SOME + b"full 5\n"])
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    """Text of another format is an error, and never a half-filled value."""
    with pytest.raises((ValueError, KeyError)):
        Pressure.parse(data)


def test_pressure_is_a_value() -> None:
    """It cannot be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pressure.parse(SOME + FULL).some.avg10 = 1.0  # type: ignore[misc]
