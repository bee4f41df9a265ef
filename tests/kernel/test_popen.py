"""popen(): the child is in the group from the start, whatever else goes on in the process that starts it."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from memcg import MiB
from support.forked import in_child
from support.popen import Ended, Failed, has_children, line_of, open_fds, outcome
from support.processes import finish, sleeps_in, start_hog, state, wait_blocked, wait_until
from support.scripts import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SLEEP = ["/bin/sleep", "60"]
SHOW_CGROUP = ["/bin/cat", "/proc/self/cgroup"]


def children() -> list[int]:
    """The children of this process."""
    return [
        int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]


class Gate:
    """Holds a child up on its way into a group, before it has joined: its linker waits for a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def start(self, group: memcg.Cgroup) -> subprocess.Popen[bytes]:
        """Starts a child that stops at the gate."""
        return group.popen(
            SLEEP, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"LD_PRELOAD": str(self.path)}
        )

    def wait(self) -> None:
        """Waits until there is one."""

        def stopped() -> bool:
            at_the_gate = [pid for pid in children() if "memcg-enter" in os.readlink(f"/proc/{pid}/exe")]
            return any(state(pid) == "S" for pid in at_the_gate)

        wait_until(stopped, "the child waits at the gate")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate."""
    return Gate(tmp_path / "gate")


def in_group(group: memcg.Cgroup, told: Ended | Failed) -> bool:
    """Whether a program that showed its groups was in this one."""
    assert isinstance(told, Ended)
    assert isinstance(told.out, bytes)
    return f"{line_of(group)}\n".encode() in told.out


def test_the_child_is_in_the_group(group: memcg.Cgroup) -> None:
    """The program sees itself in the group, and so does whoever asks; its children are there too."""
    assert in_group(group, outcome(group.popen, SHOW_CGROUP))
    assert in_group(group, outcome(group.popen, "/bin/cat /proc/self/cgroup; true", shell=True))
    with group.popen(SLEEP) as process:
        assert type(process) is subprocess.Popen
        assert process.pid in group.processes()
        assert memcg.of(process.pid) == group
        assert process.args is SLEEP
        process.kill()


def test_all_its_memory_is_charged_to_the_group(group: memcg.Cgroup) -> None:
    """Every page that the program ever touches counts in the group: as many as it has in the end."""
    hog = start_hog(group, 16, stay=True)
    assert say(hog) == "done"
    anonymous = sum(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{hog.pid}/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )
    assert anonymous > 16 * MiB
    assert group.stat.anon >= anonymous - 64 * 4096  # what the kernel has counted, up to a batch
    assert finish(hog) == 0


def test_a_limit_that_is_too_small_for_the_program(group: memcg.Cgroup) -> None:
    """Memory is limited from the first instruction on: with too little, a program is killed or fails at once."""
    small = group.create("small", limit="64K")
    try:
        process = small.popen([sys.executable, "-c", "pass"], stderr=subprocess.DEVNULL)
    except OSError as error:
        assert error.errno in (errno.ENOMEM, errno.E2BIG)  # noqa: PT017 - one of two ways out
    else:
        assert process.wait(timeout=60) != 0
    assert not has_children()


def test_starting_in_a_group_that_is_stuck_never_hangs(group_v1: memcg.CgroupV1) -> None:
    """In a group that is out of memory with its killer off, popen returns or raises, and nobody is left over."""
    group = group_v1
    group.oom.disable()
    hog = start_hog(group, 64)
    wait_blocked(hog)
    started = []
    for _ in range(5):
        try:
            started.append(group.popen(SLEEP, stderr=subprocess.DEVNULL))
        except OSError as error:
            assert error.errno in (errno.ENOMEM, errno.E2BIG)  # noqa: PT017 - one of two ways out
    for process in started:
        process.kill()
        process.wait(timeout=60)
    assert group.processes() == (hog.pid,)
    group.limit = 128 * MiB
    assert finish(hog) == 0


# Threads.


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_many_threads_start_children_while_others_fork(group: memcg.Cgroup) -> None:
    """Sixteen threads start children in groups of their own while others fork: each child is in the right one."""
    over = threading.Event()

    def start(number: int) -> bool:
        mine = group.create(f"thread-{number}")
        return all(in_group(mine, outcome(mine.popen, SHOW_CGROUP)) for _ in range(20))

    def fork() -> None:
        while not over.is_set():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    def spawn() -> None:
        while not over.is_set():
            subprocess.run(["/bin/true"], close_fds=False, check=True)

    with ThreadPoolExecutor(18) as pool:
        others = [pool.submit(fork), pool.submit(spawn)]
        try:
            assert all(pool.map(start, range(16)))
        finally:
            over.set()
        for other in others:
            other.result()


class ForkingFile(io.FileIO):
    """A file that forks a child when it is asked for its number, as another thread may at that very moment."""

    child: int | None = None

    def fileno(self) -> int:
        if self.child is None:
            self.child = os.fork()
            if self.child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(20)
                while True:
                    signal.pause()
        return super().fileno()


def test_a_child_that_is_forked_meanwhile_does_not_hold_it_up(group: memcg.Cgroup) -> None:
    """popen returns though a child that was forked while it was at work lives on, with copies of all its files."""
    with ForkingFile("/dev/null") as file:
        with group.popen(SLEEP, stdin=file) as process:
            process.kill()
        assert file.child is not None
        os.kill(file.child, signal.SIGKILL)
        ended_by = -os.waitstatus_to_exitcode(os.waitpid(file.child, 0)[1])
    assert ended_by == signal.SIGKILL, "popen returned only when the child had exited by itself"


def test_files_that_other_threads_close_do_not_matter(group: memcg.Cgroup) -> None:
    """With close_fds=False, inheritable files may come and go in other threads while a child is started."""
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            fd = os.open("/dev/null", os.O_RDONLY)
            os.set_inheritable(fd, True)
            os.close(fd)

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        try:
            told = [outcome(group.popen, ["/bin/true"], close_fds=False) for _ in range(200)]
        finally:
            over.set()
        churning.result()
    assert [failed for failed in told if isinstance(failed, Failed)] == []


# Standard streams.


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("pipes", [[], ["stdin"], ["stdout", "stderr"], ["stdin", "stdout", "stderr"]], ids=str)
def test_where_standard_streams_are_closed(
    group: memcg.Cgroup, tmp_path: Path, closed: list[int], pipes: list[str]
) -> None:
    """In a process without some of its standard streams, a child gets what it gets from Popen, and no other."""
    listing = tmp_path / "listing"
    args = ["/bin/sh", "-c", f"cat; ls -l /proc/self/fd >{listing}"]
    options = {stream: subprocess.PIPE if stream in pipes else None for stream in ("stdin", "stdout", "stderr")}

    def told_by(start: Callable[..., subprocess.Popen[bytes]]) -> tuple[Ended | Failed, list[str]]:
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), 0)
        for fd in closed:
            os.close(fd)
        ended = outcome(start, args, **options)
        # Each line ends with "0 -> /dev/null" and the like; the numbers of pipes and processes differ.
        return ended, [line.split()[8] for line in listing.read_text().splitlines()[1:]]

    plain = in_child(lambda: told_by(subprocess.Popen))
    assert in_child(lambda: told_by(group.popen)) == plain
    assert isinstance(plain[0], Ended)


# Want of file descriptors.


def test_without_file_descriptors(group: memcg.Cgroup) -> None:
    """With too few file descriptors left, popen raises EMFILE and leaves nothing; with enough, it works."""

    def try_with(spare: int) -> tuple[object, bool, bool]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(spare):
            os.close(taken.pop())
        before = [fd for fd in range(64) if is_open(fd)]
        told = outcome(group.popen, ["/bin/true"])
        number = told.errno if isinstance(told, Failed) else 0
        return number, [fd for fd in range(64) if is_open(fd)] == before, has_children()

    results = [in_child(lambda spare=spare: try_with(spare)) for spare in range(16)]  # type: ignore[misc]
    numbers = [number for number, _, _ in results]
    if sys.version_info >= (3, 11):  # Python 3.10's own Popen leaves pipes open where it gets no other one
        assert {clean for _, clean, _ in results} == {True}
    assert {child for _, _, child in results} == {False}
    assert set(numbers) == {0, errno.EMFILE}
    assert numbers == sorted(numbers, key=lambda number: number != errno.EMFILE)
    assert numbers[0] == errno.EMFILE
    assert numbers[-1] == 0


def is_open(fd: int) -> bool:
    """Whether the number stands for a file, found out without a file descriptor."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


