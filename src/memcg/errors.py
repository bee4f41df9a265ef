"""Every error that memcg raises, as one tree.

::

    MemcgError
    ├── InvalidValueError (ValueError)             an argument that means nothing, or not what it seems to
    ├── InvalidTypeError (TypeError)               an argument of the wrong type
    ├── FormatError (ValueError)                   a kernel file that does not read as documented
    ├── WaitTimeoutError (TimeoutError)            the time given to a blocking call is up
    ├── ClosedError                                used after close()
    ├── BusyError                                  a second waiter where there can be only one
    ├── NotSupportedError                          this kernel, or this version of cgroup, cannot do it
    │   └── ControlFileMissingError (FileNotFoundError)
    ├── NoMemoryControllerError                    no mounted hierarchy has the memory controller
    ├── NotACgroupError                            a path outside the hierarchy of the memory controller
    ├── HoldError                                  a group cannot be held, or is held no longer
    │   ├── NoLimitError                           no limit of its own, so no OOM of its own
    │   ├── InsideHeldGroupError                   this process is in the group, and would be stopped with it
    │   ├── AlreadyHeldError                       somebody else holds it; has guard and owner
    │   ├── KillerDisabledError                    the OOM killer is off already, by somebody else's will
    │   └── GuardLostError                         the guard process is gone; all was put back as it was
    └── KernelError (OSError)                      the kernel refused; has errno and filename
        ├── CgroupNotFoundError (FileNotFoundError)       ENOENT
        │   └── CgroupRemovedError                        ENODEV: there once, removed since
        ├── CgroupExistsError (FileExistsError)           EEXIST
        ├── AccessDeniedError (PermissionError)           EACCES, EPERM, EROFS
        ├── ProcessNotFoundError (ProcessLookupError)     ESRCH
        ├── CgroupBusyError                               EBUSY
        │   ├── LimitBelowUsageError
        │   └── InternalProcessesError                    cgroup v2: processes, or children with controllers
        └── TooManyOpenFilesError                         EMFILE, ENFILE

Where there is an errno, the class is also the ``OSError`` that Python has for it, so ``except PermissionError``
works. Messages say what failed, where, why, and what to do about it.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType


class MemcgError(Exception):
    """The base of all errors of this library; never raised itself."""


class InvalidValueError(MemcgError, ValueError):
    """An argument that the kernel would refuse, or would take for something else than it seems to say."""


class InvalidTypeError(MemcgError, TypeError):
    """An argument of a type that cannot be meant."""


class FormatError(MemcgError, ValueError):
    """A kernel file does not read as documented. Please report it, with the kernel's version."""


class WaitTimeoutError(MemcgError, TimeoutError):
    """The time given to a blocking call is up, and nothing was read or written."""


class ClosedError(MemcgError):
    """The object was closed, here or by another thread, or belongs to the process that this one forked from."""


class BusyError(MemcgError):
    """Another thread or task waits here already, and only one can be given the next event."""


class NotSupportedError(MemcgError):
    """This kernel, or this version of cgroup, cannot do what was asked; the message names what can be used."""


class ControlFileMissingError(NotSupportedError, FileNotFoundError):
    """This kernel does not have the control file; the message names the version that has it."""


class NoMemoryControllerError(MemcgError):
    """No mounted cgroup hierarchy has the memory controller; or, on v2, a group does not get it from above."""


class NotACgroupError(MemcgError):
    """The path leads outside the hierarchy that has the memory controller, or what is there is no cgroup."""


class HoldError(MemcgError):
    """A group cannot be held, or is held no longer; the message says why."""


class NoLimitError(HoldError):
    """The group has no memory limit of its own, so there are no OOMs of its own that a hold could deal with."""


class InsideHeldGroupError(HoldError):
    """This process is in the group that it wants to hold, or in one below: an OOM there would stop it too."""


class AlreadyHeldError(HoldError):
    """Somebody else holds the group; the message says who.

    Args:
        message: What is said.
        guard: The PID of the guard that holds it; None where that is not known.
        owner: The PID of the process that asked for the hold; None where that is not known.
    """

    def __init__(self, message: str = "", *, guard: int | None = None, owner: int | None = None) -> None:
        super().__init__(message)
        self.guard = guard
        self.owner = owner


