"""popen(): what goes wrong raises as it does in subprocess.Popen, and leaves no child and no file behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcg
from support.forked import as_nobody
from support.popen import Ended, Failed, has_children, open_fds, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    Options = dict[str, object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a program that runs, in "right", and many things that do not."""
    place = tmp_path_factory.mktemp("programs")
    files: dict[str, tuple[bytes, int]] = {
        "right/program": (b"#!/bin/sh\necho $0 $*\n", 0o755),
        "wrong/program": (b"#!/bin/sh\necho wrong\n", 0o644),
        "hidden/program": (b"#!/bin/sh\necho $0 $*\n", 0o755),
        "no-format": (b"\0\1\2\3", 0o755),
        "no-interpreter": (b"#!/nonexistent/interpreter\n", 0o755),
        "empty": (b"", 0o755),
        "empty-dir/file": (b"", 0o644),
    }
    for name, (content, mode) in files.items():
        file = place / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    (place / "loop").symlink_to("loop")
    (place / "to-program").symlink_to("right/program")
    return place


NOT_ON_3_10 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10's own Popen leaves its pipes open where it refuses this"
)


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of this module run in that directory, and may write {place} for it."""
    monkeypatch.chdir(place)


@pytest.fixture(autouse=True)
def _leaves_nothing(group: memcg.Cgroup) -> Iterator[None]:
    """No failure leaves a child, a process in the group, or a file descriptor."""
    assert not has_children()
    before = open_fds()
    yield
    assert open_fds() == before
    assert not has_children()
    assert group.processes() == ()


def compare(cg: memcg.Cgroup, args: object, /, **options: object) -> Ended | Failed:
    """What both come to, which is the same."""
    plain = outcome(subprocess.Popen, args, **options)
    assert outcome(cg.popen, args, **options) == plain
    return plain


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("/nonexistent", errno.ENOENT),
        ("nonexistent", errno.ENOENT),
        ("./nonexistent", errno.ENOENT),
        ("right/program/below", errno.ENOTDIR),
        ("./no-interpreter", errno.ENOENT),
        ("./no-format", errno.ENOEXEC),
        ("./empty", errno.ENOEXEC),
        ("./wrong/program", errno.EACCES),
        ("./right", errno.EACCES),
        ("/", errno.EACCES),
        ("./loop", errno.ELOOP),
        ("/" + "a" * 300, errno.ENAMETOOLONG),
        ("/a" * 5000, errno.ENAMETOOLONG),
    ],
)
def test_a_program_that_cannot_be_run(group: memcg.Cgroup, program: str, number: int) -> None:
    """The error has Popen's class, errno and filename, whichever way the program is named."""
    for args in (program, [program], [program, "argument"], (program,)):
        failed = compare(group, args)
        assert isinstance(failed, Failed)
        assert (failed.errno, failed.filename) == (number, program)
    assert compare(group, ["zero"], executable=program) == failed


@pytest.mark.parametrize("program", [b"/nonexistent", b"nonexistent", Path("/nonexistent"), b"/\xff"])
def test_the_error_names_the_program_as_it_was_given(group: memcg.Cgroup, program: object) -> None:
    """Where the program was given as bytes or as a path, that is the error's filename, as in Popen."""
    for args in (program, [program]):
        failed = compare(group, args)
        assert isinstance(failed, Failed)
        assert failed.filename == program
    assert compare(group, ["zero"], executable=program) == failed


def test_the_error_says_what_is_wrong(group: memcg.Cgroup) -> None:
    """A missing program is an ordinary FileNotFoundError with its name, without a trace of how it was started."""
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '/nonexistent'$"):
        group.popen(["/nonexistent"])


@pytest.mark.parametrize(
    ("cwd", "program"),
    [
        ("nonexistent", "/bin/true"),
        ("nonexistent", "/nonexistent"),
        (Path("nonexistent"), "/bin/true"),
        (b"nonexistent", "/bin/true"),
        ("right/program", "/bin/true"),
        ("", "/bin/true"),
        ("right", "./nonexistent"),
        ("right", "right/program"),
        ("wrong", "./program"),
    ],
)
def test_a_directory_that_is_wrong(group: memcg.Cgroup, cwd: object, program: str) -> None:
    """A bad cwd= is told from a bad program, by the filename, as in Popen; a program is looked for from there."""
    failed = compare(group, [program], cwd=cwd)
    assert isinstance(failed, Failed)
    assert isinstance(failed.errno, int)


