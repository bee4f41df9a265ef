"""Asynchronous I/O of the kernel (io_submit(2)), whose completions the kernel itself signals on an eventfd.

The only way without privileges to take an eventfd's counter where write(2) cannot: to 2**64 - 1.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import tempfile

_NUMBERS = {"x86_64": (206, 207, 209), **dict.fromkeys(["aarch64", "riscv64", "loongarch64"], (0, 1, 2))}
_SETUP, _DESTROY, _SUBMIT = _NUMBERS.get(platform.machine(), (-1, -1, -1))  # -1 is ENOSYS everywhere

# struct iocb of linux/aio_abi.h, as those architectures have it.
_IOCB = struct.Struct("<QIIHhIQQqQII")
_PREAD = 0
_SIGNAL_EVENTFD = 1

_libc = ctypes.CDLL(None, use_errno=True)


def signal_from_kernel(eventfd: int) -> None:
    """Has the kernel add 1 to the counter, as it does for an OOM."""
    buffer = ctypes.create_string_buffer(8)
    context = ctypes.c_ulong(0)
    with tempfile.TemporaryFile() as file:
        operation = ctypes.create_string_buffer(
            _IOCB.pack(
                0, 0, 0, _PREAD, 0, file.fileno(), ctypes.addressof(buffer), 8, 0, 0, _SIGNAL_EVENTFD, eventfd
            )
        )
        operations = (ctypes.c_void_p * 1)(ctypes.addressof(operation))
        _call(_SETUP, 1, ctypes.byref(context))
        try:
            _call(_SUBMIT, context, 1, operations)
        finally:
            _call(_DESTROY, context)  # which waits for it to complete


def available() -> bool:
    """Whether this kernel has asynchronous I/O, and lets this process use it."""
    context = ctypes.c_ulong(0)
    try:
        _call(_SETUP, 1, ctypes.byref(context))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return False
    _call(_DESTROY, context)
    return True


def _call(number: int, *arguments: object) -> None:
    if _libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
