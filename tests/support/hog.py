"""A program that uses memory: ``python -I -S hog.py MIB [wait | stay]``.

It touches that many MiB, page by page, prints "done", and ends. With "wait" it first waits for its standard input
to be closed, with "stay" it does so before it ends. Whatever happens to it, it is gone after a minute.
"""

import mmap
import signal
import sys

signal.alarm(60)
if "wait" in sys.argv:
    sys.stdin.read()
memory = mmap.mmap(-1, int(sys.argv[1]) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for position in range(0, len(memory), mmap.PAGESIZE):
    memory[position] = 1
print("done", flush=True)
if "stay" in sys.argv:
    sys.stdin.read()
