"""Sizes and times."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg import GiB, InvalidTypeError, InvalidValueError, KiB, MiB, format_size, parse_size
from memcg.units import UNLIMITED, Deadline, parse_seconds

SUFFIXES = {"": 0, "B": 0, **{f"{letter}{end}": n for n, letter in enumerate("KMGTPE", 1) for end in ("", "iB")}}
HUGE = 10**5000  # more digits than str() gives of an int


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0),
        (4096, 4096),
        (512 * MiB, 512 * MiB),
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", KiB),
        ("512M", 512 * MiB),
        ("512m", 512 * MiB),
        ("512 MiB", 512 * MiB),
        (" 2g\n", 2 * GiB),
        ("1.5GiB", 3 * GiB // 2),
        ("0.5K", 512),
        ("0.0001K", 0),
        ("1.9", 1),
        ("1T", 1 << 40),
        ("1P", 1 << 50),
        ("7E", 7 << 60),
        (UNLIMITED - 1, UNLIMITED - 1),
        (str(UNLIMITED - 1), UNLIMITED - 1),
        ("9007199254740993", 2**53 + 1),  # which a float cannot hold
    ],
)
def test_a_size_is_an_int_or_text_in_powers_of_1024(size: int | str, expected: int) -> None:
    """Ints and the documented texts give the exact number of bytes."""
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty, which the kernel takes for 0"),
        pytest.param("\n", id="newline, which the kernel takes for 0"),
        pytest.param(" ", id="blank"),
        pytest.param("K", id="suffix alone, which the kernel takes for 0"),
        pytest.param("0x10", id="base 16"),
        pytest.param("010", id="base 8"),
        pytest.param("00", id="two zeros"),
        pytest.param("1MB", id="a power of 1000 or of 1024"),
        pytest.param("1 M B", id="blanks inside"),
        pytest.param("1M 2", id="something after it"),
        pytest.param("1\n2", id="two lines"),
        pytest.param("1KK", id="two suffixes"),
        pytest.param("1Z", id="unknown suffix"),
        pytest.param("-1", id="v1's word for no limit"),
        pytest.param("-5M", id="negative"),
        pytest.param("+5M", id="a plus sign"),
        pytest.param("max", id="v2's word for no limit"),
        pytest.param("1e9", id="exponent"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,5G", id="decimal comma"),
        pytest.param(".5G", id="no digit before the point"),
        pytest.param("5.G", id="no digit after the point"),
        pytest.param("nan", id="not a number"),
        pytest.param("\u0663", id="arabic digit"),
        pytest.param("\uff11", id="full-width digit"),
        pytest.param("\u00b2", id="superscript digit"),
        pytest.param("1\u212a", id="kelvin sign, which ignoring case makes a K"),
        pytest.param("1K\u0130B", id="dotted capital I, which ignoring case makes an i"),
        pytest.param("1\0", id="NUL"),
        pytest.param(str(UNLIMITED), id="the number that v1 shows for no limit"),
        pytest.param("8E", id="more than the kernel counts"),
        pytest.param("99999999999999999999", id="a number that wraps around in the kernel"),
        pytest.param("1" * 5000, id="more digits than int() takes"),
        pytest.param("0." + "1" * 5000 + "X", id="a long fraction of nothing"),
    ],
)
def test_text_that_is_no_size_is_refused(text: str) -> None:
    """What the kernel would refuse, or take for something else, is an InvalidValueError."""
    with pytest.raises(InvalidValueError):
        parse_size(text)


@pytest.mark.parametrize("size", [-1, -HUGE, UNLIMITED, 2**64, HUGE], ids=["-1", "-huge", "max", "2**64", "huge"])
def test_an_int_out_of_range_is_refused(size: int) -> None:
    """Negative ints, and those beyond what the kernel counts, are an InvalidValueError, however long."""
    with pytest.raises(InvalidValueError):
        parse_size(size)


@pytest.mark.parametrize("size", [True, False, 1.5, math.nan, None, b"1M", [1], object()], ids=repr)
def test_a_size_of_another_type_is_refused(size: object) -> None:
    """What is neither an int nor a str is an InvalidTypeError, bool and float included."""
    with pytest.raises(InvalidTypeError):
        parse_size(size)  # type: ignore[arg-type]


def test_a_refusal_names_the_text_and_the_remedy() -> None:
    """The messages quote what was given, and say what to write instead."""
    with pytest.raises(InvalidValueError, match=r"'1MB' is not a size: .*'512M'"):
        parse_size("1MB")
    with pytest.raises(InvalidValueError, match=r"'9E' is more .* for no limit, use None"):
        parse_size("9E")


@given(st.integers(0, UNLIMITED - 1))
def test_an_int_in_text_is_that_int(size: int) -> None:
    """parse_size of a decimal number is the number, for all that the kernel can count."""
    assert parse_size(str(size)) == size == parse_size(size)


@given(st.integers(0, 2**70), st.sampled_from(sorted(SUFFIXES)), st.booleans(), st.sampled_from(["", " ", "\t "]))
def test_a_suffix_multiplies_by_its_power_of_1024(number: int, suffix: str, lower: bool, blank: str) -> None:
    """Each suffix, in either case and set apart or not, multiplies exactly, or the size is too large."""
    text = f"{number}{blank}{suffix.lower() if lower else suffix}"
    expected = number * 1024 ** SUFFIXES[suffix]
    if expected < UNLIMITED:
        assert parse_size(text) == expected
    else:
        with pytest.raises(InvalidValueError, match="more than the kernel can count"):
            parse_size(text)


@given(st.integers(0, 1023), st.text("0123456789", min_size=1, max_size=18), st.sampled_from("KMGTP"))
def test_a_fraction_is_exact_down_to_the_byte(whole: int, digits: str, suffix: str) -> None:
    """A fraction is computed in whole numbers, and only fractions of a byte are dropped."""
    exact = Fraction(f"{whole}.{digits}") * 1024 ** SUFFIXES[suffix]
    assert parse_size(f"{whole}.{digits}{suffix}") == math.floor(exact)


@given(st.text() | st.text("019.KMGTPEkmeiIbB \t\n_+-x\u212a\u0130\u0131\u017f\u0663\u00b2"))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """No text makes parse_size raise anything but InvalidValueError, or return what cannot be a size."""
    try:
        size = parse_size(text)
    except InvalidValueError:
        return
    assert 0 <= size < UNLIMITED
    assert text.strip()[0] in "0123456789"
    assert text.isascii() or text.strip().isascii()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (4095, "4 KiB"),
        (1536, "1.5 KiB"),
        (512 * MiB, "512 MiB"),
        (1536 * MiB, "1.5 GiB"),
        (1 << 60, "1 EiB"),
        (-3 * MiB, "-3 MiB"),
        (None, "unlimited"),
    ],
)
def test_a_size_is_written_for_people(size: int | None, text: str) -> None:
    """format_size picks the largest unit that leaves 1 or more, with one decimal where there is one."""
    assert format_size(size) == text


@given(st.integers(0, 7 << 60))
def test_what_is_written_for_people_reads_back_as_nearly_the_same(size: int) -> None:
    """format_size rounds by less than a twentieth, and parse_size reads what it writes."""
    assert abs(parse_size(format_size(size)) - size) <= size / 20


@given(st.integers(0, 1023), st.integers(0, 5))
def test_whole_units_read_back_exactly(number: int, power: int) -> None:
    """Up to 1023 of a unit, writing and reading lose nothing."""
    size = number * 1024**power
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("size", ["5", 1.5, True, b"5"], ids=repr)
def test_only_sizes_are_written(size: object) -> None:
    """format_size refuses what is neither an int nor None."""
    with pytest.raises(InvalidTypeError):
        format_size(size)  # type: ignore[arg-type]


def test_a_deadline_counts_down_to_0() -> None:
    """remaining() falls with the monotonic clock and stops at 0, where the deadline has expired."""
    before = time.monotonic()
    deadline = Deadline(3600)
    first = deadline.remaining()
    assert first is not None
    second = deadline.remaining()
    assert second is not None
    assert 3600 - (time.monotonic() - before) <= second <= first <= 3600
    assert not deadline.expired


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-12])
def test_a_deadline_of_nothing_has_expired(timeout: float) -> None:
    """A timeout of 0 is up at once, and nothing is left of it."""
    deadline = Deadline(timeout)
    while timeout and not deadline.expired:
        pass
    assert deadline.expired
    assert deadline.remaining() == 0


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_a_deadline_without_end_never_comes(timeout: float | None) -> None:
    """None and infinity leave no number of seconds, and never expire."""
    deadline = Deadline(timeout)
    assert deadline.remaining() is None
    assert not deadline.expired


@pytest.mark.parametrize(
    "timeout", [-1, -0.001, -math.inf, math.nan, -HUGE], ids=["-1", "-ms", "-inf", "nan", "-huge"]
)
def test_no_time_runs_backwards(timeout: float) -> None:
    """Negative times and NaN are an InvalidValueError that names what was wrong."""
    with pytest.raises(InvalidValueError, match="timeout is a number of seconds from 0 up"):
        Deadline(timeout)
    with pytest.raises(InvalidValueError, match="delay is a number of seconds from 0 up"):
        parse_seconds(timeout, "delay")


@pytest.mark.parametrize("timeout", [True, False, "1", b"1", [1], 1j], ids=repr)
def test_a_time_of_another_type_is_refused(timeout: object) -> None:
    """What is no number of seconds is an InvalidTypeError, bool included."""
    with pytest.raises(InvalidTypeError):
        Deadline(timeout)  # type: ignore[arg-type]


def test_a_time_that_no_float_holds_is_for_ever() -> None:
    """An int beyond all floats is no error: that time never comes."""
    assert Deadline(HUGE).remaining() is None
