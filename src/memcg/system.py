"""The machine as a whole."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, final

from .controls.pressure import Pressure
from .errors import InvalidTypeError, InvalidValueError, shown
from .fd import OwnedFd
from .notify.events import SystemStalled
from .notify.psi import PressureTrigger, psi_errors
from .notify.subscription import Subscription
from .notify.triggers import Stall

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRESSURE: Final = "/proc/pressure/memory"


@final
class System:
    """The machine as a whole: ``memcg.system``. It is not a `Cgroup`, and needs none; nor a version of cgroup."""

    __slots__ = ()

    @property
    def pressure(self) -> Pressure:
        """How long processes of the machine had to wait for memory.

        Raises:
            NotSupportedError: the kernel does not account for it.

        Kernel: Documentation/accounting/psi.rst, ``/proc/pressure/memory``.
        """
        with psi_errors(_PRESSURE), open(_PRESSURE, "rb") as file:
            return Pressure.parse(file.read())

    def subscribe(self, *triggers: Stall) -> Subscription[SystemStalled]:
        """Tells, from now on, when processes of the machine have to wait for memory. ::

            with memcg.system.subscribe(memcg.Stall("some", stall=0.2, window=2)) as events:
                for event in events:
                    ...

        Args:
            triggers: One or more. Where it is for lack of CAP_SYS_RESOURCE, a window is 2, 4, 6, 8 or 10 seconds.

        Raises:
            InvalidValueError: this kernel, or this user, cannot have such a window; the message says which.
            NotSupportedError: the kernel does not account for pressure.
            AccessDeniedError: without CAP_SYS_RESOURCE, before Linux 6.4.
            TooManyOpenFilesError: no file descriptor is left; it takes two, and two for each trigger.
        """
        for trigger in triggers:
            if not isinstance(trigger, Stall):
                raise InvalidTypeError(f"of the machine, the kernel tells Stall() alone, not {shown(trigger)}")
        if not triggers:
            raise InvalidValueError("say what to wait for: one or more of Stall()")
        return Subscription(_SystemSource(tuple(dict.fromkeys(triggers))))

    def __repr__(self) -> str:
        return "memcg.system"


system: Final = System()
"""The machine as a whole."""


@final
class _SystemSource:
    """Stalls of the machine."""

    group: None = None
    over: None = None
    due: None = None

    def __init__(self, triggers: Sequence[Stall]) -> None:
        self._triggers: list[PressureTrigger] = []
        with contextlib.ExitStack() as files:
            for trigger in triggers:
                with psi_errors(_PRESSURE):
                    file = OwnedFd(os.open(_PRESSURE, os.O_RDWR | os.O_CLOEXEC))
                watch = PressureTrigger(trigger, file, _PRESSURE)
                self._triggers.append(files.enter_context(contextlib.closing(watch)))
            self._files = files.pop_all()

    def files(self) -> list[tuple[int, int]]:
        return [file for trigger in self._triggers for file in trigger.files()]

    def collect(self, ready: list[int] | None) -> list[SystemStalled]:
        now = time.monotonic()
        return [SystemStalled(time=now, trigger=each.trigger) for each in self._triggers if each.fired(ready)]

    def close(self) -> None:
        self._files.close()
