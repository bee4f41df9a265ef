"""A program that does what it is told: ``python -I -S worker.py``.

It takes one order per line from its standard input, and answers with one line:

    map MIB             maps that many MiB more, without touching them; "done"
    touch [MIB]         maps that many more, and touches all that it has, page by page; "done"
    free                gives all of it back; "done"
    read MIB            one read(2) of that many MiB into memory never touched before; how many bytes that gave
    hogs NUMBER MIB     that many children touch that many MiB each, all at once; how each of them ended
    strain MIB SECONDS  one child after another touches that many MiB, for as long; "done"

On SIGUSR1 it says "signalled". It ends with its standard input, and whatever happens to it, after ten minutes.
"""

import mmap
import os
import signal
import sys
import time


def map_memory(mib: int) -> mmap.mmap:
    return mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def touch(memory: mmap.mmap) -> None:
    for position in range(0, len(memory), mmap.PAGESIZE):
        memory[position] = 1


def read(mib: int) -> int:
    with map_memory(mib) as memory, open("/dev/zero", "rb", buffering=0) as zeros:
        return zeros.readinto(memory) or 0


def sleeps_in(pid: int, function: str) -> bool:
    with open(f"/proc/{pid}/wchan") as file:
        return function in file.read()


def hogs(number: int, mib: int) -> list[int]:
    parent, children = os.getpid(), []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            # The killer is to take the children, never their parent.
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            # The parent, while it runs, may touch memory and hit the limit itself: it is to be waiting by then.
            while not sleeps_in(parent, "wait"):
                os.sched_yield()
            touch(map_memory(mib))
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def strain(mib: int, seconds: int) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hogs(1, mib)


signal.alarm(600)
signal.signal(signal.SIGUSR1, lambda number, frame: print("signalled", flush=True))
held: list[mmap.mmap] = []
answer: object
for line in sys.stdin:
    order, *numbers = line.split()
    answer = "done"
    if order in ("map", "touch"):
        held.extend(map_memory(int(number)) for number in numbers)
    if order == "touch":
        for memory in held:
            touch(memory)
    elif order == "free":
        while held:
            held.pop().close()
    elif order == "read":
        answer = read(int(numbers[0]))
    elif order == "strain":
        strain(*map(int, numbers))
    elif order == "hogs":
        answer = " ".join(map(str, hogs(int(numbers[0]), int(numbers[1]))))
    print(answer, flush=True)
