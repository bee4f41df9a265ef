"""What to wait for: one frozen dataclass for each kind of trigger."""

from dataclasses import dataclass, field
from typing import Literal, Union, final, get_args

from ..errors import InvalidTypeError, InvalidValueError, shown
from ..units import parse_seconds

MAX_WINDOW = 10.0
"""The longest window that the kernel takes, in seconds."""


@final
@dataclass(frozen=True)
class Oom:
    """An OOM by the group's own limit or an ancestor's, and kills by the kernel in the group or below.

    It leads to `OomEvent` and `KernelKill`. On both versions of cgroup.
    """


@final
@dataclass(frozen=True)
class Empty:
    """The last process of the group and of all groups below is gone; leads to `Emptied`. On cgroup v2."""


@final
@dataclass(frozen=True)
class HighLimit:
    """The group's usage is above its ``memory.high``, and it is throttled for that; leads to `HighExceeded`.

    Only by the group's own limit, also where it is a process of a group below that went there. On cgroup v2.
    """


@final
@dataclass(frozen=True)
class Stall:
    """Processes had to wait for memory for too large a part of the time; leads to `Stalled`. On cgroup v2.

    For the whole machine, on either version, there is `System.subscribe`. This is what notices a group that
    thrashes: that is at its limit and reclaims all the time, without an OOM.

    Args:
        kind: "some" for time in which at least one process waited, "full" for time in which none could do anything
            else.
        stall: How much such time, in seconds.
        window: Within how much time, in seconds, 10 at most. Before Linux 6.4 it is 0.5 at least; without the
            capability CAP_SYS_RESOURCE it has to be a multiple of 2.

    Raises:
        InvalidValueError: something is out of range; the message says what can be.

    Kernel: Documentation/accounting/psi.rst, "Monitoring for pressure thresholds".
    """

    kind: Literal["some", "full"]
    stall: float = field(default=0.15, kw_only=True)
    window: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.kind not in ("some", "full"):
            raise InvalidValueError(f"the kind of a stall is 'some' or 'full', not {shown(self.kind)}")
        for name in ("stall", "window"):
            seconds = parse_seconds(getattr(self, name), name)
            object.__setattr__(self, name, seconds)
            if seconds < 0.000_001:
                raise InvalidValueError(f"{name} is a microsecond or more, not {seconds} s")
        if self.window > MAX_WINDOW:
            raise InvalidValueError(f"window is {MAX_WINDOW:g} s or less, not {self.window} s")
        if self.stall > self.window:
            raise InvalidValueError(f"a stall of {self.stall} s does not fit into a window of {self.window} s")


# An alias that Sphinx and Python 3.10 can name.
Trigger = Union[Oom, Empty, HighLimit, Stall]  # noqa: UP007
"""All that `Cgroup.subscribe` takes."""


def check_triggers(triggers: tuple[Trigger, ...]) -> tuple[Trigger, ...]:
    """The *triggers*, each once, having refused what is none.

    Raises:
        InvalidTypeError: one is no trigger.
        InvalidValueError: there is none.
    """
    names = ", ".join(f"{kind.__name__}()" for kind in get_args(Trigger))
    for trigger in triggers:
        if not isinstance(trigger, get_args(Trigger)):
            raise InvalidTypeError(f"a trigger is one of {names}, not {shown(trigger)}")
    if not triggers:
        raise InvalidValueError(f"say what to wait for: one or more of {names}")
    return tuple(dict.fromkeys(triggers))
