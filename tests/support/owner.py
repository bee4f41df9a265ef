"""A program whose children do what they are told: ``python -I owner.py FD``; owners.py starts it, and talks to it.

FD is a socket. "start", with two files, forks a child that takes orders from the one and answers to the other, one
line each; the answer is its PID. "wait PID" waits for one, and answers how it ended. With the socket, the program
ends, and its children are killed. So each owner is a process of its own, without the half a second that a new
interpreter takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import multiprocessing
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import memcg
import memcg.oom.guard
from memcg._ffi import lib

if TYPE_CHECKING:
    from collections.abc import Callable

if other_guard := os.environ.get("MEMCG_TEST_GUARD"):
    memcg.oom.guard.PROGRAM = Path(other_guard)

libc = ctypes.CDLL(None, use_errno=True)
libc_with_gil = ctypes.PyDLL(None)

PRIVATE_PID_NAMESPACE = 0x20000000  # CLONE_NEWPID
PRIVATE_MOUNTS = 0x20000  # CLONE_NEWNS
RECURSIVE, PRIVATE = 0x4000, 1 << 18  # MS_REC, MS_PRIVATE
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), -1)
LIFE = 100
"""Seconds after which each child is gone, whatever happens to it."""

memory: list[mmap.mmap] = []
holds = contextlib.ExitStack()
held: list[memcg.Hold] = []


def say(answer: object) -> None:
    """Answers with one line."""
    os.write(1, f"{answer}".replace("\n", " ").encode() + b"\n")


def check(result: int) -> None:
    """Raises what the C library says."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# What a process of the group does.


def join(path: str) -> None:
    """Moves this process into a group."""
    Path(path, "cgroup.procs").write_text("0")


def be_victim() -> None:
    """The kernel's killer takes this process before any other."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def map_memory(mib: str) -> mmap.mmap:
    memory.append(mmap.mmap(-1, int(mib) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return memory[-1]


def touch_pages(pages: mmap.mmap) -> None:
    """Outside Python, where nothing else needs memory."""
    libc.memset(ctypes.byref(ctypes.c_char.from_buffer(pages)), 1, ctypes.c_size_t(len(pages)))


def touch(mib: str) -> None:
    """Uses that many MiB more."""
    touch_pages(map_memory(mib))


def reserve(mib: str) -> None:
    """Makes that many MiB ready, which a system call could not do in a group that is full."""
    map_memory(mib)


def touch_reserve() -> None:
    """Uses what was made ready last."""
    touch_pages(memory[-1])


def free() -> None:
    """Gives all that back."""
    for pages in memory:
        pages.madvise(mmap.MADV_DONTNEED)


def flicker(mib: str) -> None:
    """Has that many MiB, and for ever frees one page and faults for another."""
    spare = map_memory(mib)
    touch_pages(spare)
    more = map_memory("64")
    threading.Thread(target=touch_pages, args=[more], daemon=True).start()
    while True:
        for position in range(0, len(spare), mmap.PAGESIZE):
            spare.madvise(mmap.MADV_DONTNEED, position, mmap.PAGESIZE)
            libc.usleep(500)


def hogs(mib: str, *paths: str) -> None:
    """Has a child in each of these groups use so many MiB."""
    pages = map_memory(mib)
    children = []
    for path in paths:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(LIFE)
                join(path)
                touch_pages(pages)
            finally:
                os._exit(1)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


# What an owner does.


def hold(delay: str, *paths: str) -> str:
    """Holds the groups; the PIDs of the guard, the keeper and the warden."""
    for path in paths:
        group = memcg.open(path)
        held.append(holds.enter_context(group.oom.hold(None if delay == "None" else float(delay))))
    return " ".join(map(str, held[0].guard_pids))


def use() -> str:
    """Uses the hold: asks the guard for something, and reads the table."""
    held[0].delay = held[0].delay
    return f"delay {held[0].delay}"


def wait() -> str:
    """Waits for an event."""
    return type(held[0].wait(20)).__name__


def act(size: str) -> str:
    """Waits for an OOM and raises the limit; when the delay would have run out."""
    for event in held[0]:
        if isinstance(event, memcg.OomEvent):
            break
    deadline = held[0].deadline
    raised = held[0].raise_limit(by=size)
    assert raised
    assert deadline
    return str(deadline)


def watch(number: str) -> str:
    """Waits until the delay has run out so many times; what each event said of kills and expiries, as JSON."""
    told: list[tuple[int, int]] = []
    for event in held[0]:
        if isinstance(event, memcg.DelayExpired):
            told.append((event.kills, event.count))
            if sum(count for _, count in told) >= int(number):
                break
    return json.dumps(told)


def counts() -> str:
    """The expirations, the kills and the state by now."""
    while held[0].wait(0) is not None:
        pass
    return f"{held[0].expirations} {held[0].kills} {held[0].state}"


def lateness(number: str) -> str:
    """Waits until that many of the holds have an OOM in hand, and then for their expiries.

    How much later each came than the delay, and how many it killed, as JSON."""
    waiting: dict[int, float] = {}
    while len(waiting) < int(number):
        for index, each in enumerate(held):
            if index not in waiting and (deadline := each.deadline):
                waiting[index] = deadline
        time.sleep(0.01)
    late, kills = [], []
    for index, deadline in waiting.items():
        while (event := held[index].wait(30)) is not None:
            if isinstance(event, memcg.DelayExpired):
                late.append(event.time - deadline)
                kills.append(event.kills)
                break
    return json.dumps([late, kills])


def release() -> None:
    """Ends the holds."""
    holds.close()
    held.clear()


# What becomes of an owner.


def hold_the_gil() -> str:
    """Lets no other Python code run, for half a minute or until a signal comes."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    say("busy")
    libc_with_gil.sleep(30)
    return "free"


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, lambda number, frame: None)