class KillerDisabledError(HoldError):
    """The group's OOM killer is off already, by somebody else's will; ``takeover=True`` takes it over."""


class GuardLostError(HoldError):
    """The guard process is gone, and the hold with it; the group's former state was put back by its keeper."""


class KernelError(MemcgError, OSError):
    """The kernel refused a system call; ``errno`` and ``filename`` say which way and where."""


class CgroupNotFoundError(KernelError, FileNotFoundError):
    """There is no such cgroup (ENOENT)."""


class CgroupRemovedError(CgroupNotFoundError):
    """The cgroup was removed (ENODEV). One created later under the same name is another cgroup."""


class CgroupExistsError(KernelError, FileExistsError):
    """A cgroup, or a control file, of that name exists (EEXIST)."""


class AccessDeniedError(KernelError, PermissionError):
    """The caller may not do that (EACCES, EPERM, EROFS)."""


class ProcessNotFoundError(KernelError, ProcessLookupError):
    """There is no such process, or it has exited (ESRCH)."""


class CgroupBusyError(KernelError):
    """The cgroup has processes or children (EBUSY)."""


class LimitBelowUsageError(CgroupBusyError):
    """Usage cannot be reclaimed below the new limit (EBUSY). The former limit is still in force."""


class InternalProcessesError(CgroupBusyError):
    """On cgroup v2 a group has either processes or children with controllers, and this would be both (EBUSY)."""


class TooManyOpenFilesError(KernelError):
    """The process, or the machine, has no file descriptor left (EMFILE, ENFILE)."""


def shown(value: object) -> str:
    """*value* as a message can show it: short, and whatever it is (repr() refuses ints of thousands of digits)."""
    try:
        text = repr(value)
    except ValueError:
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def listed(words: Sequence[str]) -> str:
    """The first ten of *words*, as a message can show them."""
    return ", ".join(words[:10]) + (", ..." if len(words) > 10 else "")


_CLASSES: dict[int, tuple[type[KernelError], str]] = {
    errno.ENOENT: (CgroupNotFoundError, ""),
    errno.ENODEV: (CgroupRemovedError, "the cgroup has been removed"),
    errno.EEXIST: (CgroupExistsError, ""),
    errno.EACCES: (AccessDeniedError, "run as root (sudo), or have root chown the cgroup to this user"),
    errno.EPERM: (AccessDeniedError, "run as root (sudo), or have root chown the cgroup to this user"),
    errno.EROFS: (
        AccessDeniedError,
        "the hierarchy is mounted read-only here: remount it, or leave the container",
    ),
    errno.ESRCH: (ProcessNotFoundError, ""),
    errno.EBUSY: (CgroupBusyError, ""),
    errno.EMFILE: (TooManyOpenFilesError, "close some, or raise RLIMIT_NOFILE (ulimit -n)"),
    errno.ENFILE: (TooManyOpenFilesError, "the machine is out of file descriptors: raise fs.file-max"),
    errno.ENOMEM: (KernelError, "the cgroup of this process, or the parent cgroup, is at its limit"),
    errno.ENOSPC: (KernelError, "the kernel can have no more memory cgroups (65,535 in all)"),
}


def kernel_error(
    number: int, doing: str, path: str, hint: str = "", kind: type[KernelError] | None = None
) -> KernelError:
    """The error for *number*, saying what was being done, why it failed, and what would help.

    Args:
        hint: A remedy more exact than the one that the errno leads to.
        kind: A class more exact than that.
    """
    mapped, remedy = _CLASSES.get(number, (KernelError, ""))
    reason = ": ".join(part for part in (os.strerror(number), hint or remedy) if part)
    return (kind or mapped)(number, f"cannot {doing}: {reason}", path)


@contextmanager
def kernel_errors(doing: str, path: str, hints: Mapping[int, str] = MappingProxyType({})) -> Iterator[None]:
    """Turns an ``OSError`` of the body into one of this tree; *hints* has the remedies for errnos known here."""
    try:
        yield
    except MemcgError:
        raise
    except OSError as error:
        number = error.errno or errno.EIO
        raise kernel_error(number, doing, path, hints.get(number, "")) from error