def test_a_relative_program_is_found_from_cwd(group: memcg.Cgroup) -> None:
    """A path without a leading slash is one of the directory that the program runs in."""
    ended = compare(group, ["./program", "a"], cwd="right")
    assert isinstance(ended, Ended)
    assert ended.out == b"./program a\n"


# The search along PATH.


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("right", b"right/program"),
        ("nonexistent:right", b"right/program"),
        ("empty:right", b"right/program"),
        ("wrong:right", b"right/program"),
        ("right:wrong", b"right/program"),
        ("right:hidden", b"right/program"),
        ("{place}/right", b"{place}/right/program"),
        ("empty-dir:wrong:nonexistent", errno.EACCES),
        ("wrong", errno.EACCES),
        ("loop:nonexistent", errno.ELOOP),
        ("nonexistent:empty", errno.ENOTDIR),
        ("empty:nonexistent", errno.ENOENT),
        ("empty-dir", errno.ENOENT),
        ("", errno.ENOENT),
        (":", errno.ENOENT),
    ],
)
def test_the_search_along_path(group: memcg.Cgroup, place: Path, path: str, found: bytes | int) -> None:
    """The first program that can be run is; and where none can, the first error that says more than "not here"."""
    path = path.format(place=place)
    environments: list[object] = [{"PATH": path}, {b"PATH": path.encode()}, {"PATH": path.encode()}]
    for env in environments:
        result = compare(group, ["program"], env=env)
        if isinstance(found, int):
            assert isinstance(result, Failed)
            assert (result.errno, result.filename) == (found, "program")
        else:
            assert isinstance(result, Ended)
            assert result.out == found.replace(b"{place}", os.fsencode(place)) + b"\n"


