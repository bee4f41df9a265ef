"""A high-water mark of one's own."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, final
from weakref import WeakSet

from ..cgroupfs.directory import pread_whole
from ..cgroupfs.formats import parse_bytes
from ..errors import AccessDeniedError, KernelError, MemcgError, NotSupportedError, kernel_errors
from ..fd import OwnedFd

if TYPE_CHECKING:
    from ..cgroup import Cgroup
    from ..cgroupfs.files import ControlFile


@final
class Peak(OwnedFd):
    """The most that was used since this was made, or last `reset`; from `CgroupV2.measure_peak`.

    The kernel keeps a mark for each open file, beside that of all time, which ``CgroupV2.peak`` reads. But each
    reset of one makes it forget how high the others have been (Linux 6.12 to 7.3). Those of this process are read
    before that, and keep what they had; a reset by another process lowers them to what is used then.
    """

    def __init__(self, group: Cgroup, file: ControlFile[int]) -> None:
        self._path = f"{group.path}/{file.name}"
        self._key = (group._directory.identity, file.name)
        self._kept = 0
        unsupported = NotSupportedError(
            f"this kernel's {file.name} cannot be reset, which came with Linux 6.12: read it as it is, the most "
            f"since the group was created"
        )
        try:
            super().__init__(file._open_fd(group, os.O_RDWR))
        except AccessDeniedError:
            with file._open(group, os.O_PATH) as found:
                writable = os.fstat(found.fileno()).st_mode & 0o222
            if writable:
                raise
            raise unsupported from None
        try:
            self.reset()
        except KernelError as error:
            self.close()
            if error.errno == errno.EINVAL:
                raise unsupported from error
            raise
        _peaks.add(self)

    @property
    def value(self) -> int:
        """The mark, in bytes.

        Raises:
            CgroupRemovedError: the group is gone.
            ClosedError: after `OwnedFd.close`.
        """
        fd = self.pin()
        try:
            with kernel_errors("read the peak", self._path):
                return max(self._kept, parse_bytes(pread_whole(fd)))
        finally:
            self.unpin()

    def reset(self) -> None:
        """Sets the mark to what is used now. Raises as `value` does."""
        fd = self.pin()
        try:
            for other in tuple(_peaks):
                if other is not self and other._key == self._key:
                    with contextlib.suppress(MemcgError):
                        other._kept = other.value
            with kernel_errors("reset the peak", self._path):
                os.pwrite(fd, b"0", 0)
            self._kept = 0
        finally:
            self.unpin()


_peaks: WeakSet[Peak] = WeakSet()