def segfault() -> NoReturn:
    ctypes.string_at(0)
    raise AssertionError


def leave() -> NoReturn:
    os._exit(3)


def become_another_program(*arguments: str) -> NoReturn:
    arguments = arguments or ("/bin/sleep", "30")
    os.execv(arguments[0], arguments)


def lead_a_process_group() -> None:
    """Still of the same session: in an orphaned process group, the kernel ignores Ctrl-Z."""
    os.setpgid(0, 0)


def limit_files(number: str, hard: str = "") -> None:
    """Has so many file descriptors here, and with "hard" in the guard too, for ever."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number) if hard else most))


def get_private_mounts() -> None:
    check(libc.unshare(PRIVATE_MOUNTS))
    check(libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None))


def hide_proc() -> None:
    """From here on, /proc is empty for this process."""
    get_private_mounts()
    check(libc.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None))


def become_init() -> None:
    """Goes on as PID 1 of a PID namespace, with a /proc of its own; says the PID that others see."""
    check(libc.unshare(PRIVATE_PID_NAMESPACE))
    child = os.fork()
    if child:
        say(child)
        os.waitpid(child, 0)
        os._exit(0)
    signal.alarm(LIFE)
    get_private_mounts()
    check(libc.mount(b"proc", b"/proc", b"proc", 0, None))


# A child of an owner, which has inherited the hold.


def misuse(number: int) -> str:
    """Tries all that a child may try to do with an inherited hold, and the socket's number; what came of each."""
    outcomes = []
    request = struct.pack("4I3qQ", lib.MEMCG_RELEASE, 0, 0, 0, 0, 0, 0, 0)
    attempts: list[Callable[[], object]] = [
        held[0].expire,
        lambda: held[0].raise_limit(by="64M"),
        lambda: held[0].wait(0),
        lambda: os.write(number, request),
        lambda: held[0].__exit__(None, None, None),
    ]
    for attempt in attempts:
        try:
            attempt()
            outcomes.append("nothing")
        except (memcg.MemcgError, OSError) as error:
            outcomes.append(type(error).__name__)
    return " ".join(outcomes)


def live_on(number: int) -> NoReturn:
    """Tries to misuse the hold, now and again at each SIGUSR1."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        signal.alarm(LIFE)
        while True:
            say(f"{os.getpid()} {misuse(number)}")
            signal.sigwait([signal.SIGUSR1])
    finally:
        os._exit(1)


def fork(how: str) -> str:
    """Makes a child that lives on, which answers by itself."""
    number = held[0]._source.guard.fileno()
    if how == "multiprocessing":
        multiprocessing.get_context("fork").Process(target=live_on, args=[number]).start()
        return ""
    if how == "os.fork":
        child = os.fork()
    elif how == "fork_in_C":
        child = libc_with_gil.fork()
    else:  # not even the C library knows of it
        child = libc_with_gil.syscall(CLONE, signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        live_on(number)
    return ""


def fork_and_exec() -> str:
    """Makes a child that becomes another program; its PID."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(0)
            os.execv("/bin/sleep", ["sleep", "60"])
        finally:
            os._exit(1)
    return str(child)


ORDERS: dict[str, Callable[..., str | None]] = {
    function.__name__: function
    for function in (
        *(join, be_victim, touch, reserve, touch_reserve, free, flicker, hogs),
        *(hold, use, wait, act, watch, counts, lateness, release),
        *(hold_the_gil, ignore_interrupts, segfault, leave, become_another_program, lead_a_process_group),
        *(limit_files, hide_proc, become_init, fork, fork_and_exec),
    )
}


def obey() -> NoReturn:
    """The life of a child. An exception ends it, as it ends any program: with its holds closed on the way."""
    try:
        with holds, open(0, closefd=False) as orders:
            for line in orders:
                order, *arguments = line.split()
                try:
                    answer = ORDERS[order](*arguments)
                except (memcg.MemcgError, memcg.ClosedError, OSError) as error:
                    answer = f"{type(error).__name__}: {error}"
                if answer != "":
                    say(answer or "done")
    except Exception:  # noqa: BLE001 - it is shown, as the interpreter would
        traceback.print_exc()
    finally:
        os._exit(1)


def start(files: list[int]) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(LIFE)
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, 1 << 10)
        obey()
    return child


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    children = set()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        while True:
            message, files, _, _ = socket.recv_fds(control, 64, 2)
            if not message:
                break
            order, *numbers = message.decode().split()
            if order == "start":
                answer = start(files)
                children.add(answer)
            else:
                pid = int(numbers[0])
                answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                children.remove(pid)
            for file in files:
                os.close(file)
            control.send(str(answer).encode())
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
