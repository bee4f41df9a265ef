"""What happened: one frozen dataclass for each kind of event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union, final

if TYPE_CHECKING:
    from ..cgroup import Cgroup
    from ..errors import MemcgError
    from .triggers import Stall, Trigger


@final
@dataclass(frozen=True, kw_only=True)
class OomEvent:
    """An OOM began: memory was charged beyond a limit, and could not be reclaimed.

    It says nothing of a kill. With the kernel's killer enabled, a `KernelKill` follows where the victim is of this
    group, and with several processes at the limit there are many more of these events than kills (8 processes
    have led to 81 to 280), since each that tries again is told again. With the killer switched off (v1), there is
    one event each time that the group gets stuck, and one more for each wake-up that helped nobody. Events that
    came between two reads are told as one, one for each limit that was hit.

    An OOM of the whole machine is no OOM of a group: of that, only the kills are told.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    under_oom: bool
    """Whether tasks of the group were stopped at that moment; with the killer enabled, mostly already False. On
    cgroup v2, where nobody is stopped but by a hold, it is False without one."""
    origin: Cgroup | None
    """The group whose limit was hit, this one or an ancestor. None where it cannot be known, because it is above
    what this process can see, or, on v1, is an ancestor that it may not subscribe to."""


@final
@dataclass(frozen=True, kw_only=True)
class KernelKill:
    """The kernel's OOM killer killed processes of the group, or of groups below. Each kill is told exactly once.

    On cgroup v1 it is counted some milliseconds after the OOM is told, and nothing tells of that: the subscription
    looks again on a timer until the count has moved. A kill in a group below, by that group's own limit, is told
    at once where that group existed when the subscription last looked, and with the next event otherwise. On v2
    the kernel itself counts what happens below, unless cgroup2 is mounted with ``memory_localevents``: then only
    kills in this very group are told.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg saw the count move, in seconds as `time.monotonic` has them."""
    count: int
    """How many processes."""
    groups: int = 0
    """On cgroup v2, how often the kernel killed a whole group (``memory.oom.group``), this one or one below. It
    counts the first victim of a group twice, unless that one is very quick to exit: *count* allows for that, and
    can so be 1 too low for each of these. For a whole group above it cannot, and may be 1 too high."""
    missed: bool = False
    """True where a hold on cgroup v2 was not in time. The group got from its line to its limit before it stood
    still."""


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
    """Somebody else has interfered with a hold, which is over. The last event of that hold.

    On cgroup v1, they wrote to the group's OOM switch. On v2, they lowered ``memory.high`` below the line at which
    the hold would stop the group, or moved a process of the guard into it. What they did is left as it is.
    """

    cgroup: Cgroup
    """The group that was held."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    reason: str
    """What was done, in words."""


@final
@dataclass(frozen=True, kw_only=True)
class Emptied:
    """The last process of the group, and of the groups below, is gone. What `Empty` leads to."""

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them; some 10 ms later."""


@final
@dataclass(frozen=True, kw_only=True)
class HighExceeded:
    """The group's usage was above its ``memory.high``. What `HighLimit` leads to.

    The kernel tells of it as long as that lasts, up to 100 times a second.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    count: int
    """How often processes were made to reclaim since the last of these; it may be 17 for one that had to sleep."""


@final
@dataclass(frozen=True, kw_only=True)
class Stalled:
    """Processes of the group had to wait for memory. What `Stall` leads to, once in each window at most."""

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    trigger: Stall
    """How long they had to wait, within which time."""


@final
@dataclass(frozen=True, kw_only=True)
class SystemStalled:
    """Processes of the machine had to wait for memory. Told by `System.subscribe`, once in a window at most."""

    time: float
    """When memcg heard of it, in seconds as `time.monotonic` has them."""
    trigger: Stall
    """How long they had to wait, within which time."""


@final
@dataclass(frozen=True, kw_only=True)
class WatchFailed:
    """One trigger can be served no longer, though the group is still there; the others go on.

    So it is where the files that tell of it went: by writing 0 to ``cgroup.pressure``, or by taking the memory
    controller away from the group.
    """

    cgroup: Cgroup
    """The group that was subscribed to."""
    time: float
    """When memcg found out, in seconds as `time.monotonic` has them."""
    trigger: Trigger
    """The trigger."""
    error: MemcgError
    """What is wrong, as an error that can be raised."""


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
    after an OOM. On cgroup v2, where the counters go at once, it is also False where that may be, as somebody was
    killed in another group below the same parent."""


# Aliases that Sphinx and Python 3.10 can name.
Event = Union[OomEvent, KernelKill, Emptied, HighExceeded, Stalled, WatchFailed, Removed]  # noqa: UP007
"""All that `Cgroup.subscribe` can yield; closed, so that `typing.assert_never` proves a match complete."""

OomNews = Union[OomEvent, KernelKill, Removed]  # noqa: UP007
"""What a hold takes from the kernel."""

HoldEvent = Union[OomEvent, OomResolved, DelayExpired, KernelKill, Overridden, Removed]  # noqa: UP007
"""All that a hold can yield; closed, so that `typing.assert_never` proves a match complete."""
