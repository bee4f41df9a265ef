"""Control files as attributes: `ControlFile` descriptors, typed by what the file holds.

On a group, the attribute is the file's value: reading it reads the file, assigning writes it. On the class, it is
the `ControlFile` itself: its name in the kernel, its unit, the kernel version that brought it, and whether a given
group has it.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, final, overload

from ..errors import (
    ControlFileMissingError,
    FormatError,
    InvalidTypeError,
    KernelError,
    LimitBelowUsageError,
    MemcgError,
    NotSupportedError,
    kernel_error,
    shown,
)
from ..eventfd import EventFD
from ..fd import OwnedFd
from ..units import check_int
from .delegation import why_missing
from .formats import format_limit, format_limit_v2, format_text, parse_limit, parse_page_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from ..cgroup import Cgroup
    from .directory import Directory
    from .mounts import Version

Read = TypeVar("Read", covariant=True)
Written = TypeVar("Written", contravariant=True)


class ControlFile(Generic[Read]):
    """One control file, the same in every group.

    Reading it, as an attribute of a group, raises `ControlFileMissingError` where this kernel or this group does
    not have the file, `CgroupRemovedError` where the group is gone, `AccessDeniedError` where the caller may not
    read it, and `FormatError` where the kernel's text is not what it is documented to be.
    """

    name: str
    """The file's name in the kernel, such as ``"memory.limit_in_bytes"``."""
    since: str
    """The Linux version that brought it."""
    unit: str
    """``"bytes"``, ``"pages"``, ``"count"``, ``"milliseconds"``, or "" where it holds no quantity."""

    _kinds: Mapping[int, type[KernelError]] = MappingProxyType({})  # classes more exact than an errno leads to

    def __init__(
        self,
        name: str,
        parse: Callable[[bytes], Read],
        *,
        since: str,
        unit: str = "",
        often: bool = False,
        hints: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.since = since
        self.unit = unit
        self._parse = parse
        self._often = often  # kept open between reads; only for files that the kernel writes in one piece
        self._hints = hints  # what to do about an errno

    @overload
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Cgroup, owner: type) -> Read: ...
    def __get__(self, group: Cgroup | None, owner: type) -> Self | Read:
        return self if group is None else self.read(group)

    def read(self, group: Cgroup) -> Read:
        """The file's value in *group*."""
        directory = _directory_of(group)
        try:
            data = directory.read_kept(self.name) if self._often else directory.read(self.name)
        except MemcgError:
            raise
        except OSError as error:
            raise self._error(error, "read", group) from error
        try:
            return self._parse(data)
        except (ValueError, KeyError) as error:
            raise FormatError(f"{directory.path}/{self.name} reads {data[:200]!r}") from error

    def exists(self, group: Cgroup) -> bool:
        """Whether this kernel has the file, in *group*."""
        try:
            self._open(group, os.O_PATH).close()
        except ControlFileMissingError:
            return False
        return True

    def _open(self, group: Cgroup, flags: int) -> OwnedFd:
        return OwnedFd(self._open_fd(group, flags))

    def _open_fd(self, group: Cgroup, flags: int) -> int:
        try:
            return _directory_of(group).open_file(self.name, flags)
        except MemcgError:
            raise
        except OSError as error:
            raise self._error(error, "open", group) from error

    def _write(self, group: Cgroup, data: bytes) -> None:
        try:
            _directory_of(group).write(self.name, data)
        except MemcgError:
            raise
        except OSError as error:
            raise self._error(error, f"write {data.decode(errors='replace')!r} to", group) from error

    def _error(self, error: OSError, doing: str, group: Cgroup) -> MemcgError:
        path = f"{group._directory.path}/{self.name}"
        if error.errno == errno.ENOENT and errno.ENOENT not in self._hints:
            directory = group._directory
            why = why_missing(directory, self.name) if directory.mount.version == 2 else ""
            return ControlFileMissingError(
                errno.ENOENT,
                f"no {self.name}: {why}"
                if why
                else f"this kernel (or this group) has no {self.name}, which came with Linux {self.since}",
                path,
            )
        number = error.errno or errno.EIO
        kind = self._kinds.get(number, KernelError if number == errno.ENOENT else None)
        return kernel_error(number, f"{doing} {self.name}", path, self._hints.get(number, ""), kind)

    def __repr__(self) -> str:
        return f"<ControlFile {self.name}>"


def _directory_of(group: Cgroup) -> Directory:
    try:
        return group._directory
    except AttributeError:
        raise InvalidTypeError(f"a control file is asked of a Cgroup, not {shown(group)}") from None


