"""Hearing of the removal of cgroup v2 groups.

Up to Linux 6.18, whoever waits for the files of a group is not woken when the group is removed. What every kernel
tells is that something in the directory above was deleted. All of this process share one inotify instance for
that, since a user can have 128 of them. Whoever is woken by it takes what there is, for all, and rings those whom
it concerns.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from typing import TYPE_CHECKING, final

from ..epoll import READABLE
from ..errors import ClosedError
from ..eventfd import EventFD
from ..fd import OwnedFd, bookkeeping
from ..inotify import DELETED, OVERFLOWN, Inotify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cgroup import CgroupV2
    from ..cgroupfs.directory import Directory


@final
class RemovalWatch:
    """Tells when *group* has been removed.

    Raises:
        CgroupRemovedError: it has been already.
        AccessDeniedError: the caller may not list the directory above.
        TooManyOpenFilesError: no file descriptor is left, or this user has too many inotify instances.
    """

    def __init__(self, group: CgroupV2) -> None:
        self._hub = _current_hub()
        self._bell = EventFD()
        self._bell_fd = self._bell.fileno()
        self._name, self._inode = os.fsencode(group.name), group._directory.inode
        self._parent: _Parent | None = None
        try:
            above = group._directory.parent()
            if above is not None:  # the highest that can be seen is there as long as this process
                self._parent = self._hub.enter(self, self._name, above)
            if self.is_gone():
                raise group._directory.removed_error()
        except BaseException:
            self.close()
            raise

    def files(self) -> list[tuple[int, int]]:
        """What to wait for."""
        return [(self._hub.fd, READABLE), (self._bell_fd, READABLE)]

    def look(self, ready: Sequence[int] | None) -> bool:
        """Whether the group is gone, by what is *ready*; None stands for all files."""
        if ready is None or self._hub.fd in ready:
            self._hub.read()
        elif self._bell_fd not in ready:
            return False
        return self._bell.try_read() is not None and self.is_gone()

    def is_gone(self) -> bool:
        """Whether the group is gone, or another one has taken its place; takes no file descriptor."""
        if self._parent is None:
            return False
        try:
            status = os.stat(self._name, dir_fd=self._parent.directory.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return True
        return status.st_ino != self._inode

    def ring(self) -> None:
        """Something of the group's name was removed. Called by any thread."""
        with contextlib.suppress(ClosedError):
            self._bell.write()

    def close(self) -> None:
        """Ends the watch. In a forked child it does nothing to that of the parent."""
        with bookkeeping:
            parent, self._parent = self._parent, None
            if parent is not None:
                self._hub.leave(self, self._name, parent)
        self._bell.close()


class _Parent:
    """A directory that is watched, and the watches on the groups in it, by name."""

    def __init__(self, directory: OwnedFd, number: int) -> None:
        self.directory = directory
        self.number = number
        self.groups: dict[bytes, list[RemovalWatch]] = {}


class _Hub:
    """The inotify instance of this process. It stays open: to close it takes the kernel some 30 ms."""

    def __init__(self) -> None:
        self.inotify = Inotify()
        self.fd: int = self.inotify.fileno()
        atexit.register(self.inotify.close)
        self._parents: dict[int, _Parent] = {}

    def enter(self, watch: RemovalWatch, name: bytes, above: Directory) -> _Parent:
        """From now on, rings *watch* when something of that *name* in the directory *above* is removed."""
        directory = OwnedFd(above.open())
        with bookkeeping:
            try:
                number = self.inotify.add(directory.fileno(), DELETED, above.path)
            except BaseException:
                directory.close()
                raise
            parent = self._parents.get(number)
            if parent is None:
                parent = self._parents[number] = _Parent(directory, number)
            else:
                directory.close()
            parent.groups.setdefault(name, []).append(watch)
            return parent

    def leave(self, watch: RemovalWatch, name: bytes, parent: _Parent) -> None:
        """Ends what `enter` began."""
        watches = parent.groups[name]
        watches.remove(watch)
        if watches:
            return
        del parent.groups[name]
        if not parent.groups:
            parent.directory.close()
            if not self.inotify.inherited:
                del self._parents[parent.number]
                self.inotify.remove(parent.number)

    def read(self) -> None:
        """Takes what has happened, and rings those whom it concerns."""
        with bookkeeping:
            for change in self.inotify.read():
                if change.mask & OVERFLOWN:
                    names = [(parent, name) for parent in self._parents.values() for name in parent.groups]
                else:
                    parent = self._parents.get(change.watch)
                    names = [] if parent is None else [(parent, change.name)]
                for parent, name in names:
                    for watch in tuple(parent.groups.get(name, ())):
                        watch.ring()


_hub: _Hub | None = None


def _current_hub() -> _Hub:
    global _hub
    with bookkeeping:
        if _hub is None or _hub.inotify.inherited:  # a child would take away what its parent waits for
            _hub = _Hub()
        return _hub
