"""Take over out-of-memory handling for a group of processes on Linux.

Importing this opens no file, and starts no process and no thread.
"""

import sys

if sys.platform != "linux":
    raise ImportError("memcg works with control groups, which only Linux has")

from .cgroup import Cgroup, CgroupV1, CgroupV2, Counter, current, of, open, root
from .cgroupfs.files import (
    CommandFile,
    ControlFile,
    EventControlFile,
    EventSource,
    LimitFile,
    Reclaim,
    ReclaimFile,
    Register,
    WritableControlFile,
)
from .controls.peak import Peak
from .controls.pressure import CpuPressure, IrqPressure, Percent, Pressure, PressureLine, Seconds
from .controls.stat import Bytes, Count, MemoryStat, MemoryStatV1, NumaStatV1, OomControlV1, Pages
from .controls.stat_v2 import (
    CgroupEvents,
    CgroupStat,
    CgroupStatLocal,
    MemoryEvents,
    MemoryStatV2,
    Microseconds,
    NumaStatV2,
    SwapEvents,
)
from .errors import (
    AccessDeniedError,
    AlreadyHeldError,
    BusyError,
    CgroupBusyError,
    CgroupExistsError,
    CgroupNotFoundError,
    CgroupRemovedError,
    ClosedError,
    ControlFileMissingError,
    FormatError,
    GuardLostError,
    HoldError,
    InsideHeldGroupError,
    InternalProcessesError,
    InvalidTypeError,
    InvalidValueError,
    KernelError,
    KillerDisabledError,
    LimitBelowUsageError,
    MemcgError,
    NoLimitError,
    NoMemoryControllerError,
    NotACgroupError,
    NotSupportedError,
    ProcessNotFoundError,
    TooManyOpenFilesError,
    WaitTimeoutError,
)
from .eventfd import EventFD
from .fd import OwnedFd
from .notify.events import (
    DelayExpired,
    Emptied,
    Event,
    HighExceeded,
    HoldEvent,
    KernelKill,
    OomEvent,
    OomResolved,
    Overridden,
    Removed,
    Stalled,
    SystemStalled,
    WatchFailed,
)
from .notify.subscription import Process, Subscription, Until
from .notify.triggers import Empty, HighLimit, Oom, Stall, Trigger
from .oom.control import OomController
from .oom.guard import Locked
from .oom.hold import Hold, HoldState, Rearm
from .pidfd import PidFD
from .spawn import PopenOptions
from .system import System, system
from .temporary import temporary
from .units import GiB, KiB, MiB, format_size, parse_size

__all__ = (
    "AccessDeniedError",
    "AlreadyHeldError",
    "BusyError",
    "Bytes",
    "Cgroup",
    "CgroupBusyError",
    "CgroupEvents",
    "CgroupExistsError",
    "CgroupNotFoundError",
    "CgroupRemovedError",
    "CgroupStat",
    "CgroupStatLocal",
    "CgroupV1",
    "CgroupV2",
    "ClosedError",
    "CommandFile",
    "ControlFile",
    "ControlFileMissingError",
    "Count",
    "Counter",
    "CpuPressure",
    "DelayExpired",
    "Emptied",
    "Empty",
    "Event",
    "EventControlFile",
    "EventFD",
    "EventSource",
    "FormatError",
    "GiB",
    "GuardLostError",
    "HighExceeded",
    "HighLimit",
    "Hold",
    "HoldError",
    "HoldEvent",
    "HoldState",
    "InsideHeldGroupError",
    "InternalProcessesError",
    "InvalidTypeError",
    "InvalidValueError",
    "IrqPressure",
    "KernelError",
    "KernelKill",
    "KiB",
    "KillerDisabledError",
    "LimitBelowUsageError",
    "LimitFile",
    "Locked",
    "MemcgError",
    "MemoryEvents",
    "MemoryStat",
    "MemoryStatV1",
    "MemoryStatV2",
    "MiB",
    "Microseconds",
    "NoLimitError",
    "NoMemoryControllerError",
    "NotACgroupError",
    "NotSupportedError",
    "NumaStatV1",
    "NumaStatV2",
    "Oom",
    "OomControlV1",
    "OomController",
    "OomEvent",
    "OomResolved",
    "Overridden",
    "OwnedFd",
    "Pages",
    "Peak",
    "Percent",
    "PidFD",
    "PopenOptions",
    "Pressure",
    "PressureLine",
    "Process",
    "ProcessNotFoundError",
    "Rearm",
    "Reclaim",
    "ReclaimFile",
    "Register",
    "Removed",
    "Seconds",
    "Stall",
    "Stalled",
    "Subscription",
    "SwapEvents",
    "System",
    "SystemStalled",
    "TooManyOpenFilesError",
    "Trigger",
    "Until",
    "WaitTimeoutError",
    "WatchFailed",
    "WritableControlFile",
    "current",
    "format_size",
    "of",
    "open",
    "parse_size",
    "root",
    "system",
    "temporary",
)

# What is public is memcg's, wherever it is defined: in tracebacks, in pickles and in the documentation.
for _name in __all__:
    _thing = globals()[_name]
    if getattr(_thing, "__module__", "").startswith("memcg."):
        _thing.__module__ = "memcg"
del _name, _thing
