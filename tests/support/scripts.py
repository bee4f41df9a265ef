"""Small Python programs, given as text."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import memcg


def start_python(group: memcg.Cgroup, source: str, *arguments: str) -> subprocess.Popen[str]:
    """A process in *group* that runs *source*, with pipes to it; it is gone after a minute whatever happens."""
    alarm = f"import signal; signal.signal({signal.SIGALRM:d}, signal.SIG_DFL); signal.alarm(60)\n"
    return group.popen(
        [sys.executable, "-I", "-S", "-c", alarm + source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str]) -> str:
    """The next line that *process* prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


MULTIPLY = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    os.fork()
    signal.alarm(60)
print("here", flush=True)
while True:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
"""
"""Doubles so many times; then all of them fork all the time."""
