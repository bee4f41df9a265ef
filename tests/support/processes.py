"""Starting processes that use memory, and waiting for what they come to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import memcg
from memcg import MiB

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from typing_extensions import Self

HOG = Path(__file__).with_name("hog.py")
WORKER = Path(__file__).with_name("worker.py")

T = TypeVar("T")


def start_hog(group: memcg.Cgroup, mib: int, *, stay: bool = False) -> subprocess.Popen[str]:
    """A process in *group* that touches *mib* MiB; with *stay* it lives until its standard input is closed."""
    assert mib <= 256
    return group.popen(
        [sys.executable, "-I", "-S", str(HOG), str(mib), *(["stay"] if stay else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_own_hog(group: memcg.Cgroup, mib: int) -> int:
    """A child of this process that joins *group* by itself and touches that many MiB; its PID."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            group.add(os.getpid())
            memory = mmap(-1, mib * MiB, MAP_PRIVATE | MAP_ANONYMOUS)
            for position in range(0, len(memory), PAGESIZE):
                memory[position] = 1
            os._exit(0)
        finally:
            os._exit(1)
    return child


def exit_status(pid: int) -> int:
    """Waits for a child; how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(process: subprocess.Popen[str]) -> int:
    """Ends *process*, if it has not ended, by closing its standard input; its exit status."""
    with process:
        process.communicate(timeout=60)
    return process.returncode


class Worker:
    """A process in a group that does what it is told; worker.py has the orders. Killed at the end of ``with``."""

    def __init__(self, group: memcg.Cgroup) -> None:
        self.process = group.popen(
            [sys.executable, "-I", "-S", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def order(self, order: str) -> None:
        """Tells it to do something, and does not wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Waits for its next answer; "" when it has died."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def do(self, order: str) -> str:
        """Tells it to do something, and waits for the answer."""
        self.order(order)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        with self.process:
            pass


def finished(worker: Worker) -> int:
    """Ends *worker*; its PID."""
    worker.process.kill()
    worker.process.wait()
    return worker.pid


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits for *condition*, and fails, naming *what* was waited for, when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.002)


def state(pid: int) -> str:
    """The letter that /proc/PID/stat has for what the process is doing; "D" is blocked, "" is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def sleeps_in(task: str, function: str) -> bool:
    """Whether *task*, a directory such as /proc/PID or /proc/self/task/TID, sleeps in that kernel function."""
    try:
        return function in Path(f"{task}/wchan").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_blocked(pid: int) -> bool:
    """Whether the process is stopped by an OOM."""
    return state(pid) == "D" and sleeps_in(f"/proc/{pid}", "oom")


def wait_blocked(process: subprocess.Popen[str] | Worker) -> None:
    """Waits until *process* is stopped by an OOM."""
    wait_until(lambda: is_blocked(process.pid), f"process {process.pid} is stopped by an OOM")


def start_waiting(pool: Executor, call: Callable[[], T]) -> Future[T]:
    """Has a thread of *pool* make a *call* that waits for files, and returns once it does wait."""
    threads: list[int] = []

    def run() -> T:
        threads.append(threading.get_native_id())
        return call()

    future = pool.submit(run)
    wait_until(
        lambda: future.done() or bool(threads and sleeps_in(f"/proc/self/task/{threads[0]}", "poll")),
        "the thread waits",
    )
    return future
