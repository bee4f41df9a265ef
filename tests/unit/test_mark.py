"""The text of the mark of a hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcg.oom.marks import Mark

WHOLE = b"guard=7 start=8 owner=9 delay=1500000000 switch=memory.oom_control"
LIMITS = b" limit=4096 memsw=-1 raised=8192 raised_memsw=0"


def test_what_a_guard_writes() -> None:
    """Each key is read into its place, with the delay in seconds."""
    known = Mark(guard=7, start=8, owner=9, delay=1.5, switch="memory.oom_control")
    assert Mark.parse(WHOLE) == known
    raised = known._replace(limit=4096, memsw=-1, raised=8192, raised_memsw=0)
    assert Mark.parse(WHOLE + LIMITS) == raised


def test_a_hold_without_a_limit_of_time() -> None:
    """A delay of 0 stands for none."""
    assert Mark.parse(b"delay=0").delay is None


def test_the_kernels_own_delay() -> None:
    """The switch is one of the two files that there are."""
    assert Mark.parse(b"switch=memory.oom_delay_millisecs").switch == "memory.oom_delay_millisecs"


def test_keys_in_any_order_and_unknown_ones() -> None:
    """What a later version adds, or orders otherwise, does not matter."""
    words = WHOLE.split()
    assert Mark.parse(b" ".join([b"color=blue", *reversed(words), b"x", b"=", b"y="])) == Mark.parse(WHOLE)


@pytest.mark.parametrize(
    "word",
    [
        *(b"guard=", b"guard=x", b"guard=-1", b"guard=-5", b"guard=1.0", b"guard=0x7", b"guard=1_0", b"guard= 7"),
        *(b"guard=7\n", b"guard=\xb2", b"guard=" + b"9" * 20, b"guard=" + b"9" * 5000, b"GUARD=7", b"guard\0=7"),
    ],
)
def test_a_number_that_is_none(word: bytes) -> None:
    """A guard that cannot be read is an unknown one, and the rest is still read."""
    mark = Mark.parse(word + b" owner=9")
    assert (mark.guard, mark.owner) == (0, 9)


@pytest.mark.parametrize("switch", [b"", b"../../etc/passwd", b"memory.limit_in_bytes", b"/memory.oom_control"])
def test_a_switch_that_is_none(switch: bytes) -> None:
    """No mark leads anybody to write to any other file."""
    assert Mark.parse(b"switch=" + switch).switch == "memory.oom_control"


@given(st.binary() | st.text("guardstowneliymp=_ -0123456789x").map(str.encode))
def test_any_bytes_are_a_mark(data: bytes) -> None:
    """Whatever is there, it can be read."""
    mark = Mark.parse(data)
    assert min(mark.guard, mark.start, mark.owner) >= 0
    assert mark.delay is None or mark.delay > 0
    assert mark.switch in ("memory.oom_control", "memory.oom_delay_millisecs")
    assert all(value is None or value >= -1 for value in (mark.limit, mark.raised, mark.memsw, mark.raised_memsw))
