"""What a subscription needs to have something to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import TypeVar

    from ..cgroup import Cgroup
    from .events import Event, OomNews

    # So that `Subscription` alone stands for one of `Event`, as most are.
    Told = TypeVar("Told", covariant=True, default=Event)
else:
    from typing import TypeVar

    Told = TypeVar("Told", covariant=True)  # which takes a default from Python 3.13 on


class Source(Protocol[Told]):
    """What a subscription needs of that which owns the kernel's files, and makes events of what they signal."""

    @property
    def group(self) -> Cgroup | None:
        """The group that is told of; None is the machine as a whole."""

    @property
    def over(self) -> str | None:
        """Once the last event has been told, why there are no more, as a message says it; None until then."""

    @property
    def due(self) -> float | None:
        """When to look though nothing is signalled, in seconds as `time.monotonic` has them."""

    def files(self) -> Iterable[tuple[int, int]]:
        """The files to wait for, each with the events of epoll(7) to wait for there."""

    def collect(self, ready: list[int] | None) -> Sequence[Told]:
        """The events behind the files that are *ready*; None stands for all, for a last, thorough look.

        Among them can be files of the subscription, such as the timer that *due* sets.
        """

    def close(self) -> None:
        """Closes the files; called once, when nobody uses them any more."""


class OomSource(Protocol):
    """A source of what a hold needs to know of the kernel; it is of use to a subscription too."""

    @property
    def group(self) -> Cgroup:
        """The group that is told of."""

    @property
    def over(self) -> str | None:
        """As `Source` has it."""

    @property
    def due(self) -> float | None:
        """As `Source` has it."""

    @property
    def under_oom(self) -> bool:
        """Whether the group was under OOM at the last look; on cgroup v2 never."""

    def files(self) -> list[tuple[int, int]]:
        """As `Source` has it."""

    def collect(self, ready: list[int] | None) -> list[OomNews]:
        """As `Source` has it."""

    def close(self) -> None:
        """As `Source` has it."""
