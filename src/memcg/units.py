"""Sizes in bytes, and times in seconds."""

import math
import re
import sys
import time
from mmap import PAGESIZE
from typing import Final

from .errors import InvalidTypeError, InvalidValueError, shown

KiB: Final = 1 << 10
"""1024 bytes."""
MiB: Final = 1 << 20
"""1024 KiB."""
GiB: Final = 1 << 30
"""1024 MiB."""

UNLIMITED: Final = sys.maxsize // PAGESIZE * PAGESIZE
"""What cgroup v1 shows for "no limit": the largest number of pages that a counter holds, in bytes."""

_SIZE = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?\s*(?:([KMGTPE])(?:iB)?|B)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, **{letter: power for power, letter in enumerate("KMGTPE", 1)}}


def check_int(value: int, what: str, least: int, most: int, allowed: str = "") -> int:
    """*value*, having refused what is no int, or not from *least* to *most*, which *allowed* says in words.

    Raises:
        InvalidTypeError: not an int, or a bool.
        InvalidValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{what} is an int, not {shown(value)}")
    if not least <= value <= most:
        raise InvalidValueError(f"{what} is from {allowed or f'{least} to {most}'}, not {shown(value)}")
    return value


def parse_size(size: int | str) -> int:
    """A size in bytes, from an int or from text such as ``"512M"``, ``"1.5GiB"`` or ``"4096"``.

    Suffixes are powers of 1024, as in the kernel: ``K M G T P E``, alone or with ``iB``, in either case.
    Fractions of a byte are dropped.

    What the kernel would accept and misread is refused: an empty string and ``"\\n"`` (which it takes for 0),
    ``"K"`` (0), ``0x10`` and ``010`` (base 16 and 8), and what does not fit its counters (which wraps around up
    to Linux 6.18). So is ``"1MB"``, which the kernel refuses and people disagree on.

    Raises:
        InvalidTypeError: *size* is neither an int nor a str.
        InvalidValueError: *size* is no size, negative, or too large; the message says which.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    elif isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            raise InvalidValueError(
                f"{shown(size)} is not a size: write bytes as a decimal number, with K, M, G, T, P or E (powers "
                f"of 1024) where wanted, such as 4096, '512M' or '1.5GiB'"
            )
        whole, fraction, suffix = match.groups(default="")
        # In whole numbers, as float is exact only up to 2**53; and int() itself refuses thousands of digits.
        unit, digits = 1024 ** _POWERS[suffix.upper()], fraction[1:21]
        value = int(whole) * unit + int(digits or 0) * unit // 10 ** len(digits) if len(whole) < 20 else UNLIMITED
    else:
        raise InvalidTypeError(f"a size is an int or a str such as '512M', not {shown(size)}")
    if value < 0:
        raise InvalidValueError(f"a size cannot be negative: {shown(size)}")
    if value >= UNLIMITED:
        raise InvalidValueError(
            f"{shown(size)} is more than the kernel can count (below {UNLIMITED} bytes); for no limit, use None"
        )
    return value


def format_size(size: int | None) -> str:
    """*size* bytes for people: ``"512 MiB"``, ``"1.5 GiB"``, ``"4095 B"``, and ``"unlimited"`` for None."""
    if size is None:
        return "unlimited"
    if isinstance(size, bool) or not isinstance(size, int):
        raise InvalidTypeError(f"a size is an int, or None for no limit, not {shown(size)}")
    power = min(max(abs(size).bit_length() - 1, 0) // 10, 6)
    if power and round(abs(size) / 1024**power, 1) >= 1024:
        power += 1
    value = f"{size / 1024**power:.1f}".removesuffix(".0")
    return f"{value} {'KMGTPE'[power - 1]}iB" if power else f"{size} B"


def parse_seconds(seconds: float, what: str = "timeout") -> float:
    """*seconds* as a float, having refused what is no duration.

    Raises:
        InvalidTypeError: not a number.
        InvalidValueError: negative, or NaN.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTypeError(f"{what} is a number of seconds, or None for no limit, not {shown(seconds)}")
    if seconds != seconds or seconds < 0:
        raise InvalidValueError(
            f"{what} is a number of seconds from 0 up, or None for no limit, not {shown(seconds)}"
        )
    try:
        return float(seconds)
    except OverflowError:  # an int beyond all floats
        return math.inf


class Deadline:
    """The moment at which a timeout is up, on the monotonic clock; ``Deadline(None)`` never comes."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        self._at = math.inf if timeout is None else time.monotonic() + parse_seconds(timeout)

    def remaining(self) -> float | None:
        """The seconds left, 0 when the time is up, None if it never is."""
        return None if self._at == math.inf else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        return self._at != math.inf and time.monotonic() >= self._at
