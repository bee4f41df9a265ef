"""popen(): each argument of subprocess.Popen does what it does there, and the child is in the group."""

from __future__ import annotations

import fcntl
import grp
import io
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING

import pytest

import memcg
from support.popen import Ended, line_of, open_fds, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Options = dict[str, object]

PROBE = """
echo "arguments: $0 $*"
echo "directory: $(pwd)"
read pid comm state ppid pgrp session rest < /proc/self/stat
echo "leads its process group: $((pgrp == pid)), its session: $((session == pid))"
echo "child of: $ppid"
grep -E '^(Umask|Uid|Gid|Groups|NoNewPrivs|SigBlk|SigIgn|SigCgt|CapEff)' /proc/self/status
ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\(.*\\)/\\1/p'
cat /proc/self/cgroup
"""
"""Tells of itself all that an argument of Popen may change; its groups come last."""


def own_user() -> str | int:
    """This user, by name where there is one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return os.geteuid()


def own_group() -> str | int:
    """This user's group, by name where there is one."""
    try:
        return grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        return os.getgid()


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """The program, in a directory of its own on the way of nobody."""
    program = tmp_path / "bin" / "probe"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{PROBE}")
    program.chmod(0o755)
    for directory in (program.parent, tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    return program


def compare(group: memcg.Cgroup, args: object, options: Options) -> None:
    """Sees that both come to the same, but that the memory group of one is *group*."""
    plain, ours = outcome(subprocess.Popen, args, **options), outcome(group.popen, args, **options)
    assert isinstance(plain, Ended)
    assert isinstance(ours, Ended)
    assert ours.status == 0, ours.err
    told, elsewhere = by_group(ours, group)
    assert elsewhere == 1, "it was in the group"
    assert by_group(plain, memcg.current()) == (told, 1)
    assert (ours.status, ours.args, ours.err) == (plain.status, plain.args, plain.err)


def by_group(ended: Ended, group: memcg.Cgroup) -> tuple[list[bytes], int]:
    """What a program said, without the line that says that it is in *group*; and how often it said that."""
    assert isinstance(ended.out, bytes)
    lines = ended.out.splitlines()
    rest = [line for line in lines if not line.endswith(line_of(group).encode())]
    return rest, len(lines) - len(rest)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stdin": DEVNULL},
        {"stdin": PIPE},
        {"stderr": STDOUT},
        {"stderr": DEVNULL},
        {"bufsize": 0},
        {"close_fds": True},
        {"restore_signals": False},
        {"start_new_session": True},
        {"umask": 0o027},
        {"umask": 0},
        {"preexec_fn": lambda: os.chdir("/usr")},
        {"preexec_fn": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "restore_signals": False},
        {"cwd": "/usr"},
        {"cwd": b"/usr"},
        {"cwd": Path("/usr")},
        {"env": {"PATH": "/bin:/usr/bin"}},
        {"env": None},
        {"shell": False, "executable": None},
        {"text": None, "encoding": None, "errors": None, "universal_newlines": False},
        pytest.param({"user": 65534}, marks=root_only),
        pytest.param({"user": 65534, "group": 65534, "extra_groups": []}, marks=root_only),
        {"user": own_user()},
        pytest.param({"group": 65534, "umask": 0o077}, marks=root_only),
        pytest.param({"group": own_group()}, marks=root_only),
        pytest.param({"extra_groups": [65534, 100]}, marks=root_only),
        pytest.param(
            {"process_group": 0},
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="process_group came with Python 3.11"),
        ),
    ],
    ids=str,
)
def test_an_option_does_what_it_does_in_popen(group: memcg.Cgroup, probe: Path, options: Options) -> None:
    """With the option, the program finds itself the same as under subprocess.Popen, but in the group."""
    compare(group, [probe, "a", "b c"], options)


@pytest.mark.parametrize(
    "spell",
    [
        str,
        os.fsencode,
        Path,
        lambda probe: [str(probe), "a"],
        lambda probe: [os.fsencode(probe), b"\xff"],
        lambda probe: (probe, Path("a")),
        lambda probe: [str(probe), "", "--", "-x", "\udcff", "a\nb", "x" * 100_000],
    ],
)
def test_arguments_in_all_spellings(group: memcg.Cgroup, probe: Path, spell: Callable[[Path], object]) -> None:
    """A program alone, or with arguments; as str, bytes or path; in a list or a tuple."""
    compare(group, spell(probe), {})


