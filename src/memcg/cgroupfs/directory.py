"""One cgroup directory, known by device and inode, and reached in a way that no symlink can divert.

A `Directory` at rest holds no file descriptor. Each access opens it anew below its mount with openat2(2), and
checks that it is still the same directory: one that was removed and created again is another cgroup. Files that
are read often stay open in a small cache, where the kernel itself does that check (a read ends in ENODEV).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._ffi import lib
from ..errors import (
    CgroupNotFoundError,
    CgroupRemovedError,
    InvalidTypeError,
    InvalidValueError,
    NotACgroupError,
    kernel_error,
    kernel_errors,
    shown,
)
from ..fd import bookkeeping

if TYPE_CHECKING:
    from collections.abc import Callable

    from .mounts import Mount

_PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CONFINED = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_MAGICLINKS | lib.RESOLVE_NO_XDEV
_MAGIC = {1: lib.CGROUP_SUPER_MAGIC, 2: lib.CGROUP2_SUPER_MAGIC}

# More than any control file holds in one piece on a machine of a few NUMA nodes; larger ones are read again.
_USUAL_SIZE = 8192


def check_name(name: str) -> str:
    """*name*, having refused what is not the name of one child directory."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"the name of a cgroup is a str, not {shown(name)}")
    if name in ("", ".", "..") or "/" in name or not is_encodable(name):
        raise InvalidValueError(
            f"{shown(name)} cannot name a cgroup: one path component, without '/', NUL or newline"
        )
    if len(os.fsencode(name)) > 255:
        raise InvalidValueError(f"the name of a cgroup has at most 255 bytes, this one more: {name[:20]!r}...")
    return name


