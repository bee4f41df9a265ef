"""What happened: one frozen dataclass for each kind of event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union, final

if TYPE_CHECKING:
    from ..cgroup import Cgroup


@final
@dataclass(frozen=True, kw_only=True)
class OomEvent:
    """An OOM began: memory was charged beyond a limit, and could not be reclaimed.

    It says nothing of a kill. With the kernel's killer enabled, a `KernelKill` follows where the victim is of this
    group, and with several processes at the limit there are many more of these events than kills (8 processes
    have led to 81 to 280), since each that tries again is told again. With the killer switched off, there is one
    event each time that the group gets stuck, and one more for each wake-up that helped nobody. Events that came
    between two reads are told as one.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    under_oom: bool
    """Whether tasks of the group were stopped at that moment; with the killer enabled, mostly already False."""
    origin: Cgroup | None
    """The group whose limit was hit, this one or an ancestor. None where it cannot be known, because it is above
    what this process can see, or is an ancestor that it may not subscribe to."""


@final
@dataclass(frozen=True, kw_only=True)
class KernelKill:
    """The kernel's OOM killer killed processes of the group, or of groups below. Each kill is told exactly once.

    On cgroup v1 it is counted some milliseconds after the OOM is told, and nothing tells of that: the subscription
    looks again on a timer until the count has moved. A kill in a group below, by that group's own limit, is told
    at once where that group existed when the subscription last looked, and with the next event otherwise.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg saw the count move, in seconds as `time.monotonic` has them."""
    count: int
    """How many processes."""


@final
@dataclass(frozen=True, kw_only=True)
class OomResolved:
    """An OOM under a hold is over, and the delay did not run out: there was room again, or nobody left to need it.

    On cgroup v1 the kernel tells of no such end, and an OOM is taken to be over when there has been none for a
    while. So this comes some time after `time`.
    """

    cgroup: Cgroup
    """The group that is held."""
    time: float
    """When the group was first seen out of it, in seconds as `time.monotonic` has them."""


@final
@dataclass(frozen=True, kw_only=True)
class DelayExpired:
    """The delay of a hold ran out before the OOM was over, and the kernel's OOM killer was switched on.

    On cgroup v1 it is told when that OOM is over, so that the kills are known. They are in no `KernelKill`.
    """

    cgroup: Cgroup
    """The group that is held."""
    time: float
    """When the killer was switched on, in seconds as `time.monotonic` has them."""
    kills: int
    """How many processes it then killed. 0 where it could kill none, or memory came back at the last moment."""
    count: int = 1
    """How many expiries this tells of; more than one only where nobody took events meanwhile. Then `time` is that
    of the last, and `kills` the sum."""


@final
@dataclass(frozen=True, kw_only=True)
class Overridden:
    """Somebody else wrote to the group's OOM switch during a hold, which is over. The last event of that hold.

    What they wrote is left as it is.
    """

    cgroup: Cgroup
    """The group that was held."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""


@final
@dataclass(frozen=True, kw_only=True)
class Removed:
    """The group was removed. The last event of a subscription, and of a hold."""

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them; on cgroup v1 some 30 to 150 ms later."""
    counts_final: bool
    """Whether all kills have been told. False where the group, and its counters, went before they could be read
    after an OOM."""


# Aliases that Sphinx and Python 3.10 can name.
Event = Union[OomEvent, KernelKill, Removed]  # noqa: UP007
"""All that `OomController.subscribe` can yield; closed, so that `typing.assert_never` proves a match complete."""

HoldEvent = Union[OomEvent, OomResolved, DelayExpired, KernelKill, Overridden, Removed]  # noqa: UP007
"""All that a hold can yield; closed, so that `typing.assert_never` proves a match complete."""