# Signals.


class _StopError(Exception):
    """Raised by a signal handler."""


@pytest.fixture(params=[_StopError, KeyboardInterrupt, TimeoutError])
def stop_error(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What SIGUSR1 raises in the main thread. A TimeoutError, which many handlers raise, is an OSError too."""
    error: type[BaseException] = request.param

    def stop(number: int, frame: FrameType | None) -> None:
        raise error

    former = signal.signal(signal.SIGUSR1, stop)
    yield error
    signal.signal(signal.SIGUSR1, former)


def test_a_handler_that_raises_while_the_child_enters(
    group: memcg.Cgroup, stop_error: type[BaseException], gate: Gate
) -> None:
    """A signal handler that raises before the child has become its program leaves no child and no file."""
    before = open_fds()

    def interrupt() -> None:
        gate.wait()
        wait_until(lambda: sleeps_in(f"/proc/{os.getpid()}", "pipe_read"), "popen waits for its child")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    with ThreadPoolExecutor(1) as pool:
        interrupting = pool.submit(interrupt)
        with pytest.raises(stop_error):
            gate.start(group)
        interrupting.result()
    assert not has_children()
    assert open_fds() == before
    assert group.processes() == ()


def test_a_handler_that_raises_while_popen_forks(group: memcg.Cgroup, stop_error: type[BaseException]) -> None:
    """A signal handler that raises while subprocess.Popen itself waits leaves no child either."""
    before = open_fds()

    def signal_the_parent() -> None:
        parent = os.getppid()
        wait_until(lambda: sleeps_in(f"/proc/{parent}", "pipe_read"), "Popen waits for its child")
        os.kill(parent, signal.SIGUSR1)
        time.sleep(0.1)  # not waited for: time in which the parent may go wrong

    with pytest.raises(stop_error):
        group.popen(SLEEP, stdin=subprocess.PIPE, preexec_fn=signal_the_parent)
    left = has_children()
    for pid in children():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not left
    assert open_fds() == before
    assert group.processes() == ()


INTERRUPTED = """
import os, random, signal, sys, traceback
import memcg

class Stop(Exception): pass

def stop(number, frame): raise Stop

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]

