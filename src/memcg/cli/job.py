"""The job of the demo: a program that touches memory page by page, and says when and how far it is.

Usage: python job.py FD BYTES, where FD is a file of at least 16 bytes, shared with whoever wants to know.
"""

import mmap
import signal
import struct
import sys
import time

PROGRESS = struct.Struct("=dQd")
"""When the page in hand was begun, in seconds as `time.monotonic` has them; how many bytes lie behind it; and the
longest time that one of those pages took, in seconds."""

GIVE_UP = 10
"""Seconds after which the kernel ends the job, whatever its state."""


def main() -> None:
    """Touches the memory."""
    signal.alarm(GIVE_UP)
    fd, size = int(sys.argv[1]), int(sys.argv[2])
    progress = mmap.mmap(fd, PROGRESS.size)
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    began, longest = time.monotonic(), 0.0
    for position in range(0, size, mmap.PAGESIZE):
        PROGRESS.pack_into(progress, 0, began, position, longest)
        memory[position] = 1
        began, former = time.monotonic(), began
        longest = max(longest, began - former)
    PROGRESS.pack_into(progress, 0, began, size, longest)


if __name__ == "__main__":
    main()
