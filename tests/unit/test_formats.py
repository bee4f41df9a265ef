"""The kernel's text formats, both ways."""

from __future__ import annotations

from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg import InvalidTypeError, InvalidValueError
from memcg.cgroupfs.formats import (
    format_flag,
    format_int,
    format_limit,
    format_text,
    parse_bytes,
    parse_flag,
    parse_flat_keyed,
    parse_limit,
    parse_lines,
    parse_nested_keyed,
    parse_page_size,
    parse_text,
    parse_words,
)
from memcg.units import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable


def test_one_number() -> None:
    """A number is read with or without its newline, however large."""
    assert parse_bytes(b"4096\n") == 4096
    assert parse_bytes(b"0") == 0
    assert parse_bytes(b"18446744073709551615\n") == 2**64 - 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (b"4096\n", 4096),
        (b"0\n", 0),
        (b"max\n", None),
        (b"%d\n" % UNLIMITED, None),
        (b"%d\n" % (UNLIMITED - PAGESIZE), UNLIMITED - PAGESIZE),
        (b"9223372036854775807\n", None),  # up to Linux 3.18
        (b"18446744073709551615\n", None),
    ],
)
def test_a_limit_beyond_what_can_be_counted_is_none(text: bytes, limit: int | None) -> None:
    """Whatever a kernel shows for no limit is None, and everything below is a number."""
    assert parse_limit(text) == limit


def test_a_flag() -> None:
    """0 and 1 are False and True."""
    assert parse_flag(b"0\n") is False
    assert parse_flag(b"1\n") is True


@pytest.mark.parametrize(
    ("text", "line"), [(b"", ""), (b"\n", ""), (b"/sbin/agent\n", "/sbin/agent"), (b"a b\xff\n", "a b\udcff")]
)
def test_one_line_of_text(text: bytes, line: str) -> None:
    """A line loses its newline and nothing else, whatever its bytes."""
    assert parse_text(text) == line


def test_numbers_on_lines() -> None:
    """Numbers come in the kernel's order, repeated where it repeats them; none is an empty tuple."""
    assert parse_lines(b"12\n3\n12\n0\n") == (12, 3, 12, 0)
    assert parse_lines(b"") == ()


def test_words() -> None:
    """Words are split at blanks; none is an empty tuple."""
    assert parse_words(b"cpu memory\n") == ("cpu", "memory")
    assert parse_words(b"\n") == ()


def test_keys_with_values() -> None:
    """Flat keyed files become a dict, in the kernel's order."""
    table = parse_flat_keyed(b"low 0\nhigh 12\nmax 3\n")
    assert list(table.items()) == [("low", 0), ("high", 12), ("max", 3)]
    assert parse_flat_keyed(b"") == {}


def test_keys_with_keys() -> None:
    """Nested keyed files of v2, and those of v1 with a total, become a dict of dicts."""
    assert parse_nested_keyed(b"some avg10=0.00 total=5\nfull avg10=0.10 total=2\n") == {
        "some": {"avg10": "0.00", "total": "5"},
        "full": {"avg10": "0.10", "total": "2"},
    }
    assert parse_nested_keyed(b"total=12 N0=5 N1=7\n") == {"total": {"": "12", "N0": "5", "N1": "7"}}
    assert parse_nested_keyed(b"anon\n") == {"anon": {}}
    assert parse_nested_keyed(b"") == {}


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, b""),
        (parse_bytes, b"1 2"),
        (parse_bytes, b"1.5"),
        (parse_bytes, b"many"),
        (parse_limit, b""),
        (parse_limit, b"MAX"),
        (parse_limit, b"max 1"),
        (parse_flag, b""),
        (parse_flag, b"2\n"),
        (parse_flag, b"yes"),
        (parse_lines, b"1\nx\n"),
        (parse_words, b"\xff"),
        (parse_flat_keyed, b"low\n"),
        (parse_flat_keyed, b"low 1\nhigh\n"),
        (parse_flat_keyed, b"low x\n"),
        (parse_flat_keyed, b"\xff 1\n"),
        (parse_nested_keyed, b"some avg10\n"),
        (parse_nested_keyed, b"some a=1\n\nfull b=2\n"),
        (parse_nested_keyed, b"\xff a=1\n"),
    ],
)
def test_a_text_of_another_format_is_a_value_error(parse: Callable[[bytes], object], text: bytes) -> None:
    """What is not of the format is a ValueError, and never a value."""
    with pytest.raises(ValueError):
        parse(text)


