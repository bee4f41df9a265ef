"""The two ways underneath to be told of something by the kernel: inotify, and polling on one's behalf."""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memcg import ClosedError, KernelError
from memcg.inotify import DELETED, OVERFLOWN, Inotify
from memcg.kernelpoll import BROKEN, KernelPoll
from unit.helpers import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator


def ready(fd: int, milliseconds: int = 0) -> bool:
    """Whether the file is readable, within that time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


# inotify.


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    """One that watches nothing yet."""
    with Inotify() as inotify:
        yield inotify


def watch(inotify: Inotify, directory: Path) -> int:
    """Has it watch for what is removed from a directory."""
    fd = os.open(directory, os.O_PATH)
    try:
        return inotify.add(fd, DELETED, str(directory))
    finally:
        os.close(fd)


def test_what_is_removed_is_told_by_name(inotify: Inotify, tmp_path: Path) -> None:
    """Each removal is one change, with the directory's number, and nothing is told of what is made."""
    number = watch(inotify, tmp_path)
    assert list(inotify.read()) == []
    names = ("a", "b" * 255, "ü")
    for name in names:
        (tmp_path / name).mkdir()
    assert not ready(inotify.fileno())
    for name in names:
        (tmp_path / name).rmdir()
    assert ready(inotify.fileno())
    changes = list(inotify.read())
    assert [change.name for change in changes] == [b"a", b"b" * 255, "ü".encode()]
    assert {change.watch for change in changes} == {number}
    assert all(change.mask & DELETED for change in changes)
    assert list(inotify.read()) == []


def test_one_directory_has_one_number(inotify: Inotify, tmp_path: Path) -> None:
    """The same directory, however it was opened, is the same watch, and another one another."""
    (tmp_path / "other").mkdir()
    assert watch(inotify, tmp_path) == watch(inotify, tmp_path / "other" / "..")
    assert watch(inotify, tmp_path) != watch(inotify, tmp_path / "other")


def test_a_watch_that_has_ended_tells_nothing_more(inotify: Inotify, tmp_path: Path) -> None:
    """After remove(), and a second one, the directory is of no interest."""
    number = watch(inotify, tmp_path)
    for _ in range(2):
        inotify.remove(number)
    list(inotify.read())
    (tmp_path / "a").mkdir()
    (tmp_path / "a").rmdir()
    assert list(inotify.read()) == []


def test_events_that_were_lost_are_told_as_such(inotify: Inotify) -> None:
    """Where more happens than the kernel keeps, the last change says so."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 20_000:
        pytest.skip(f"the kernel keeps {most} events here, which would take long to fill")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        watch(inotify, Path(place))
        names = [f"{place}/a", f"{place}/b"]  # those that follow one another must differ, or they are one event
        for number in range(most + 1):
            os.mkdir(names[number % 2])
            os.rmdir(names[number % 2])
    changes = list(inotify.read())
    assert len(changes) == most + 1
    assert changes[-1].mask & OVERFLOWN
    assert changes[-1].watch == -1


def test_what_cannot_be_watched(inotify: Inotify, tmp_path: Path) -> None:
    """The error names the directory."""
    fd = os.open(tmp_path, os.O_PATH)
    os.close(fd)
    with pytest.raises(KernelError) as caught:
        inotify.add(fd, DELETED, "/some/where")
    assert caught.value.filename == "/some/where"


# The kernel's poll.


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(end)


def test_it_stays_readable_until_it_is_taken(pipe: tuple[int, int]) -> None:
    """What was found is kept, however often one polls, and after take() is waited for anew."""
    reading, writing = pipe
    with KernelPoll(reading, select.POLLIN) as poll:
        assert not ready(poll.fileno())
        assert poll.take() == 0
        for _ in range(3):
            os.write(writing, b"x")
            for _ in range(3):
                assert ready(poll.fileno(), 30_000)
            os.read(reading, 1)
            assert poll.take() == select.POLLIN
            assert not ready(poll.fileno())


def test_what_is_there_already_is_found(pipe: tuple[int, int]) -> None:
    """A file that is ready when it begins is found to be."""
    reading, writing = pipe
    os.write(writing, b"x")
    with KernelPoll(reading, select.POLLIN) as poll:
        assert ready(poll.fileno(), 30_000)
        assert poll.take() == select.POLLIN


def test_a_broken_file_is_told_once(pipe: tuple[int, int]) -> None:
    """A pipe that nobody reads any more is broken: it is found, and not waited for again."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    with KernelPoll(writing, 0) as poll:
        os.close(reading)
        assert ready(poll.fileno(), 30_000)
        assert poll.take() & BROKEN
        assert not ready(poll.fileno(), 50)
        assert poll.take() == 0


def test_closing_lets_go_of_the_file(pipe: tuple[int, int]) -> None:
    """After close() the kernel holds the file no longer: its other end sees that it is gone."""
    reading, writing = pipe
    poll = KernelPoll(reading, select.POLLIN)
    os.close(reading)
    os.write(writing, b"x")  # the kernel still has it
    poll.close()
    poll.close()
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    with pytest.raises(ClosedError):
        poll.take()


def test_a_forked_child_does_not_end_it(pipe: tuple[int, int]) -> None:
    """Closing it in a child leaves the parent's waiting."""
    reading, writing = pipe
    with KernelPoll(reading, select.POLLIN) as poll:
        in_child(poll.close)
        os.write(writing, b"x")
        assert ready(poll.fileno(), 30_000)
        assert poll.take() == select.POLLIN