def test_arguments_from_an_iterator(group: memcg.Cgroup) -> None:
    """As Popen, popen takes any iterable of arguments, and reads it once."""
    told = outcome(group.popen, iter(["/bin/echo", "a", "b"]))
    assert isinstance(told, Ended)
    assert told.out == b"a b\n"


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ("echo $0 $1; cat /proc/self/cgroup", {"shell": True}),
        (b"echo $0 $1; cat /proc/self/cgroup", {"shell": True}),
        (["echo $0 $1; cat /proc/self/cgroup", "a", "b"], {"shell": True}),
        (["echo $0 $1; cat /proc/self/cgroup", b"a", Path("b")], {"shell": True}),
        ("echo $0 $1; cat /proc/self/cgroup", {"shell": True, "executable": "/usr/bin/sh"}),
        ("echo $0 $1; cat /proc/self/cgroup", {"shell": True, "executable": b"/usr/bin/sh", "cwd": "/usr"}),
        (["zero", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"executable": "/bin/sh"}),
        (["zero", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"executable": "sh"}),
        (["zero", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"executable": b"sh"}),
        (["zero", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"executable": Path("/bin/sh")}),
        (["sh", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"executable": "./sh", "cwd": "/bin"}),
        (["./sh", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"cwd": "/bin"}),
        (["sh", "-c", "echo $0 $1; cat /proc/self/cgroup"], {"cwd": "/"}),
    ],
    ids=str,
)
def test_shells_and_executables(group: memcg.Cgroup, args: object, options: Options) -> None:
    """shell= and executable= choose the program, and what it takes for its own name, as in Popen."""
    compare(group, args, options)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"A": "b"},
        {"A": "", "B": "c=d", "É": "ü\udcff"},
        {b"A": b"b", b"B": b"\xff"},
        {"A": b"b", "B": Path("/x")},
        {"LD_LIBRARY_PATH": "/nonexistent", "PATH": "/nonexistent"},
    ],
    ids=str,
)
def test_the_environment_is_the_one_given(group: memcg.Cgroup, env: object) -> None:
    """The program's environment is what env= has, in its order, and nothing else."""
    plain = outcome(subprocess.Popen, ["/usr/bin/env"], env=env)
    assert isinstance(plain, Ended)
    assert outcome(group.popen, ["/usr/bin/env"], env=env) == plain