def is_encodable(text: str) -> bool:
    """Whether *text* can be in the path of a cgroup at all: the kernel allows neither NUL nor newline there."""
    try:
        return not {0, 10} & set(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def open_confined(directory: int, path: str, flags: int) -> int:
    """Opens *path* below the open *directory*: through no symlink, onto no other mount, and never above it.

    openat2(2), Linux 5.6; where that is missing or forbidden (old seccomp filters answer EPERM), one component
    at a time.
    """
    for _ in range(100):
        fd = lib.memcg_openat2(directory, os.fsencode(path), flags | os.O_CLOEXEC, _CONFINED)
        if fd >= 0:
            return fd
        if fd in (-errno.ENOSYS, -errno.EPERM):
            return open_stepwise(directory, path, flags)
        if fd not in (-errno.EAGAIN, -errno.EINTR):  # EAGAIN: something was renamed meanwhile
            break
    raise OSError(-fd, os.strerror(-fd), path)


def open_stepwise(directory: int, path: str, flags: int) -> int:
    """What `open_confined` does without openat2(2)."""
    device = os.fstat(directory).st_dev
    current, parts = directory, path.split("/")
    if ".." in parts or "" in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        try:
            fd = os.open(part, (flags if last else _PATH_ONLY) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
        finally:
            if current != directory:
                os.close(current)
        status = os.fstat(fd)
        # With O_PATH, O_NOFOLLOW opens the symlink itself.
        wrong = errno.ELOOP if stat.S_ISLNK(status.st_mode) else errno.EXDEV if status.st_dev != device else 0
        if wrong:
            os.close(fd)
            raise OSError(wrong, os.strerror(wrong), path)
        current = fd
    return current


@dataclass(frozen=True)
class Directory:
    """One cgroup directory. A value: it names the directory, and holds nothing open."""

    mount: Mount
    relative: str
    """The path below the mount, "" for its root."""
    inode: int

    @classmethod
    def find(cls, mount: Mount, relative: str) -> Directory:
        """The directory that is there now.

        Raises:
            CgroupNotFoundError: there is none.
            NotACgroupError: what is there is no cgroup of that hierarchy.
        """
        path = os.path.join(mount.point, relative) if relative else mount.point
        with kernel_errors("open the cgroup", path):
            fd = _open_directory(mount, relative)
            try:
                return cls(mount, relative, os.fstat(fd).st_ino)
            finally:
                os.close(fd)

    @property
    def path(self) -> str:
        """The full path."""
        return os.path.join(self.mount.point, self.relative) if self.relative else self.mount.point

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: no other directory has had, or will have, the same."""
        return (self.mount.device, self.inode)

    @property
    def exists(self) -> bool:
        """Whether this very directory is still there."""
        try:
            os.close(self.open())
        except CgroupRemovedError:
            return False
        return True

    def open(self) -> int:
        """A file descriptor (O_PATH) of this very directory; the caller closes it.

        Raises:
            CgroupRemovedError: it is gone, or another one has taken its place.
        """
        with kernel_errors("open the cgroup", self.path):
            try:
                fd = _open_directory(self.mount, self.relative)
            except FileNotFoundError:
                raise self.removed_error() from None
            if os.fstat(fd).st_ino != self.inode:
                os.close(fd)
                raise self.removed_error("another cgroup of the same name has taken its place")
            return fd

    def removed_error(self, hint: str = "") -> CgroupRemovedError:
        error = kernel_error(errno.ENODEV, "use the cgroup", self.path, hint)
        assert isinstance(error, CgroupRemovedError)
        return error

    def open_file(self, name: str, flags: int) -> int:
        """Opens a control file of this very directory; the caller closes it.

        Raises:
            CgroupRemovedError: the directory is gone.
            OSError: of the open itself, ENOENT only where the directory lacks the file.
        """
        directory = self.open()
        try:
            return open_confined(directory, name, flags)
        except FileNotFoundError:
            if not self.exists:
                raise self.removed_error() from None
            raise
        finally:
            os.close(directory)

    def read(self, name: str) -> bytes:
        """The whole of a control file."""
        fd = self.open_file(name, os.O_RDONLY)
        try:
            pieces = []
            while piece := os.read(fd, 1 << 16):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def read_kept(self, name: str) -> bytes:
        """As `read`, leaving the file open for the next time. For files that the kernel writes in one piece."""
        key = (self.mount.device, self.inode, name)
        file = _kept.get(key)
        if file is None:
            file = _KeptFile(self.open_file(name, os.O_RDONLY))
            _keep(key, file)
        try:
            return pread_whole(file.fd)
        except OSError as error:
            if error.errno == errno.ENODEV:
                self.forget()
            raise

    def write(self, name: str, data: bytes) -> None:
        """Writes *data* to a control file, in one write(2), as the kernel wants it."""
        fd = self.open_file(name, os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Closes the files that `read_kept` left open."""
        with bookkeeping:
            gone = [_kept.pop(key, None) for key in tuple(_kept) if key[:2] == self.identity]
        gone.clear()

    def join(self, name: str) -> str:
        """The relative path of a child."""
        return f"{self.relative}/{name}" if self.relative else name

    def child(self, name: str) -> Directory:
        """The child directory of that name."""
        check_name(name)
        if not self.exists:
            raise self.removed_error()
        return Directory.find(self.mount, self.join(name))

    def parent(self) -> Directory | None:
        """The directory above, or None where the mount ends."""
        if not self.relative:
            return None
        try:
            return Directory.find(self.mount, self.relative.rpartition("/")[0])
        except CgroupNotFoundError:  # removed, and with it this one
            raise self.removed_error() from None

    def children(self) -> list[str]:
        """The names of the directories in this one, sorted."""
        directory = self.open()
        try:
            # The link count of a cgroup directory is 2 and one for each child: most have none.
            if os.fstat(directory).st_nlink == 2:
                return []
            with kernel_errors("list the cgroup", self.path):
                readable = open_confined(directory, ".", os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(directory)
        try:
            with os.scandir(readable) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        finally:
            os.close(readable)

    def create(self, name: str) -> Directory:
        """Makes a child directory (mkdir(2))."""
        check_name(name)
        directory = self.open()
        try:
            hints = {errno.EAGAIN: "a group above allows no more: cgroup.max.depth or cgroup.max.descendants"}
            with kernel_errors("create the cgroup", f"{self.path}/{name}", hints):
                os.mkdir(name, 0o755, dir_fd=directory)
        finally:
            os.close(directory)
        return Directory.find(self.mount, self.join(name))

    def remove(self) -> None:
        """Removes this very directory (rmdir(2)).

        Raises:
            CgroupBusyError: it has processes or children.
            NotACgroupError: it is the root of the hierarchy, which cannot be removed.
        """
        parent = self.parent()
        if parent is None:
            raise NotACgroupError(f"{self.path} is where the hierarchy is mounted: it cannot be removed")
        above, name = parent.open(), self.relative.rpartition("/")[2]
        try:
            if not self.exists:
                raise self.removed_error()
            with kernel_errors("remove the cgroup", self.path):
                os.rmdir(name, dir_fd=above)
        finally:
            os.close(above)
        self.forget()


def _open_directory(mount: Mount, relative: str) -> int:
    """Opens a directory below *mount*, and makes sure that it is a cgroup of that very hierarchy."""
    path = os.path.join(mount.point, relative)
    point = os.open(mount.point, _PATH_ONLY)
    try:
        if os.fstat(point).st_dev != mount.device:
            raise NotACgroupError(f"{mount.point} is hidden: something else is mounted there too")
        fd = open_confined(point, relative or ".", _PATH_ONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise NotACgroupError(f"{path} leads through a symlink or onto another file system") from error
        raise
    finally:
        os.close(point)
    if lib.memcg_file_system_magic(fd) == _MAGIC[mount.version]:
        return fd
    os.close(fd)
    raise NotACgroupError(f"{path} is no directory of the cgroup v{mount.version} hierarchy with memory")


def pread_whole(fd: int) -> bytes:
    """A control file that the kernel writes in one piece, from its start."""
    size = _USUAL_SIZE
    while len(data := os.pread(fd, size, 0)) == size:
        size *= 4
    return data


class _KeptFile:
    """A file of the cache. It is closed when it has left the cache and the last reader has let go of it: a
    reference is all that a reader needs to hold, and reading takes no lock."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


_kept: dict[tuple[int, int, str], _KeptFile] = {}
_KEPT_AT_MOST = 64


def _keep(key: tuple[int, int, str], file: _KeptFile) -> None:
    """Puts *file* into the cache, and the oldest out of it. What leaves is closed after the dict is as it shall
    be: closing lets other threads run."""
    with bookkeeping:
        former = _kept.pop(key, None)
        _kept[key] = file
        oldest = _kept.pop(next(iter(_kept)), None) if len(_kept) > _KEPT_AT_MOST else None
    del former, oldest
