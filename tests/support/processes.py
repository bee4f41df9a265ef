"""Starting processes that use memory, and waiting for what they come to."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import memcg

if TYPE_CHECKING:
    from collections.abc import Callable

HOG = Path(__file__).with_name("hog.py")


def start_hog(group: memcg.Cgroup, mib: int, *, stay: bool = False) -> subprocess.Popen[str]:
    """A process in *group* that touches *mib* MiB; with *stay* it lives until its standard input is closed."""
    assert mib <= 256
    return group.popen(
        [sys.executable, "-I", "-S", str(HOG), str(mib), *(["stay"] if stay else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    """Ends *process*, if it has not ended, by closing its standard input; its exit status."""
    with process:
        process.communicate(timeout=60)
    return process.returncode


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


def wait_blocked(process: subprocess.Popen[str]) -> None:
    """Waits until *process* is stopped by an OOM."""

    def blocked() -> bool:
        try:
            return state(process.pid) == "D" and "oom" in Path(f"/proc/{process.pid}/wchan").read_text()
        except FileNotFoundError:
            return False

    wait_until(blocked, f"process {process.pid} is stopped by an OOM")