class WritableControlFile(ControlFile[Read], Generic[Read, Written]):
    """A control file that can be assigned to. What the kernel would misread is refused before it sees it."""

    def __init__(
        self,
        name: str,
        parse: Callable[[bytes], Read],
        format: Callable[[Written], bytes],
        *,
        since: str,
        unit: str = "",
        often: bool = False,
        hints: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(name, parse, since=since, unit=unit, often=often, hints=hints)
        self._format = format

    def __set__(self, group: Cgroup, value: Written) -> None:
        self.write(group, value)

    def write(self, group: Cgroup, value: Written) -> None:
        """Writes *value* to the file of *group*."""
        self._write(group, self._format(value))


_LIMIT_HINTS: dict[int, str] = {
    errno.EBUSY: "what is used cannot be reclaimed below it, and the former limit stays: choose one above "
    "usage_in_bytes, or end processes",
    errno.EINVAL: "the root cgroup has no limit, and elsewhere memory.limit_in_bytes can be at most "
    "memory.memsw.limit_in_bytes: to raise both, raise memsw first; to lower both, memory first",
}


@final
class LimitFile(WritableControlFile["int | None", "int | str | None"]):
    """A limit in bytes: None is no limit; text such as ``"512M"`` may be assigned (see `parse_size`).

    Values round down to a page, and reading shows the result. A value from 1 byte to below a page is refused.
    On v1, writing raises `LimitBelowUsageError`, and changes nothing, where usage cannot be reclaimed below it.
    On v2, what happens then is up to the file: ``CgroupV2.max`` kills.
    """

    _kinds = MappingProxyType({errno.EBUSY: LimitBelowUsageError})

    def __init__(self, name: str, *, since: str, version: Version = 1, often: bool = False) -> None:
        super().__init__(
            name,
            parse_limit,
            format_limit if version == 1 else format_limit_v2,
            since=since,
            unit="bytes",
            often=often,
            hints=_LIMIT_HINTS if version == 1 else {},
        )


@final
class CommandFile(ControlFile[None]):
    """A file that cannot be read, and does something when written: on a group, a method."""

    def __init__(self, name: str, *, since: str, hints: Mapping[int, str]) -> None:
        super().__init__(name, lambda data: None, since=since, hints=hints)

    @overload  # type: ignore[override]
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Cgroup, owner: type) -> Callable[[], None]: ...
    def __get__(self, group: Cgroup | None, owner: type) -> Self | Callable[[], None]:
        return self if group is None else partial(self._write, group, b"1")


class Reclaim(Protocol):
    """What `ReclaimFile` is on a group."""

    def __call__(self, nbytes: int | str, swappiness: int | Literal["max"] | None = None) -> bool:
        """Reclaims memory, as when a limit is hit, and returns whether it was *nbytes* or more.

        It is this process that does the work, for as long as it takes, which may be long where memory has to be
        written to a disk first. What was reclaimed stays so also where it was less than asked for.

        Args:
            nbytes: How much, in bytes or as text such as ``"64M"``.
            swappiness: How much to prefer anonymous memory over files, 0 to 200 (Linux 6.12), or ``"max"`` for
                anonymous memory only (Linux 6.16).

        Raises:
            NotSupportedError: this kernel does not take *swappiness*, or not that one.
            ControlFileMissingError: before Linux 5.19.
            AccessDeniedError: the caller may not write ``memory.reclaim``.
        """


@final
class ReclaimFile(ControlFile[None]):
    """``memory.reclaim``: on a group, a method that reclaims memory."""

    def __init__(self, name: str, *, since: str) -> None:
        super().__init__(name, lambda data: None, since=since)

    @overload  # type: ignore[override]
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Cgroup, owner: type) -> Reclaim: ...
    def __get__(self, group: Cgroup | None, owner: type) -> Self | Reclaim:
        return self if group is None else partial(self.write, group)

    def write(self, group: Cgroup, nbytes: int | str, swappiness: int | Literal["max"] | None = None) -> bool:
        """As `Reclaim`, for *group*."""
        data = b"%d" % parse_page_size(nbytes)
        if swappiness == "max":
            data += b" swappiness=max"
        elif swappiness is not None:
            data += b" swappiness=%d" % check_int(swappiness, "swappiness", 0, 200, "0 to 200, or 'max'")
        try:
            self._write(group, data)
        except KernelError as error:
            if error.errno == errno.EAGAIN:
                return False
            if error.errno == errno.EINVAL and swappiness is not None:
                raise NotSupportedError(
                    f"this kernel's {self.name} does not take swappiness={swappiness}: that came with Linux "
                    f"{'6.16' if swappiness == 'max' else '6.12'}"
                ) from error
            raise
        return True


@final
class EventSource(ControlFile[None]):
    """A file that can be neither read nor written: it can only be the source of a registered event."""

    def __init__(self, name: str, *, since: str) -> None:
        super().__init__(name, lambda data: None, since=since)

    def __get__(self, group: Cgroup | None, owner: type) -> Self:  # type: ignore[override]
        return self


class Register(Protocol):
    """What `EventControlFile` is on a group."""

    def __call__(self, event: EventFD, source: ControlFile[object], arguments: str = "") -> None:
        """Has the kernel add 1 to *event* whenever *source* has something to tell.

        Args:
            event: Registered until its last file descriptor is closed, or the group removed, which adds 1 too.
            source: A control file of the same group.
            arguments: What the source takes: a size in bytes, or a pressure level.
        """


@final
class EventControlFile(ControlFile[None]):
    """``cgroup.event_control``: on a group, a method that registers an eventfd with a source of events."""

    def __init__(self, name: str, *, since: str) -> None:
        hints = {errno.EINVAL: "that file is no source of events, or not with these arguments"}
        super().__init__(name, lambda data: None, since=since, hints=hints)

    @overload  # type: ignore[override]
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Cgroup, owner: type) -> Register: ...
    def __get__(self, group: Cgroup | None, owner: type) -> Self | Register:
        return self if group is None else partial(self.register, group)

    def register(self, group: Cgroup, event: EventFD, source: ControlFile[object], arguments: str = "") -> None:
        """As `Register`, for *group*."""
        if not isinstance(event, EventFD):
            raise InvalidTypeError(f"what is signalled is an EventFD, not {shown(event)}")
        if not isinstance(source, ControlFile):
            raise InvalidTypeError(
                f"a source is a control file, such as CgroupV1.oom_control, not {shown(source)}"
            )
        # The source may be closed once registered: the kernel holds on to what it stands for.
        with source._open(group, os.O_RDONLY) as control:
            number = event.pin()
            try:
                data = b"%d %d %s" % (number, control.fileno(), format_text(arguments))
                self._write(group, data.rstrip())
            finally:
                event.unpin()