sys.unraisablehook = lambda unraisable: None  # where it hits a destructor, Python drops it
signal.signal(signal.SIGALRM, stop)
group = memcg.open(sys.argv[1])
interrupted = 0
for _ in range(300):
    process = where = None
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003))
        process = group.popen(["/bin/sleep", "60"])
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop as error:
        where = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    if process is not None:
        process.kill()
        process.wait()
    elif where and "_start" in where:  # not on the last step, where a process is handed over and Python has it
        interrupted += 1
        if children():
            print("left by", *where)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
print("interrupted" if interrupted else "never interrupted")
"""


def test_a_handler_that_raises_at_any_moment(group: memcg.Cgroup) -> None:
    """Interrupted three hundred times, at random moments, popen never leaves a child to itself."""
    told = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, group.cgroup_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert told == "interrupted\n"


def test_signals_that_do_not_raise_do_not_matter(group: memcg.Cgroup) -> None:
    """Signal handlers run while children are started, and every child starts all the same."""
    heard: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.0002)

    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb)
        try:
            told = [outcome(group.popen, SHOW_CGROUP) for _ in range(100)]
        finally:
            over.set()
            disturbing.result()
            signal.signal(signal.SIGUSR1, former)
    assert heard
    assert all(in_group(group, each) for each in told)


# Another user.


AS_NOBODY = """
import subprocess, sys
import memcg
assert memcg.__file__.startswith(sys.argv[2]), memcg.__file__
group = memcg.open(sys.argv[1])
options = dict(user=65534, group=65534, extra_groups=[], cwd="/", stdout=subprocess.PIPE)
with group.popen(["/bin/sh", "-c", "id -u; id -G; cat /proc/self/cgroup"], **options) as process:
    sys.stdout.buffer.write(process.communicate()[0])
try:
    group.popen(["/nonexistent"], **options)
except FileNotFoundError as error:
    print(error.filename)
"""


def test_a_user_who_cannot_reach_the_package(group: memcg.Cgroup, tmp_path: Path) -> None:
    """With user=, the child need not be able to read where memcg is installed, such as a home of root's."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    private = tmp_path / "private"
    shutil.copytree(Path(memcg.__file__).parent, private / "memcg")
    private.chmod(0o700)
    told = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, group.cgroup_path, private],
        env={**os.environ, "PYTHONPATH": str(private)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert told[:2] == ["65534", "65534"]
    assert told[-1] == "/nonexistent"
    assert any(line.endswith(line_of(group)) for line in told)
