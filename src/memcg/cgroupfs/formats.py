"""The kernel's text formats, as "Interface Files" in Documentation/admin-guide/cgroup-v2.rst names them.

Each function raises ValueError where the text is not of its format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from mmap import PAGESIZE

from ..errors import InvalidTypeError, InvalidValueError, shown
from ..units import UNLIMITED, check_int, parse_size


def parse_bytes(data: bytes) -> int:
    """One number."""
    return int(data)


def parse_limit(data: bytes) -> int | None:
    """One number, or None where v1 shows the largest one that it has, or v2 says "max"."""
    if data.strip() == b"max":
        return None
    value = int(data)
    return None if value >= UNLIMITED else value


def parse_count(data: bytes) -> int | None:
    """One number, or None for "max"."""
    return None if data.strip() == b"max" else int(data)


def parse_flag(data: bytes) -> bool:
    """0 or 1."""
    value = data.strip()
    if value not in (b"0", b"1"):
        raise ValueError(data)
    return value == b"1"


def parse_text(data: bytes) -> str:
    """One line of text."""
    return os.fsdecode(data.rstrip(b"\n"))


def parse_lines(data: bytes) -> tuple[int, ...]:
    """New-line separated numbers, in the kernel's order: one per process or thread."""
    return tuple(map(int, data.split()))


def parse_words(data: bytes) -> tuple[str, ...]:
    """Space separated words."""
    return tuple(data.decode("ascii").split())


def parse_flat_keyed(data: bytes) -> dict[str, int]:
    """``KEY VALUE`` lines."""
    words = data.decode("ascii").split()
    if len(words) % 2:
        raise ValueError(data)
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def parse_nested_keyed(data: bytes) -> dict[str, dict[str, str]]:
    """``KEY SUBKEY=VALUE ...`` lines; v1 writes ``KEY=VALUE SUBKEY=VALUE ...``, which becomes a subkey ""."""
    table = {}
    for line in data.decode("ascii").splitlines():
        first, *rest = line.split()
        key, separator, total = first.partition("=")
        cells = dict([("", total)] if separator else [])
        for word in rest:
            subkey, separator, value = word.partition("=")
            if not separator:
                raise ValueError(line)
            cells[subkey] = value
        table[key] = cells
    return table


def format_limit(limit: int | str | None) -> bytes:
    """A limit as v1 takes it: a decimal number of bytes, or -1 for none.

    Sizes from 1 byte to below a page are refused: the kernel rounds down, and would set 0.
    """
    return b"-1" if limit is None else b"%d" % parse_page_size(limit)


def format_limit_v2(limit: int | str | None) -> bytes:
    """A limit as v2 takes it, where "max" stands for none; otherwise as `format_limit`."""
    return b"max" if limit is None else format_limit(limit)


def format_count(count: int | None) -> bytes:
    """A number of groups as v2 takes it, where "max" stands for any."""
    return b"max" if count is None else b"%d" % check_int(count, "a number of groups", 0, 2**31 - 1)


_CONTROLLER = re.compile(r"[+-][a-z_]+", re.ASCII)


def format_controllers(changes: str | Iterable[str]) -> bytes:
    """What to enable and disable: ``"+memory -pids"``, or the same as several words."""
    if not isinstance(changes, Iterable):
        raise InvalidTypeError(f"controllers are written as '+memory -pids', not {shown(changes)}")
    words = changes.split() if isinstance(changes, str) else list(changes)
    if not words or not all(isinstance(word, str) and _CONTROLLER.fullmatch(word) for word in words):
        raise InvalidValueError(f"controllers are written as '+memory -pids', not {shown(changes)}")
    return " ".join(words).encode()


def parse_page_size(size: int | str) -> int:
    """`parse_size`, refusing what would be rounded down to 0 without being 0."""
    value = parse_size(size)
    if 0 < value < PAGESIZE:
        raise InvalidValueError(
            f"{shown(size)} is less than a page of {PAGESIZE} bytes: the kernel would make it 0"
        )
    return value


def parse_new_limit(limit: int | str | None) -> int | None:
    """A limit for a group that is to be of use: as the kernel rounds it, down to a page, and not 0."""
    new = None if limit is None else parse_page_size(limit) // PAGESIZE * PAGESIZE
    if new == 0:
        raise InvalidValueError("a limit of 0 leaves no room for anything: choose a page or more")
    return new


def format_flag(flag: bool) -> bytes:
    """A switch."""
    if not isinstance(flag, (bool, int)) or flag not in (0, 1):
        raise InvalidValueError(f"a switch is True or False, not {shown(flag)}")
    return b"1" if flag else b"0"


def format_int(value: int) -> bytes:
    """A number that is no size."""
    return b"%d" % check_int(value, "a number", 0, 2**63 - 1)


def format_text(text: str) -> bytes:
    """One line of text."""
    if not isinstance(text, str):
        raise InvalidTypeError(f"a str, not {shown(text)}")
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        data = b"\0"
    if {0, 10} & set(data):
        raise InvalidValueError(f"one line, without NUL: {shown(text)}")
    return data
