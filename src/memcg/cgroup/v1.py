"""Groups of cgroup v1."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, NoReturn, final

from ..cgroupfs.files import ControlFile
from ..cgroupfs.formats import parse_new_limit
from ..controls.v1 import ControlFilesV1
from ..errors import CgroupNotFoundError, ControlFileMissingError, InvalidValueError, NotSupportedError, shown
from ..notify.subscription import Subscription
from ..notify.triggers import check_triggers
from ..notify.v1 import source_v1
from ..oom.control import OomControllerV1
from ..units import Deadline
from .base import PATIENCE, Cgroup
from .emptying import check_outside, kill_one_by_one

if TYPE_CHECKING:
    from ..notify.events import Event
    from ..notify.triggers import Trigger
    from ..oom.control import OomController

Counter = Literal["memory", "memsw", "kmem", "kmem.tcp"]
"""What is counted, which is memory, memory with swap, kernel memory, or TCP buffers."""


@final
class CgroupV1(ControlFilesV1, Cgroup):
    """A group of the memory hierarchy of cgroup v1, with every control file as an attribute.

    Kernel: Documentation/admin-guide/cgroup-v1/memory.rst and cgroups.rst.
    """

    __slots__ = ()

    def processes(self) -> tuple[int, ...]:
        # 0 stands for a process of another PID namespace, and to kill(2) for one's own process group.
        return tuple(sorted(set(self.cgroup_procs) - {0}))

    @property
    def populated(self) -> bool:
        for group in self.walk():
            with contextlib.suppress(CgroupNotFoundError):
                if group.cgroup_procs:
                    return True
        return False

    def kill(self, *, timeout: float | None = PATIENCE) -> None:
        deadline = Deadline(timeout)
        check_outside(self, "kill")
        kill_one_by_one(self, deadline)

    def freeze(self, *, timeout: float | None = PATIENCE) -> NoReturn:
        raise _no_freezer(self)

    def thaw(self) -> NoReturn:
        raise _no_freezer(self)

    @property
    def usage(self) -> int:
        return self.usage_in_bytes

    @property
    def peak(self) -> int:
        return self.max_usage_in_bytes

    @property
    def limit(self) -> int | None:
        return self.limit_in_bytes

    @limit.setter
    def limit(self, limit: int | str | None) -> None:
        new = parse_new_limit(limit)
        former_memsw = self._make_room(new)
        try:
            self.limit_in_bytes = new
        except BaseException:
            if former_memsw is not None:
                self.memsw_limit_in_bytes = former_memsw
            raise

    def _make_room(self, limit: int | None) -> int | None:
        """Raises the limit on memory with swap where it is in the way of *limit*, and returns what it was."""
        try:
            memsw = self.memsw_limit_in_bytes
        except ControlFileMissingError:  # no swap accounting
            return None
        if memsw is None or (limit is not None and limit <= memsw):
            return None
        former = self.limit_in_bytes
        self.memsw_limit_in_bytes = None if limit is None or former is None else memsw + limit - former
        return memsw

    @property
    def pressure(self) -> NoReturn:
        raise NotSupportedError(
            f"cgroup v1 does not account for the pressure on {self.path}: for the whole machine, /proc/pressure/"
            f"memory has it"
        )

    def reclaim(self, nbytes: int | str) -> NoReturn:
        raise NotSupportedError(
            f"cgroup v1 cannot reclaim an amount from {self.path}: force_empty() reclaims all that it can"
        )

    @property
    def oom(self) -> OomController:
        return OomControllerV1(self)

    def subscribe(self, *triggers: Trigger) -> Subscription[Event]:
        return Subscription(source_v1(self, check_triggers(triggers)))

    def reset_max_usage(self, counter: Counter = "memory") -> None:
        """Sets ``max_usage_in_bytes`` to what is used now; with *counter*, that of another counter."""
        self._reset(counter, "max_usage_in_bytes")

    def reset_failcnt(self, counter: Counter = "memory") -> None:
        """Sets ``failcnt`` to 0; with *counter*, that of another counter."""
        self._reset(counter, "failcnt")

    def _reset(self, counter: Counter, file: str) -> None:
        prefixes = {"memory": "", "memsw": "memsw_", "kmem": "kmem_", "kmem.tcp": "kmem_tcp_"}
        if not isinstance(counter, str) or counter not in prefixes:
            raise InvalidValueError(f"a counter is one of {', '.join(prefixes)}, not {shown(counter)}")
        control: ControlFile[int] = getattr(CgroupV1, prefixes[counter] + file)
        control._write(self, b"0")


def _no_freezer(group: Cgroup) -> NotSupportedError:
    return NotSupportedError(
        f"the memory hierarchy of cgroup v1 cannot freeze {group.path}: its freezer is a hierarchy of its own"
    )
