"""``memcg delay``: holds a group in the foreground, so that each OOM is left to others for a while."""

from __future__ import annotations

import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING

from .. import cgroup
from ..errors import ClosedError
from ..notify.events import DelayExpired, KernelKill, OomEvent, OomResolved, Overridden, Removed
from .printing import printable
from .service import notify
from .stopper import Stopper

if TYPE_CHECKING:
    from ..notify.events import HoldEvent
    from ..oom.hold import Hold

INTERRUPTED = 128 + signal.SIGINT

EPILOG = """exit status:
  0    ended by SIGTERM or SIGHUP, or the group was removed
  1    the group cannot be held, or is held no longer: the message says why
  130  ended by Ctrl-C

Where NOTIFY_SOCKET is set, the service manager is told when the group is held (Type=notify)."""


def delay(path: str, seconds: float, *, total: float | None, once: bool, takeover: bool) -> int:
    """Holds the group at *path* until that ends, or a signal ends it; the exit status."""
    group = cgroup.open(path)
    shown = printable(group.cgroup_path)
    overridden: Overridden | None = None
    with Stopper() as stopper:
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                hold = group.oom.hold(seconds, total=total, rearm="once" if once else "episode", takeover=takeover)
            with hold, stopper.ends(hold):
                for warning in warned:
                    print(f"memcg: {warning.message}", file=sys.stderr)
                _tell(time.monotonic(), f"{shown} is held: each OOM has {seconds:g} s before the kernel kills")
                notify("READY=1", f"STATUS={shown} is held, no OOM")
                for event in hold:
                    if isinstance(event, Overridden):
                        overridden = event
                    text = _describe(event, hold)
                    _tell(event.time, f"{type(event).__name__}: {text}")
                    notify(f"STATUS={shown}: {text}")
        except ClosedError:
            if not stopper.signal:
                raise
        notify("STOPPING=1")
        if stopper.signal:
            _tell(time.monotonic(), f"{shown} is held no longer: the kernel's OOM killer is on again")
            return INTERRUPTED if stopper.signal == signal.SIGINT else 0
    if overridden:
        print(f"memcg: the hold is over, since {overridden.reason}", file=sys.stderr)
    return 1 if overridden else 0


def _describe(event: HoldEvent, hold: Hold) -> str:
    match event:
        case OomEvent() if event.origin not in (None, event.cgroup):
            return f"out of memory, by the limit of {printable(event.origin.cgroup_path)}: not delayed here"
        case OomEvent():
            deadline = hold.deadline
            left = "" if deadline is None else f", {max(0.0, deadline - time.monotonic()):.1f} s left"
            return f"out of memory{left}"
        case OomResolved():
            return "there is memory again"
        case DelayExpired():
            return f"the delay ran out, and the kernel killed {_processes(event.kills)}"
        case KernelKill():
            return f"the kernel killed {_processes(event.count)}"
        case Overridden():
            return event.reason
        case Removed():
            return "the group was removed"


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number or 'no'} processes"


def _tell(moment: float, text: str) -> None:
    """Prints a line with the time of day of a *moment* of the monotonic clock."""
    seconds = time.time() - (time.monotonic() - moment)
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    print(f"{day}.{int(seconds % 1 * 1000):03}  {text}", flush=True)
