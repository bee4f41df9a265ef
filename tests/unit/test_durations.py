"""Durations, and the delays of holds."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg import InvalidTypeError, InvalidValueError
from memcg.units import MAX_DELAY, MIN_DELAY, parse_delay, parse_duration, parse_duration_text
from unit.helpers import run_python

if TYPE_CHECKING:
    from collections.abc import Callable

HUGE = 10**5000  # more digits than str() gives of an int


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (0, 0.0),
        (10, 10.0),
        (0.25, 0.25),
        (math.inf, math.inf),
        (HUGE, math.inf),
        (timedelta(), 0.0),
        (timedelta(minutes=2, milliseconds=1), 120.001),
        (timedelta.max, timedelta.max.total_seconds()),
    ],
    ids=["0", "int", "float", "inf", "huge", "nothing", "timedelta", "max"],
)
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(duration: float | timedelta, seconds: float) -> None:
    """Both give seconds, as a float."""
    assert parse_duration(duration) == seconds
    assert type(parse_duration(duration)) is float


@pytest.mark.parametrize("parse", [parse_duration, parse_delay])
@pytest.mark.parametrize(
    "duration",
    [-1, -0.001, -math.inf, math.nan, -HUGE, timedelta(microseconds=-1), timedelta.min],
    ids=["-1", "-ms", "-inf", "nan", "-huge", "-us", "min"],
)
def test_no_duration_is_negative(parse: Callable[..., float], duration: float | timedelta) -> None:
    """Negative numbers, NaN and negative timedeltas are an InvalidValueError that names what was wrong."""
    with pytest.raises(InvalidValueError, match=r"^total is a number of seconds above 0, not "):
        parse(duration, "total")


@pytest.mark.parametrize("parse", [parse_duration, parse_delay])
@pytest.mark.parametrize("duration", [True, False, "10", b"1", None, [1], 1j, object()], ids=repr)
def test_a_duration_of_another_type_is_refused(parse: Callable[..., float], duration: object) -> None:
    """What is neither a number nor a timedelta is an InvalidTypeError, bool and text included."""
    with pytest.raises(InvalidTypeError, match=r"^delay is a number of seconds, or a timedelta, not "):
        parse(duration)


@pytest.mark.parametrize("delay", [MIN_DELAY, 1, 0.0015, MAX_DELAY, timedelta(milliseconds=1), timedelta(days=24)])
def test_a_delay_that_can_be_kept(delay: float | timedelta) -> None:
    """From one millisecond to 2**31 - 1 of them, a delay is what was said."""
    assert parse_delay(delay) == parse_duration(delay)


@pytest.mark.parametrize("delay", [0, 0.0, 0.0009999, 1e-300, timedelta(), timedelta(microseconds=999)], ids=str)
def test_a_delay_that_is_too_short(delay: float | timedelta) -> None:
    """0, and less than a millisecond, are refused, with the reason and what to do."""
    with pytest.raises(InvalidValueError, match=r"0\.001 s or more, not .* no handler can act; .* without a hold"):
        parse_delay(delay)


@pytest.mark.parametrize(
    "delay", [MAX_DELAY + 0.001, 1e300, math.inf, HUGE, timedelta.max], ids=["max", "1e300", "inf", "huge", "days"]
)
def test_a_delay_that_is_too_long(delay: float | timedelta) -> None:
    """More milliseconds than a signed 32-bit number holds are refused, with the reason and what to do."""
    with pytest.raises(InvalidValueError, match=r"2147483\.647 s .* signed 32-bit .* for no limit, use None"):
        parse_delay(delay)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("10s", 10),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("1.5 min", 90),
        ("2min", 120),
        ("1h", 3600),
        (" 0s\n", 0),
        ("007s", 7),
        ("9" * 400, math.inf),
    ],
)
def test_a_duration_may_be_text_on_the_command_line(text: str, seconds: float) -> None:
    """A decimal number with ms, s, min or h, or of seconds."""
    assert parse_duration_text(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "s",
            "-1s",
            "+1s",
            "1 s 2",
            "1m",
            "1S",
            "10sec",
            "1d",
            "1e3",
            ".5s",
            "5.s",
            "1,5s",
            "1_0",
            "0x1",
        ),
        *("nan", "inf", "none", "1min30s", "\u0663s", "1\0", "1\u017f"),
    ],
)
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    """All else is an InvalidValueError that says what to write; so is "1m", which is minutes to some."""
    with pytest.raises(InvalidValueError, match=r"^total: .* is not a duration: .* such as 10s, 500ms or 1\.5min"):
        parse_duration_text(text, "total")


@given(st.integers(0, 10**9), st.sampled_from([("ms", 1000), ("s", 1), ("", 1)]))
def test_durations_in_text_are_exact(number: int, unit: tuple[str, int]) -> None:
    """Text gives what it says, as exactly as a float can."""
    assert parse_duration_text(f"{number}{unit[0]}") == pytest.approx(number / unit[1], rel=1e-15, abs=0)


def test_a_timedelta_is_known_without_importing_it() -> None:
    """The library itself does not import datetime, which takes time."""
    run_python(
        """
        import sys
        import memcg.units
        assert memcg.units.parse_delay(1) == 1
        assert "datetime" not in sys.modules
        import datetime
        assert memcg.units.parse_delay(datetime.timedelta(seconds=1)) == 1
        """
    )
