"""`memcg demo`: what it shows, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from support.commands import run_as_nobody
from support.popen import has_children

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

DEMO = [sys.executable, "-m", "memcg", "demo"]


def groups_of(pid: int) -> list[Path]:
    """The temporary groups of a process, wherever it makes them."""
    return [path for place in {memcg.root().path, memcg.current().path} for path in place.glob(f"memcg-{pid}-*")]


@pytest.fixture(autouse=True)
def _leaves_no_process() -> Iterator[None]:
    """Whoever outlives the demo becomes a child of this process, and there is none."""
    set_child_subreaper = 36
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(set_child_subreaper, 0, 0, 0, 0) == 0
    # The guard ends by itself, soon after its owner, and whoever is its parent by then has to wait for it.
    deadline = time.monotonic() + 10
    while has_children() and time.monotonic() < deadline:
        os.waitpid(-1, os.WNOHANG)
        time.sleep(0.002)
    assert not has_children()


@contextlib.contextmanager
def running() -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """The demo, and what it prints, through a pipe that holds one write: it never gets ahead of the reader."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
    with open(reading) as out:
        demo = subprocess.Popen(
            DEMO, stdout=writing, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        os.close(writing)
        with demo:
            yield demo, out


@pytest.mark.parametrize("command", [DEMO, [shutil.which("memcg", path=str(Path(sys.executable).parent)), "demo"]])
def test_all_acts_end_as_they_should(nursery: memcg.Cgroup, command: list[str]) -> None:
    """Left alone, the job is killed; taken over, it finishes; with a handler that is stopped, it is killed when
    the delay has run out; and the demo says so and succeeds."""
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors) == (0, "")
    alone, rest = out.split("2. This program decides")
    taken_over, abandoned = rest.split("3. A program decides, and stops answering")
    assert re.search(r"ms  OomEvent: out of memory, \d+ MiB done +\[[#-]+\] \d+/64 MiB\n", alone)
    assert "KernelKill: the kernel killed 1 process\n" in alone
    assert re.search(r"=> the job was killed by SIGKILL, \d+ of 192 MiB done\n", alone)
    assert taken_over.count("OomEvent") >= 2
    assert len(re.findall(r"the job is not dead: state [DRS] ", taken_over)) == taken_over.count("OomEvent")
    assert taken_over.count("the handler raises the limit") == taken_over.count("OomEvent")
    assert "KernelKill" not in taken_over
    assert "DelayExpired" not in taken_over
    assert "=> the job has finished, 192 of 192 MiB done\n" in taken_over
    assert "and gets a SIGSTOP: state T (stopped)\n" in abandoned
    if isinstance(nursery, memcg.CgroupV1):  # v2 does not tell anybody else that it stands still
        assert "the handler does not answer, and the delay runs\n" in abandoned
    assert "KernelKill: the kernel killed 1 process\n" in abandoned
    [paused] = re.findall(r"the job had stood still for ([0-9]+) ms: nobody answered$", abandoned, re.MULTILINE)
    assert int(paused) >= 1500
    assert re.search(r"=> the job was killed by SIGKILL, \d+ of 192 MiB done\n", abandoned)
    assert groups_of(demo.pid) == []


def test_it_ends_before_anyone_loses_patience(nursery: memcg.Cgroup) -> None:
    """The whole demo takes less than 15 seconds."""
    assert subprocess.run(DEMO, stdout=subprocess.DEVNULL, timeout=15, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "line",
    [
        "A job that needs",
        "on Linux",
        "1. The kernel decides",
        "            group ",
        "OomEvent",
        "KernelKill",
        "=> the job was killed",
        "2. This program decides",
        "this program holds it",
        "the job is not dead",
        "the handler raises the limit",
        "3. A program decides",
        "holds it: at each OOM",
        "and gets a SIGSTOP",
        "the handler does not answer",
    ],
)
def test_a_signal_ends_it_and_leaves_nothing(nursery: memcg.Cgroup, number: signal.Signals, line: str) -> None:
    """Ctrl-C or SIGTERM, whenever it comes: the status says which, and no group and no process is left."""
    with running() as (demo, out):
        before = read_until(out, line)
        demo.send_signal(number)
        told = before + out.read()
        assert demo.stderr is not None
        errors = demo.stderr.read()
    assert (demo.returncode, errors) == (128 + number, "")
    assert told.endswith("Interrupted: the job was ended, and its group removed.\n")
    assert [path for path in re.findall(r"^ +group (.*)$", told, re.MULTILINE) if os.path.exists(path)] == []
    assert groups_of(demo.pid) == []


def read_until(out: TextIO, line: str) -> str:
    """What is printed up to that line."""
    told = ""
    for each in out:
        told += each
        if line in each:
            return told
    raise AssertionError(f"it never said {line!r}, but {told}")


def test_more_signals_end_it_too(nursery: memcg.Cgroup) -> None:
    """An impatient second and third Ctrl-C does not keep it from cleaning up."""
    with running() as (demo, out):
        read_until(out, "OomEvent")
        for _ in range(5):
            demo.send_signal(signal.SIGINT)
        out.read()
    assert demo.returncode == 130
    assert groups_of(demo.pid) == []


def test_an_output_that_nobody_reads(nursery: memcg.Cgroup) -> None:
    """Where the reader goes away, as in ``memcg demo | head``, it ends, and leaves nothing."""
    with running() as (demo, out):
        read_until(out, "group")
        out.close()
        assert demo.wait(timeout=60) != 0
    assert groups_of(demo.pid) == []


def test_a_user_who_may_not_is_told_how_to(nursery: memcg.Cgroup) -> None:
    """Without the right to create a group it fails, and says what is missing, where, and how to get it."""
    status, _, errors = run_as_nobody("demo")
    assert status == 1
    assert errors.startswith("memcg: ")
    assert "Permission denied" in errors
    assert str(memcg.root().path) in errors
    for remedy in ("sudo", "systemd-run --user --scope -p Delegate=yes"):
        assert remedy in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [[], ["nonexistent"], ["demo", "--nonexistent"], ["demo", "more"]])
def test_a_command_that_there_is_not(arguments: list[str]) -> None:
    """A wrong command line shows how it is used, with status 2."""
    ended = subprocess.run(
        [sys.executable, "-m", "memcg", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("usage: memcg")


def test_help_names_the_commands() -> None:
    """``memcg --help`` says what there is."""
    for arguments in (["--help"], ["demo", "--help"]):
        ended = subprocess.run(
            [sys.executable, "-m", "memcg", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        assert "demo" in ended.stdout
