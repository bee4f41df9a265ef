"""Take over out-of-memory handling for a group of processes on Linux.

Importing this opens no file, and starts no process and no thread.
"""

import sys

if sys.platform != "linux":
    raise ImportError("memcg works with control groups, which only Linux has")

from .cgroup import Cgroup, CgroupV1, Counter, current, of, open, root
from .cgroupfs.files import (
    CommandFile,
    ControlFile,
    EventControlFile,
    EventSource,
    LimitFile,
    Register,
    WritableControlFile,
)
from .controls.stat import Bytes, Count, MemoryStat, MemoryStatV1, NumaStatV1, OomControlV1, Pages
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
from .notify.events import DelayExpired, Event, HoldEvent, KernelKill, OomEvent, OomResolved, Overridden, Removed
from .notify.subscription import Process, Subscription, Until
from .oom.control import OomController
from .oom.guard import Locked
from .oom.hold import Hold, HoldState, Rearm
from .pidfd import PidFD
from .spawn import PopenOptions
from .temporary import temporary
from .units import GiB, KiB, MiB, format_size, parse_size

__all__ = (
    "AccessDeniedError",
    "AlreadyHeldError",
    "BusyError",
    "Bytes",
    "Cgroup",
    "CgroupBusyError",
    "CgroupExistsError",
    "CgroupNotFoundError",
    "CgroupRemovedError",
    "CgroupV1",
    "ClosedError",
    "CommandFile",
    "ControlFile",
    "ControlFileMissingError",
    "Count",
    "Counter",
    "DelayExpired",
    "Event",
    "EventControlFile",
    "EventFD",
    "EventSource",
    "FormatError",
    "GiB",
    "GuardLostError",
    "Hold",
    "HoldError",
    "HoldEvent",
    "HoldState",
    "InsideHeldGroupError",
    "InvalidTypeError",
    "InvalidValueError",
    "KernelError",
    "KernelKill",
    "KiB",
    "KillerDisabledError",
    "LimitBelowUsageError",
    "LimitFile",
    "Locked",
    "MemcgError",
    "MemoryStat",
    "MemoryStatV1",
    "MiB",
    "NoLimitError",
    "NoMemoryControllerError",
    "NotACgroupError",
    "NotSupportedError",
    "NumaStatV1",
    "OomControlV1",
    "OomController",
    "OomEvent",
    "OomResolved",
    "Overridden",
    "OwnedFd",
    "Pages",
    "PidFD",
    "PopenOptions",
    "Process",
    "ProcessNotFoundError",
    "Rearm",
    "Register",
    "Removed",
    "Subscription",
    "TooManyOpenFilesError",
    "Until",
    "WaitTimeoutError",
    "WritableControlFile",
    "current",
    "format_size",
    "of",
    "open",
    "parse_size",
    "root",
    "temporary",
)

# What is public is memcg's, wherever it is defined: in tracebacks, in pickles and in the documentation.
for _name in __all__:
    _thing = globals()[_name]
    if getattr(_thing, "__module__", "").startswith("memcg."):
        _thing.__module__ = "memcg"
del _name, _thing