# What is written.


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (None, b"-1"),
        (0, b"0"),
        ("0", b"0"),
        (PAGESIZE, b"%d" % PAGESIZE),
        (PAGESIZE + 1, b"%d" % (PAGESIZE + 1)),
        ("512M", b"536870912"),
        ("1.5GiB", b"1610612736"),
    ],
)
def test_a_limit_is_written_as_plain_bytes(limit: int | str | None, text: bytes) -> None:
    """Whatever a limit was given as, the kernel gets a decimal number, or -1 for none."""
    assert format_limit(limit) == text


@pytest.mark.parametrize("limit", ["", "\n", "K", "0x10", "010", "-1", "max", "1MB", -1, UNLIMITED, 2**64])
def test_a_limit_that_the_kernel_would_misread_is_refused(limit: int | str) -> None:
    """Nothing that is no size becomes a limit, the kernel's own words for none included."""
    with pytest.raises(InvalidValueError):
        format_limit(limit)


@pytest.mark.parametrize("limit", [1, PAGESIZE - 1, "1", "1B", "0.5K"])
def test_a_limit_below_a_page_is_refused(limit: int | str) -> None:
    """What the kernel would round down to 0 without being 0 is an InvalidValueError that says so."""
    with pytest.raises(InvalidValueError, match=r"less than a page .* would make it 0"):
        parse_page_size(limit)


@pytest.mark.parametrize("limit", [True, 1.5, b"1M", [1]], ids=repr)
def test_a_limit_of_another_type_is_refused(limit: object) -> None:
    """What is neither int, str nor None is an InvalidTypeError."""
    with pytest.raises(InvalidTypeError):
        format_limit(limit)  # type: ignore[arg-type]


@given(st.integers(PAGESIZE, UNLIMITED - 1))
def test_a_limit_reads_back_as_it_was_written(limit: int) -> None:
    """What is written for a limit is read as the same limit."""
    assert parse_limit(format_limit(limit)) == limit


@pytest.mark.parametrize(("flag", "text"), [(True, b"1"), (False, b"0"), (1, b"1"), (0, b"0")])
def test_a_flag_is_written_as_a_digit(flag: bool, text: bytes) -> None:
    """True and False, and 1 and 0, are written as the kernel reads them back."""
    assert format_flag(flag) == text
    assert parse_flag(text) == flag


@pytest.mark.parametrize("flag", [2, -1, 1.0, "1", "", b"1", None], ids=repr)
def test_what_is_no_flag_is_refused(flag: object) -> None:
    """Truth of other kinds is not guessed at."""
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        format_flag(flag)  # type: ignore[arg-type]


def test_an_int_is_written_in_decimal() -> None:
    """Numbers that are no sizes are plain decimal, without the bases that the kernel would read."""
    assert format_int(60) == b"60"
    assert format_int(0o10) == b"8"


@pytest.mark.parametrize("value", [True, 1.0, "1", b"1", None], ids=repr)
def test_what_is_no_int_is_refused(value: object) -> None:
    """A number of another type is an InvalidTypeError."""
    with pytest.raises(InvalidTypeError):
        format_int(value)  # type: ignore[arg-type]


@given(st.text(st.characters(blacklist_characters="\n\0", codec="utf-8")))
def test_a_line_reads_back_as_it_was_written(text: str) -> None:
    """Text without newline and NUL is written and read back unchanged."""
    assert parse_text(format_text(text) + b"\n") == text


@pytest.mark.parametrize("text", ["a\nb", "a\n", "a\0", "\ud800"], ids=ascii)
def test_what_is_no_line_is_refused(text: str) -> None:
    """Newline, NUL, and what has no bytes are an InvalidValueError."""
    with pytest.raises(InvalidValueError):
        format_text(text)


@pytest.mark.parametrize("text", [b"a", 1, None], ids=repr)
def test_what_is_no_text_is_refused(text: object) -> None:
    """A line of another type is an InvalidTypeError."""
    with pytest.raises(InvalidTypeError):
        format_text(text)  # type: ignore[arg-type]
