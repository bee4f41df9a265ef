"""inotify(7): what happens in directories. One instance can watch any number of them."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from ._ffi import lib
from .errors import kernel_error
from .fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Iterator

DELETED: Final = 0x200
"""IN_DELETE: something in the directory was removed."""
OVERFLOWN: Final = 0x4000
"""IN_Q_OVERFLOW: events were lost, as nobody read them."""

_HEADER = struct.Struct("iIII")


class Change(NamedTuple):
    """One thing that happened."""

    watch: int
    """Where, as `Inotify.add` called it; -1 where events were lost."""
    mask: int
    name: bytes


@final
class Inotify(OwnedFd):
    """Readable when something has happened. Closing it takes the kernel some 30 ms."""

    def __init__(self) -> None:
        fd = lib.memcg_inotify_create()
        if fd < 0:
            hint = "raise RLIMIT_NOFILE (ulimit -n), or fs.inotify.max_user_instances"
            raise kernel_error(-fd, "create an inotify instance", "inotify", hint if fd == -errno.EMFILE else "")
        super().__init__(fd)

    def add(self, directory: int, mask: int, path: str) -> int:
        """Watches an open *directory*, known to messages by its *path*; the same directory has the same number."""
        watch = lib.memcg_inotify_add(self.fileno(), directory, mask)
        if watch < 0:
            hint = "raise fs.inotify.max_user_watches" if watch == -errno.ENOSPC else ""
            raise kernel_error(-watch, "watch the cgroup", path, hint)
        return watch

    def remove(self, watch: int) -> None:
        """Ends a watch. That of a directory which is gone may have ended by itself (Linux 7.1)."""
        lib.memcg_inotify_remove(self.fileno(), watch)

    def read(self) -> Iterator[Change]:
        """What has happened since the last time; never blocks."""
        while True:
            try:
                data = os.read(self.fileno(), 1 << 16)
            except BlockingIOError:
                return
            position = 0
            while position < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, position)
                position += _HEADER.size
                yield Change(watch, mask, data[position : position + length].rstrip(b"\0"))
                position += length