def test_without_env_the_environment_is_inherited(group: memcg.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """What os.environ has at the time is what the program gets."""
    monkeypatch.setenv("MEMCG_TEST", "yes")
    plain = outcome(subprocess.Popen, ["/usr/bin/env"])
    assert isinstance(plain, Ended)
    assert isinstance(plain.out, bytes)
    assert b"MEMCG_TEST=yes" in plain.out
    assert outcome(group.popen, ["/usr/bin/env"]) == plain


@pytest.mark.parametrize(
    "options",
    [
        {"text": True},
        {"universal_newlines": True},
        {"encoding": "latin-1"},
        {"encoding": "utf-8", "errors": "replace"},
        {"errors": "surrogateescape"},
        {"text": True, "bufsize": 1},
        {"text": False},
    ],
    ids=str,
)
def test_text_and_bytes(group: memcg.Cgroup, options: Options) -> None:
    """text=, encoding=, errors= and universal_newlines= make the pipes text as in Popen."""
    args = ["/usr/bin/printf", r"caf\351\r\nx"]
    if "encoding" not in options and "errors" not in options:
        args[1] = r"cafe\r\nx"
    plain = outcome(subprocess.Popen, args, **options)
    assert isinstance(plain, Ended)
    assert isinstance(plain.out, bytes if options == {"text": False} else str)
    assert outcome(group.popen, args, **options) == plain


def test_streams_are_what_popen_makes_them(group: memcg.Cgroup) -> None:
    """bufsize= and pipesize= shape the pipes: unbuffered, of a size, in text or not."""
    size = 1 << 17
    with group.popen(["/bin/cat"], stdin=PIPE, stdout=PIPE, bufsize=0, pipesize=size) as process:
        assert isinstance(process.stdin, io.FileIO)
        assert isinstance(process.stdout, io.FileIO)
        assert fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ) == size
        process.stdin.write(b"at once")
        assert process.stdout.read(7) == b"at once"
    with group.popen(["/bin/cat"], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as lines:
        assert isinstance(lines.stdin, io.TextIOWrapper)
        assert lines.stdin.line_buffering
    with group.popen(["/bin/true"]) as neither:
        assert (neither.stdin, neither.stdout, neither.stderr) == (None, None, None)


def test_streams_may_be_files(group: memcg.Cgroup, tmp_path: Path) -> None:
    """Files and numbers of file descriptors can be the program's streams, and STDOUT joins its errors to them."""
    (tmp_path / "in").write_bytes(b"from a file\n")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        args = ["/bin/sh", "-c", "cat; echo error >&2"]
        with group.popen(args, stdin=source, stdout=target.fileno(), stderr=STDOUT) as process:
            assert process.wait() == 0
    assert (tmp_path / "out").read_bytes() == b"from a file\nerror\n"


# File descriptors.


@pytest.fixture
def inheritable() -> Iterator[int]:
    """A file that is open and inheritable, as few are."""
    fd = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(fd, True)
    yield fd
    os.close(fd)


LIST_FDS = ["/bin/ls", "/proc/self/fd"]


def listed(group: memcg.Cgroup, **options: object) -> set[str]:
    """The file descriptors that a program has, which are those that it has under Popen."""
    plain, ours = outcome(subprocess.Popen, LIST_FDS, **options), outcome(group.popen, LIST_FDS, **options)
    assert ours == plain
    assert isinstance(ours, Ended)
    assert isinstance(ours.out, bytes)
    return set(ours.out.decode().split())


def test_the_program_inherits_nothing_extra(group: memcg.Cgroup, inheritable: int) -> None:
    """The program has its three streams and what it opens itself; nothing of popen's, and nothing of others."""
    assert listed(group) == {"0", "1", "2", "3"}
    assert listed(group, stdin=DEVNULL) == {"0", "1", "2", "3"}


def test_with_close_fds_false_it_inherits_what_is_inheritable(group: memcg.Cgroup, inheritable: int) -> None:
    """With close_fds=False, inheritable files are passed on, under their numbers, and no others."""
    private = os.dup(inheritable)
    try:
        fds = listed(group, close_fds=False)
    finally:
        os.close(private)
    assert str(inheritable) in fds
    assert str(private) not in fds


def test_pass_fds(group: memcg.Cgroup) -> None:
    """Each file of pass_fds reaches the program under its number, and stays private here."""
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 200)
    try:
        assert listed(group, pass_fds=[writing, high]) >= {str(writing), str(high)}
        args = ["/bin/sh", "-c", f"echo passed >/proc/self/fd/{high}"]
        with group.popen(args, pass_fds=(high,)) as process:
            assert process.wait() == 0
        assert os.read(reading, 100) == b"passed\n"
        assert not os.get_inheritable(high)
    finally:
        for fd in (reading, writing, high):
            os.close(fd)


def test_pass_fds_wins_over_close_fds(group: memcg.Cgroup, inheritable: int) -> None:
    """Given both, pass_fds= is what counts, and the same warning says so."""
    for start in (subprocess.Popen, group.popen):
        with pytest.warns(RuntimeWarning, match="pass_fds overriding close_fds"):
            told = outcome(start, LIST_FDS, pass_fds=[0], close_fds=False)
        assert isinstance(told, Ended)
        assert told.out == b"0\n1\n2\n3\n"


def test_pass_fds_takes_what_popen_takes(group: memcg.Cgroup, inheritable: int) -> None:
    """Numbers that are not int, as Popen converts them, do here too."""
    assert str(inheritable) in listed(group, pass_fds=[str(inheritable)])


def test_a_started_program_leaves_nothing_open_here(group: memcg.Cgroup) -> None:
    """When popen() returns, this process has the pipes that were asked for, and nothing else."""
    before = open_fds()
    process = group.popen(["/bin/cat"], stdin=PIPE)
    assert len(open_fds() - before) == 1
    with process:
        pass
    assert open_fds() == before
