"""Groups that are held: by this process or another one, and what must not be left of a hold."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import memcg
from support.marks import marks
from support.processes import Worker, is_blocked, state, wait_until
from support.scripts import say, start_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from memcg import Cgroup, Hold, HoldEvent

Kind = TypeVar("Kind", bound="HoldEvent")

OWNER = """
import json, os, pathlib, signal, sys, threading
import memcg, memcg.oom.guard

if other := os.environ.get("MEMCG_TEST_GUARD"):
    memcg.oom.guard.PROGRAM = pathlib.Path(other)

signal.alarm(120)
group = memcg.open(sys.argv[1])
options = json.loads(sys.argv[2])
turn = threading.Lock()

def say(kind, **more):
    with turn:
        print(json.dumps({"kind": kind, **more}), flush=True)

with group.oom.hold(**options) as hold:
    say("held", guard_pids=hold.guard_pids)

    def obey():
        for order in sys.stdin:
            say("did", result=eval(order))
        hold.close()

    threading.Thread(target=obey, daemon=True).start()
    for event in hold:
        origin = getattr(event, "origin", None)
        kills, count = getattr(event, "kills", 0), getattr(event, "count", 1)
        say(type(event).__name__, time=event.time, kills=kills, expiries=count, origin=origin and str(origin.path))
    hold.close()
say("released")
"""

HERD = """
import mmap, os, sys

number, mib = int(sys.argv[2]), int(sys.argv[3])
waiting, start = os.pipe()
children = []
for _ in range(number):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os.close(start)
        with open(sys.argv[1] + "/cgroup.procs", "w") as file:
            file.write("0")
        memory = mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        os.write(tell, b".")
        os.read(waiting, 1)
        for position in range(0, len(memory), mmap.PAGESIZE):
            memory[position] = 1
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    children.append(child)
print("ready", flush=True)
sys.stdin.readline()
os.close(start)
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""

NOT_KILLABLE = """
import ctypes, mmap, os, sys, threading, time

def leader_is_gone():
    with open(f"/proc/self/task/{os.getpid()}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"

def run():
    while not leader_is_gone():
        time.sleep(0.001)
    with open(sys.argv[1] + "/tasks", "w") as file:
        file.write(str(threading.get_native_id()))
    print("ready", flush=True)
    memory = mmap.mmap(-1, int(sys.stdin.readline()) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for position in range(0, len(memory), mmap.PAGESIZE):
        memory[position] = 1
    print("done", flush=True)
    sys.stdin.read()
    os._exit(0)

signal.alarm(60)
threading.Thread(target=run).start()
ctypes.CDLL(None).pthread_exit(None)
"""
"""A process that the kernel's killer cannot find: it looks for processes whose first thread is in the group, and
of this one only another thread is. Memory is charged to that one, as the first thread has ended."""

SPARED = """
import mmap, sys

with open("/proc/self/oom_score_adj", "w") as file:
    file.write("-1000")
print("ready", flush=True)
memory = mmap.mmap(-1, int(sys.stdin.readline()) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for position in range(0, len(memory), mmap.PAGESIZE):
    memory[position] = 1
print("done", flush=True)
sys.stdin.read()
"""
"""A process that the kernel's killer spares, by its ``oom_score_adj``. On v1, nobody would be told of its OOM."""


