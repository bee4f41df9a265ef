"""Sizes in bytes, and times in seconds."""

import math
import re
import sys
import time
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Final

from .errors import InvalidTypeError, InvalidValueError, shown

if TYPE_CHECKING:
    from datetime import timedelta

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

MIN_DELAY: Final = 0.001
"""The shortest delay of a hold, in seconds: one unit of the kernel's own delay file, and less than any handler
needs to do anything."""
MAX_DELAY: Final = (2**31 - 1) / 1000
"""The longest, nearly 25 days: what a signed 32-bit count of milliseconds holds, as the kernel's own delay is."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


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


def parse_duration(duration: "float | timedelta", what: str = "delay") -> float:
    """*duration*, a number of seconds or a `datetime.timedelta`, in seconds.

    Raises:
        InvalidTypeError: neither of them, or a bool.
        InvalidValueError: negative, or NaN.
    """
    # Who has a timedelta has imported datetime, which takes longer to import than most of this library.
    datetime = sys.modules.get("datetime")
    if datetime is not None and isinstance(duration, datetime.timedelta):
        seconds: float = duration.total_seconds()
    elif isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise InvalidTypeError(f"{what} is a number of seconds, or a timedelta, not {shown(duration)}")
    else:
        seconds = duration
    if seconds != seconds or seconds < 0:
        raise InvalidValueError(f"{what} is a number of seconds above 0, not {shown(duration)}")
    return parse_seconds(seconds, what)


def parse_duration_text(text: str, what: str = "delay") -> float:
    """A duration in seconds, from text such as ``"10s"``, ``"500ms"``, ``"1.5 min"``, ``"1h"`` or ``"10"``.

    Raises:
        InvalidValueError: *text* is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidValueError(
            f"{what}: {shown(text)} is not a duration: write a decimal number of seconds, or one with ms, s, min "
            f"or h, such as 10s, 500ms or 1.5min"
        )
    number, unit = match.groups(default="s")
    return float(number) * _SECONDS[unit]


def parse_delay(delay: "float | timedelta", what: str = "delay") -> float:
    """The delay of a hold in seconds, having refused one that cannot be kept.

    Raises:
        InvalidTypeError: neither a number nor a `datetime.timedelta`, or a bool.
        InvalidValueError: 0, negative, NaN, or not from `MIN_DELAY` to `MAX_DELAY`; the message says why.
    """
    seconds = parse_duration(delay, what)
    if seconds < MIN_DELAY:
        raise InvalidValueError(
            f"{what} is {MIN_DELAY} s or more, not {shown(delay)}: in less than a millisecond no handler can act; "
            f"to leave OOMs to the kernel, do without a hold"
        )
    if seconds > MAX_DELAY:
        raise InvalidValueError(
            f"{what} is {MAX_DELAY} s (24.8 days) or less, not {shown(delay)}: that is all that a signed 32-bit "
            f"number of milliseconds holds; for no limit, use None"
        )
    return seconds


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
