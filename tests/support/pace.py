"""How fast this machine is, for tests that say how soon something must have happened."""

from __future__ import annotations

from pathlib import Path

PACE = 10 if "TCG" in Path("/proc/cpuinfo").read_text() else 1
"""By how much everything takes longer here: a processor that qemu emulates has that in its name."""


def at_most(seconds: float) -> float:
    """What *seconds* on a usual machine come to here."""
    return seconds * PACE