class Herd:
    """Processes in *group* that touch memory, all at once, without system calls. They end with ``with``."""

    def __init__(self, group: Cgroup, number: int, mib: int) -> None:
        self.process = start_python(memcg.current(), HERD, str(group.path), str(number), str(mib))
        assert say(self.process) == "ready"
        self.pids = group.processes()

    def start(self) -> None:
        """Has them touch their memory."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def statuses(self) -> list[int]:
        """How each of them ended, once all have."""
        return [int(word) for word in say(self.process).split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with self.process:
            self.process.communicate(timeout=60)


class Told(NamedTuple):
    """An event as another process has told it."""

    kind: str
    time: float
    kills: int
    expiries: int
    origin: str | None


class Owner:
    """Another process that holds *group*, and tells of each event. The hold ends with the ``with`` block."""

    def __init__(self, group: Cgroup, delay: float | None, **options: object) -> None:
        self.group = group
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(group.path), json.dumps({"delay": delay, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.told: list[Told] = []
        """What it has told so far, as far as that has been taken here."""
        self.guard_pids: list[int] = self._take("held")["guard_pids"]

    def do(self, expression: str) -> object:
        """The value of an expression about its ``hold``."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()
        return self._take("did")["result"]

    def next(self, kind: str) -> Told:
        """Waits for the next event of that kind."""
        self._take(kind)
        return self.told[-1]

    def release(self) -> list[Told]:
        """Ends the hold; all that was told."""
        if not self.process.stdin or self.process.stdin.closed:
            return self.told
        self.process.stdin.close()
        self._take("released")
        assert self.process.wait(30) == 0
        return self.told

    def abandon(self) -> None:
        """Kills it, if it is still there, and expects nothing more of it."""
        self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _take(self, kind: str) -> dict[str, list[int]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            found = said["kind"]
            if found not in ("held", "did", "released"):
                self.told.append(Told(**said))
            if found == kind:
                assert isinstance(said, dict)
                return said
        raise AssertionError(f"the owner ended, with status {self.process.wait(30)}; it was to say {kind!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            if error[0] is None:
                self.release()
            self.process.kill()
        wait_until(lambda: guard_is_gone(self.guard_pids), "the other owner's guard is gone")


@functools.cache
def _is_v2() -> bool:
    return isinstance(memcg.root(), memcg.CgroupV2)


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by an OOM of a held group: on v1 alone, on v2 with all of the group."""
    if not _is_v2():
        return is_blocked(pid)
    try:
        group = memcg.of(pid)
        assert isinstance(group, memcg.CgroupV2)
        return state(pid) not in ("", "Z", "X") and group.parent is not None and bool(group.cgroup_events.frozen)
    except (memcg.ProcessNotFoundError, memcg.CgroupNotFoundError):
        return False


def wait_stopped(process: subprocess.Popen[str] | Worker) -> None:
    """Waits until *process* is stopped by an OOM of a held group."""
    wait_until(lambda: is_stopped(process.pid), f"process {process.pid} is stopped by an OOM")


def with_worker(pids: Iterable[int]) -> tuple[int, ...]:
    """The PIDs of guard, keeper and warden, and that of the worker, which on v2 is the guard's child."""
    guard, *others = pids
    children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
    return (guard, *others, *map(int, children))


def guard_is_gone(pids: Iterable[int]) -> bool:
    """Whether the processes of a guard have ended. One that has may still be a zombie: PID 1 can be slow."""
    return all(state(pid) in ("", "Z", "X") for pid in pids)


def guards_of(program: Path) -> list[int]:
    """The processes that run this very file, and have not ended."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/exe") == str(program):
                found.append(int(pid))
    return found


def is_locked(group: Cgroup) -> bool:
    """Whether somebody has the directory locked."""
    directory = os.open(group.path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def mark_of(group: Cgroup) -> str:
    """The text of the mark on the group, "" where there is none."""
    return "".join(os.getxattr(group.path, name).decode() for name in marks(group) if name.endswith(".hold"))


def assert_nothing_left(group: Cgroup, pids: Iterable[int] = (), *, high: int | None = None) -> None:
    """Proves that nothing is left of a hold, there or below: no mark, no lock, none of *pids*; the kernel's killer
    on, or on v2 nothing frozen, and ``memory.high`` of *group* as before."""
    wait_until(lambda: guard_is_gone(pids), f"the guard is gone: {list(pids)}")
    wait_until(lambda: not is_locked(group), "the lock is gone", 5)
    for each in group.walk():
        assert marks(each) == [], f"left on {each.path}"
        if isinstance(each, memcg.CgroupV2):
            assert not each.cgroup_freeze, f"left frozen: {each.path}"
            assert each.high == (high if each == group else None), f"left with a memory.high: {each.path}"
        else:
            assert each.oom.killer_enabled, f"left off: {each.path}"


@contextlib.contextmanager
def held(group: Cgroup, delay: float | None, **options: object) -> Iterator[Hold]:
    """The only hold of this process, of which nothing is left."""
    high = group.high if isinstance(group, memcg.CgroupV2) else None
    with group.oom.hold(delay, **options) as hold:  # type: ignore[arg-type]
        pids = with_worker(hold.guard_pids)
        yield hold
    if group.exists:
        assert_nothing_left(group, pids, high=high)
    else:
        wait_until(lambda: guard_is_gone(pids), "the guard is gone")


def take(hold: Hold, kind: type[Kind], seconds: float = 30) -> tuple[Kind, list[HoldEvent]]:
    """Waits for the next event of that *kind*; that, and what was told before it."""
    before: list[HoldEvent] = []
    while True:
        event = hold.wait(seconds)
        assert event is not None, f"no {kind.__name__}; there were {before}"
        if isinstance(event, kind):
            return event, before
        before.append(event)


def kinds(events: Iterable[HoldEvent]) -> list[str]:
    """The classes of the events, by name. An OOM is told again at each vain attempt of a process to go on: of
    several in a row the first counts."""
    names: list[str] = []
    for event in events:
        name = type(event).__name__
        if name != "OomEvent" or names[-1:] != [name]:
            names.append(name)
    return names