def test_the_search_is_along_the_path_of_env(
    group: memcg.Cgroup, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where env= is given, its PATH counts, and not that of this process; without PATH in it, the default's."""
    monkeypatch.setenv("PATH", f"{place}/hidden:{os.environ['PATH']}")
    told = compare(group, ["program"])
    assert isinstance(told, Ended)
    assert told.out == f"{place}/hidden/program\n".encode()
    environments: list[object] = [{}, {"A": "b"}, {b"A": b"b"}]
    for env in environments:
        assert isinstance(compare(group, ["program"], env=env), Failed)
        assert isinstance(compare(group, ["true"], env=env), Ended)


def test_two_paths_are_one_too_many(group: memcg.Cgroup) -> None:
    """An env with PATH as str and as bytes is refused, as in Popen."""
    failed = compare(group, ["program"], env={"PATH": "/bin", b"PATH": b"/bin"})
    assert isinstance(failed, Failed)
    assert failed.kind is ValueError


def test_an_empty_path_is_the_working_directory(group: memcg.Cgroup) -> None:
    """An empty entry of PATH stands for the directory that the program runs in."""
    told = compare(group, ["program"], env={"PATH": ":/nonexistent"}, cwd="right")
    assert isinstance(told, Ended)


# Arguments that mean nothing.


@pytest.mark.parametrize("args", [[], ()])
def test_no_arguments_at_all(group: memcg.Cgroup, args: list[str]) -> None:
    """Without a program there is nothing to start, and the error says that."""
    with pytest.raises(memcg.InvalidValueError, match="args is empty"):
        group.popen(args)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ("/bin/true\0", {}),
        (["/bin/true\0"], {}),
        ([b"/bin/true\0"], {}),
        (["/bin/true", "a\0"], {}),
        (["true\0"], {}),
        (["/bin/true"], {"executable": "/bin/true\0"}),
        (["/bin/true"], {"cwd": "/\0"}),
        (["/bin/true"], {"env": {"A": "\0"}}),
        (["/bin/true"], {"env": {"A\0": "b"}}),
        (["/bin/true"], {"env": {"A=B": "b"}}),
        (["/bin/true"], {"env": {"A": 5}}),
        (["/bin/true"], {"env": 5}),
        (["/bin/echo", "\ud800"], {}),
        (["\ud800"], {}),
        (5, {}),
        (None, {}),
        ([5], {}),
        (["/bin/true", 5], {}),
        ("", {}),
        ([""], {}),
        (["/bin/true"], {"executable": ""}),
        ("echo", {"shell": True, "executable": ""}),
        ("echo", {"shell": True, "executable": "/nonexistent"}),
        (["/bin/true"], {"bufsize": "large"}),
        (["/bin/true"], {"unknown": 1}),
        (["/bin/true"], {"creationflags": 1}),
        (["/bin/true"], {"startupinfo": 1}),
        (["/bin/true"], {"pass_fds": [9999]}),
        (["/bin/true"], {"pass_fds": [-1]}),
        (["/bin/true"], {"pass_fds": 5}),
        pytest.param(["/bin/true"], {"user": "no such user"}, marks=NOT_ON_3_10),
        pytest.param(["/bin/true"], {"user": -5}, marks=NOT_ON_3_10),
        pytest.param(["/bin/true"], {"user": 1.5}, marks=NOT_ON_3_10),
        pytest.param(["/bin/true"], {"group": "no such group"}, marks=NOT_ON_3_10),
        pytest.param(["/bin/true"], {"extra_groups": "root"}, marks=NOT_ON_3_10),
        (["/bin/true"], {"umask": "022"}),
        (["/bin/true"], {"stdin": 9999}),
        (["/bin/true"], {"stdin": "file"}),
        (["/bin/true"], {"stdin": subprocess.STDOUT}),
        (["/bin/true"], {"text": True, "universal_newlines": False}),
        (["/bin/true"], {"pipesize": "large"}),
        (["/bin/true"], {"pipesize": 1 << 40}),
        (["/bin/true"], {"cwd": 5}),
        (["/bin/true"], {"preexec_fn": lambda: 1 // 0}),
        (["/bin/true"], {"preexec_fn": 5}),
    ],
    ids=str,
)
def test_arguments_that_mean_nothing(group: memcg.Cgroup, args: object, options: Options) -> None:
    """What Popen refuses is refused in the same way, or runs where Popen lets it run."""
    compare(group, args, **options)


def test_a_path_is_no_command_for_a_shell(group: memcg.Cgroup) -> None:
    """With shell=True, a path in place of the command is a TypeError, as in Popen, of our tree."""
    with pytest.raises(TypeError, match="path"):
        subprocess.Popen(Path("/bin/true"), shell=True)
    with pytest.raises(memcg.InvalidTypeError, match="path"):
        group.popen(Path("/bin/true"), shell=True)


@pytest.mark.parametrize("args", [["/bin/echo", "x" * 200_000], ["/bin/echo", *["x" * 100_000] * 30]])
def test_more_arguments_than_linux_takes(group: memcg.Cgroup, args: list[str]) -> None:
    """Arguments beyond what the kernel takes are its E2BIG, with the name of the program."""
    failed = compare(group, args)
    assert failed == Failed(OSError, errno.E2BIG, "/bin/echo")


def test_failures_with_pipes(group: memcg.Cgroup) -> None:
    """A failure with pipes to the child in all directions, and as text, closes them all."""
    failed = compare(group, ["/nonexistent"], stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert isinstance(failed, Failed)


# The group.


def test_a_group_that_is_gone(group: memcg.Cgroup) -> None:
    """Nothing can be started in a group that was removed, and nothing is."""
    child = group.create("child")
    child.remove()
    with pytest.raises(memcg.CgroupRemovedError) as caught:
        child.popen(["/bin/true"])
    assert caught.value.errno == errno.ENODEV
    assert caught.value.filename == str(child.path)


def test_a_group_that_may_not_be_entered(group: memcg.Cgroup) -> None:
    """Who may not write the group's cgroup.procs can start nothing in it."""
    with pytest.raises(memcg.AccessDeniedError, match="start a process in the cgroup") as caught:
        as_nobody(lambda: group.popen(["/bin/true"]).wait())
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename == str(group.path)


def test_a_group_that_is_removed_while_the_child_starts(group: memcg.Cgroup) -> None:
    """Where the group goes between fork and joining it, that is what is raised, and not that of the program."""
    child = group.create("child")
    with pytest.raises(memcg.CgroupRemovedError) as caught:
        child.popen(["/nonexistent"], preexec_fn=child.remove)
    assert caught.value.filename == str(child.path)
    assert not child.exists
