"""Triggers as values: what they take, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest

import memcg
from memcg import Empty, HighLimit, InvalidTypeError, InvalidValueError, Oom, Stall
from memcg.notify.triggers import check_triggers


def test_triggers_are_values() -> None:
    """Two of the same kind and numbers are equal, and can be the keys of a dict."""
    assert Oom() == Oom()
    assert Stall("some", stall=1, window=2) == Stall("some", stall=1.0, window=2.0)
    assert Stall("some") != Stall("full")
    assert len({Oom(), Oom(), Empty(), HighLimit(), Stall("some"), Stall("some")}) == 4


@pytest.mark.parametrize("trigger", [Oom(), Empty(), HighLimit(), Stall("full", stall=0.1, window=2)])
def test_triggers_cannot_be_changed(trigger: memcg.Trigger) -> None:
    """What was subscribed to stays what it is."""
    for name in [field.name for field in dataclasses.fields(trigger)] or ["anything"]:
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
            setattr(trigger, name, 1)


def test_the_numbers_of_a_stall() -> None:
    """Whole numbers become seconds like all others; the widest and the narrowest are taken."""
    stall = Stall("some", stall=1, window=10)
    assert (stall.stall, stall.window) == (1.0, 10.0)
    assert isinstance(stall.stall, float)
    assert Stall("full", stall=0.000_001, window=0.000_001).window == 0.000_001
    assert Stall("full") == Stall("full", stall=0.15, window=1.0)


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        ("SOME", {}, "'some' or 'full'"),
        ("some ", {}, "'some' or 'full'"),
        (None, {}, "'some' or 'full'"),
        ("some", {"stall": 0}, "a microsecond or more"),
        ("some", {"stall": -1}, "stall is a number of seconds from 0 up"),
        ("some", {"stall": 1.1}, "does not fit into a window of 1.0 s"),
        ("some", {"window": 0.1}, "does not fit into a window of 0.1 s"),
        ("some", {"stall": 1e-7, "window": 1e-7}, "a microsecond or more"),
        ("some", {"window": 10.5}, "10 s or less"),
        ("some", {"window": float("inf")}, "10 s or less"),
        ("some", {"window": float("nan")}, "window is a number of seconds"),
    ],
)
def test_a_stall_that_no_kernel_takes(kind: str, numbers: dict[str, float], message: str) -> None:
    """What the kernel would refuse, or take for something else, is refused at once, with what can be."""
    with pytest.raises(InvalidValueError, match=message):
        Stall(kind, **numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["1", None, True, [1]])
def test_a_stall_of_the_wrong_type(wrong: float) -> None:
    """Seconds are numbers."""
    for name in ("stall", "window"):
        with pytest.raises(InvalidTypeError, match=name):
            Stall("some", **{name: wrong})


def test_triggers_that_are_given_twice_count_once() -> None:
    """The order stays, repetitions go."""
    assert check_triggers((Empty(), Oom(), Empty(), Oom())) == (Empty(), Oom())


@pytest.mark.parametrize("wrong", [Oom, "oom", None, memcg.OomEvent])
def test_what_is_no_trigger(wrong: memcg.Trigger) -> None:
    """A class, a name or an event is no trigger; the message has those that there are."""
    with pytest.raises(InvalidTypeError, match=r"one of Oom\(\), Empty\(\), HighLimit\(\), Stall\(\), not"):
        check_triggers((Oom(), wrong))


def test_no_trigger_at_all() -> None:
    """Subscribing to nothing is a mistake."""
    with pytest.raises(InvalidValueError, match=r"say what to wait for.*Oom\(\)"):
        check_triggers(())
