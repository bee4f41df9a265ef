"""One directory, reached through nothing that could divert it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from memcg import (
    CgroupBusyError,
    CgroupExistsError,
    CgroupNotFoundError,
    CgroupRemovedError,
    InvalidTypeError,
    InvalidValueError,
    NotACgroupError,
)
from memcg._ffi import lib
from memcg.cgroupfs import directory
from memcg.cgroupfs.directory import Directory, check_name, open_confined, open_stepwise, pread_whole
from memcg.cgroupfs.mounts import Mount, Version
from unit.helpers import SOON, open_fds, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Opener = Callable[[int, str, int], int]


class Kernel:
    """Stands for the compiled module: a kernel whose openat2(2) gives these answers first."""

    def __init__(self, *answers: int, magic: int | None = None) -> None:
        self._answers = list(answers)
        self._magic = magic

    def memcg_openat2(self, directory: int, path: bytes, flags: int, resolve: int) -> int:
        """As the module has it."""
        if not self._answers:
            return lib.memcg_openat2(directory, path, flags, resolve)
        return self._answers.pop(0)

    def memcg_file_system_magic(self, fd: int) -> int:
        """As the module has it, or always the same."""
        return lib.memcg_file_system_magic(fd) if self._magic is None else self._magic


# Names.


@pytest.mark.parametrize(
    "name", ["a", "memcg-1", "with space", "a.slice", "...", "-", "ä" * 127, "x" * 255, "\udcff"]
)
def test_the_name_of_one_child_is_taken(name: str) -> None:
    """Whatever can name one directory is a name, up to 255 bytes."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "a/b", "/a", "a/", "../a", "a\0b", "a\nb", "\n", "x" * 256, "ä" * 128, "\ud800"],
    ids=ascii,
)
def test_what_names_no_child_is_refused(name: str) -> None:
    """Paths, "." and "..", NUL, newline, nothing, too much, and what has no bytes are an InvalidValueError."""
    with pytest.raises(InvalidValueError):
        check_name(name)


@pytest.mark.parametrize("name", [b"a", 1, None, ["a"]], ids=repr)
def test_a_name_of_another_type_is_refused(name: object) -> None:
    """What is no str is an InvalidTypeError."""
    with pytest.raises(InvalidTypeError, match="the name of a cgroup is a str"):
        check_name(name)  # type: ignore[arg-type]


# Opening.


@pytest.fixture(params=["openat2", "stepwise", "ENOSYS", "EPERM"])
def opener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """The ways to open a path: openat2(2), without it, and where the kernel lacks or forbids it."""
    if request.param == "stepwise":
        return open_stepwise
    if request.param != "openat2":
        monkeypatch.setattr(directory, "lib", Kernel(-getattr(errno, request.param)))
    return open_confined


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[int]:
    """An open directory: files ``file`` and ``a/b/file``, and symlinks, next to a file that is outside."""
    inside = tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "file").write_text("top")
    (inside / "a" / "b" / "file").write_text("deep")
    (tmp_path / "outside").write_text("secret")
    (inside / "link-to-file").symlink_to("file")
    (inside / "link-to-a").symlink_to("a")
    (inside / "link-up").symlink_to("..")
    (inside / "link-out").symlink_to(tmp_path)
    (inside / "a" / "link-to-b").symlink_to("b")
    (inside / "dangling").symlink_to("nothing")
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def refused(opener: Opener, directory: int, path: str, flags: int = os.O_RDONLY) -> str:
    """The name of the errno with which *path* is refused, having left nothing open."""
    before = open_fds()
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        os.close(opener(directory, path, flags))
    assert open_fds() == before
    return errno.errorcode[caught.value.errno or 0]


@pytest.mark.parametrize(("path", "text"), [("file", b"top"), ("a/b/file", b"deep")])
def test_a_plain_path_leads_to_its_file(opener: Opener, tree: int, path: str, text: bytes) -> None:
    """Each way of opening leads to the same file, through any number of directories, close-on-exec."""
    before = open_fds()
    fd = opener(tree, path, os.O_RDONLY)
    try:
        assert os.read(fd, 100) == text
        assert not os.get_inheritable(fd)
        assert len(open_fds() - before) == 1
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", [".", "a", "a/b"])
@pytest.mark.parametrize("flags", [os.O_PATH | os.O_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY], ids=["path", "read"])
def test_a_plain_path_leads_to_its_directory(opener: Opener, tree: int, path: str, flags: int) -> None:
    """Directories are opened likewise, the starting one included."""
    fd = opener(tree, path, flags)
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=tree))
    finally:
        os.close(fd)


def test_a_file_can_be_opened_for_writing(opener: Opener, tree: int) -> None:
    """The flags reach the kernel."""
    fd = opener(tree, "a/b/file", os.O_WRONLY)
    try:
        assert os.write(fd, b"new!") == 4
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["link-to-file", "link-to-a", "link-up", "link-out", "dangling", "a/link-to-b"])
@pytest.mark.parametrize(
    "flags", [os.O_RDONLY, os.O_PATH, os.O_PATH | os.O_DIRECTORY], ids=["read", "path", "directory"]
)
def test_a_symlink_at_the_end_is_refused(opener: Opener, tree: int, path: str, flags: int) -> None:
    """A symlink is never followed, nor opened itself, wherever it points."""
    assert refused(opener, tree, path, flags) in ("ELOOP", "ENOTDIR")


@pytest.mark.parametrize("path", ["link-to-a/b/file", "a/link-to-b/file", "link-up/outside", "link-out/outside"])
def test_a_symlink_in_the_middle_is_refused(opener: Opener, tree: int, path: str) -> None:
    """A symlink on the way is not followed, not even one that stays within."""
    assert refused(opener, tree, path) in ("ELOOP", "ENOTDIR")


@pytest.mark.parametrize("path", ["..", "../outside", "../inside/file", "a/../../outside", "a/b/../../../outside"])
def test_a_path_that_leads_above_is_refused(opener: Opener, tree: int, path: str) -> None:
    """However deep it begins, no path leads out, and a refusal leaves nothing open."""
    assert refused(opener, tree, path) == "EXDEV"


def test_an_absolute_path_is_refused(opener: Opener, tree: int, tmp_path: Path) -> None:
    """A leading slash does not lead to the root of the machine."""
    assert refused(opener, tree, "/etc/passwd") == "EXDEV"
    assert refused(opener, tree, str(tmp_path / "outside")) == "EXDEV"
    assert refused(opener, tree, "/", os.O_PATH) == "EXDEV"


@pytest.mark.parametrize(
    ("path", "number"),
    [("nothing", "ENOENT"), ("a/nothing", "ENOENT"), ("nothing/file", "ENOENT"), ("file/x", "ENOTDIR")],
)
def test_a_path_to_nothing_is_the_kernels_error(opener: Opener, tree: int, path: str, number: str) -> None:
    """Where there is no such file, or a file is in the way, the errno says so."""
    assert refused(opener, tree, path) == number


def test_another_mount_is_not_entered(opener: Opener) -> None:
    """A path that crosses onto another file system is refused, at its end and on the way."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        assert refused(opener, fd, "proc", os.O_PATH | os.O_DIRECTORY) == "EXDEV"
        assert refused(opener, fd, "proc/version") == "EXDEV"
    finally:
        os.close(fd)


def test_a_magic_link_is_refused(opener: Opener) -> None:
    """The links in /proc/PID, which jump anywhere, are not followed."""
    fd = os.open(f"/proc/{os.getpid()}", os.O_PATH | os.O_DIRECTORY)
    try:
        assert refused(opener, fd, "exe") in ("ELOOP", "ENOTDIR")
        assert refused(opener, fd, "root/etc", os.O_PATH) in ("ELOOP", "ENOTDIR")
        assert refused(opener, fd, "cwd", os.O_PATH | os.O_DIRECTORY) in ("ELOOP", "ENOTDIR")
    finally:
        os.close(fd)


def test_a_rename_meanwhile_is_tried_again(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN, with which openat2(2) answers where something was renamed just then, is not passed on."""
    monkeypatch.setattr(directory, "lib", Kernel(-errno.EAGAIN, -errno.EINTR, -errno.EAGAIN))
    os.close(open_confined(tree, "file", os.O_RDONLY))


def test_trying_again_has_an_end(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where EAGAIN never ends, the error comes through in the end."""
    monkeypatch.setattr(directory, "lib", Kernel(*[-errno.EAGAIN] * 1000))
    assert refused(open_confined, tree, "file") == "EAGAIN"


def test_any_other_refusal_is_not_a_missing_system_call(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ENOSYS and EPERM mean that openat2(2) cannot be used: EACCES is the answer."""
    monkeypatch.setattr(directory, "lib", Kernel(-errno.EACCES))
    assert refused(open_confined, tree, "file") == "EACCES"


# Is it a cgroup?


def mount(point: Path, version: Version = 1) -> Mount:
    """A mount that is none: a directory that claims to be one."""
    return Mount(version, str(point), "/", point.stat().st_dev, frozenset({"memory"}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("relative", ["", "a"])
def test_a_directory_of_another_file_system_is_no_cgroup(tmp_path: Path, version: Version, relative: str) -> None:
    """The kernel's word on the file system counts: a plain directory is NotACgroupError, whatever its place."""
    (tmp_path / "a").mkdir()
    with pytest.raises(NotACgroupError, match=rf"{tmp_path}/?{relative} is no directory of the cgroup v{version}"):
        Directory.find(mount(tmp_path, version), relative)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """A missing directory is a CgroupNotFoundError with the full path, and so is a missing mount point."""
    with pytest.raises(CgroupNotFoundError) as caught:
        Directory.find(mount(tmp_path), "a/b")
    assert caught.value.filename == f"{tmp_path}/a/b"
    gone = Mount(1, str(tmp_path / "gone"), "/", 0, frozenset())
    with pytest.raises(CgroupNotFoundError):
        Directory.find(gone, "")


def test_a_symlink_to_a_cgroup_is_none(tmp_path: Path) -> None:
    """A symlink planted in the path is NotACgroupError, which names the path."""
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    for relative in ("link", "link/b"):
        with pytest.raises(NotACgroupError, match=f"{tmp_path}/{relative} leads through a symlink"):
            Directory.find(mount(tmp_path), relative)


def test_a_file_is_no_cgroup(tmp_path: Path) -> None:
    """A file where the directory should be is NotACgroupError."""
    (tmp_path / "file").touch()
    with pytest.raises(NotACgroupError):
        Directory.find(mount(tmp_path), "file")


# What a directory does, on one that passes for a cgroup: the file system is the only difference.


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    """The root of what passes for a hierarchy."""
    monkeypatch.setattr(directory, "lib", Kernel(magic=lib.CGROUP_SUPER_MAGIC))
    directory._kept.clear()
    yield Directory.find(mount(tmp_path), "")
    directory._kept.clear()


def test_children_are_created_found_and_removed(top: Directory) -> None:
    """create(), child(), parent() and children() agree on the tree, and remove() takes from it."""
    assert top.children() == []
    b, a = top.create("b"), top.create("a")
    deep = a.create("deep")
    assert top.children() == ["a", "b"]
    assert top.child("a") == a
    assert (deep.relative, deep.path) == ("a/deep", f"{top.path}/a/deep")
    assert deep.parent() == a
    assert a.parent() == top
    assert top.parent() is None
    b.remove()
    assert top.children() == ["a"]
    assert not b.exists
    assert a.exists


def test_files_and_symlinks_are_no_children(top: Directory, tmp_path: Path) -> None:
    """children() lists directories only."""
    top.create("a")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    assert top.children() == ["a"]


def test_what_exists_cannot_be_created(top: Directory) -> None:
    """create() of a name that is taken is a CgroupExistsError with the path."""
    top.create("a")
    with pytest.raises(CgroupExistsError) as caught:
        top.create("a")
    assert caught.value.filename == f"{top.path}/a"


def test_a_bad_name_creates_nothing(top: Directory) -> None:
    """A name that is none is refused before the kernel sees it."""
    for name in ("", "..", "a/b", "a\nb"):
        with pytest.raises(InvalidValueError):
            top.create(name)
    assert top.children() == []


def test_the_root_cannot_be_removed(top: Directory) -> None:
    """The directory that is mounted is not removed: NotACgroupError."""
    with pytest.raises(NotACgroupError, match="cannot be removed"):
        top.remove()


def test_one_in_the_same_place_is_another(top: Directory, tmp_path: Path) -> None:
    """When another directory has taken its name, the old one is gone: everything raises CgroupRemovedError."""
    old = top.create("a")
    (tmp_path / "a" / "file").write_text("old")
    os.rename(tmp_path / "a", tmp_path / "moved")  # so that its inode is not used again
    new = top.create("a")
    (tmp_path / "a" / "file").write_text("new")
    assert old != new
    assert old.identity != new.identity
    assert not old.exists
    uses: list[Callable[[], object]] = [
        old.open,
        old.children,
        old.remove,
        lambda: old.read("file"),
        lambda: old.read_kept("file"),
        lambda: old.write("file", b"x"),
        lambda: old.create("b"),
        lambda: old.child("b"),
    ]
    for use in uses:
        with pytest.raises(CgroupRemovedError, match=r"removed|taken its place"):
            use()
    assert (tmp_path / "a" / "file").read_text() == "new"
    assert new.children() == []


def test_one_that_is_gone_says_so(top: Directory, tmp_path: Path) -> None:
    """When nothing is left in its place, everything raises CgroupRemovedError with the path."""
    old = top.create("a")
    (tmp_path / "a").rmdir()
    assert not old.exists
    for use in (old.open, old.children, old.remove, lambda: old.read("file"), lambda: old.child("b")):
        with pytest.raises(CgroupRemovedError) as caught:
            use()
        assert caught.value.filename == f"{top.path}/a"
        assert caught.value.errno == errno.ENODEV


def test_a_file_that_is_missing_is_not_a_directory_that_is(top: Directory) -> None:
    """Where the directory is there and the file is not, it is the file that is not found."""
    with pytest.raises(FileNotFoundError) as caught:
        top.read("memory.nothing")
    assert not isinstance(caught.value, CgroupRemovedError)


def test_a_directory_in_use_is_busy(top: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's EBUSY, on rmdir of a group with processes, is a CgroupBusyError with the path."""
    child = top.create("a")

    def busy(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(CgroupBusyError) as caught:
        child.remove()
    assert caught.value.filename == child.path


def test_reading_reads_all(top: Directory, tmp_path: Path) -> None:
    """A file of any length is read whole, kept open or not."""
    for length in (0, 1, 8191, 8192, 8193, 32768, 200_000):
        text = os.urandom(length)
        (tmp_path / f"file-{length}").write_bytes(text)
        assert top.read(f"file-{length}") == text
        assert top.read_kept(f"file-{length}") == text


def test_a_kept_file_is_read_anew_from_its_start(top: Directory, tmp_path: Path) -> None:
    """The second read of a kept file opens nothing, and sees what is in it by then."""
    (tmp_path / "file").write_text("one")
    assert top.read_kept("file") == b"one"
    before = open_fds()
    (tmp_path / "file").write_text("three")
    assert top.read_kept("file") == b"three"
    assert open_fds() == before


def test_the_cache_is_bounded(top: Directory, tmp_path: Path) -> None:
    """However many files are read, few stay open, and those that were read last."""
    before = open_fds()
    for number in range(100):
        (tmp_path / f"file-{number}").write_text(str(number))
        assert top.read_kept(f"file-{number}") == str(number).encode()
    assert len(open_fds() - before) == directory._KEPT_AT_MOST
    assert [name for _, _, name in directory._kept][-1] == "file-99"
    assert "file-0" not in [name for _, _, name in directory._kept]


def test_forgetting_closes_the_files_of_that_directory(top: Directory, tmp_path: Path) -> None:
    """forget() closes what is kept of one directory, and of no other; remove() forgets."""
    child = top.create("a")
    for path in (tmp_path, tmp_path / "a"):
        (path / "file").write_text("x")
    before = open_fds()
    top.read_kept("file")
    child.read_kept("file")
    assert len(open_fds() - before) == 2
    child.forget()
    assert [inode for _, inode, _ in directory._kept] == [top.inode]
    assert len(open_fds() - before) == 1
    (tmp_path / "a" / "file").unlink()
    child.remove()


def test_many_threads_share_the_cache(top: Directory, tmp_path: Path) -> None:
    """Threads that read more files than the cache holds always get the file that they asked for."""
    for number in range(80):
        (tmp_path / f"file-{number}").write_text(str(number))

    def read_all(first: int) -> None:
        for number in range(first, first + 800):
            name = f"file-{number % 80}"
            assert top.read_kept(name) == name.removeprefix("file-").encode()

    for reading in [start(read_all, first) for first in range(0, 80, 20)]:
        reading.result(SOON)
    assert len(list(directory._kept.items())) == len(directory._kept) <= directory._KEPT_AT_MOST


def test_threads_that_forget_disturb_none_that_read(top: Directory, tmp_path: Path) -> None:
    """Emptying the cache while others read the same files, as each does who meets a removed group, is safe."""
    for number in range(3):
        (tmp_path / f"file-{number}").write_text(str(number))

    def read_and_forget(turn: int) -> None:
        for number in range(5000):
            assert top.read_kept(f"file-{number % 3}") == b"%d" % (number % 3)
            if number % 3 == turn:
                top.forget()

    for reading in [start(read_and_forget, turn) for turn in range(4)]:
        reading.result(SOON)
    assert len(list(directory._kept.items())) == len(directory._kept) <= 3


def test_writing_is_one_write(top: Directory, tmp_path: Path) -> None:
    """write() neither creates nor truncates: the data goes to the file as it is, in one piece."""
    (tmp_path / "file").write_text("0123456789")
    top.write("file", b"abc")
    assert (tmp_path / "file").read_text() == "abc3456789"
    with pytest.raises(FileNotFoundError):
        top.write("new", b"x")
    assert not (tmp_path / "new").exists()


def test_a_directory_is_a_value(top: Directory) -> None:
    """Found twice, it is equal, hashable, and holds nothing open."""
    before = open_fds()
    child = top.create("a")
    assert child == top.child("a")
    assert hash(child) == hash(top.child("a"))
    assert child.identity == top.child("a").identity != top.identity
    assert open_fds() == before


@pytest.mark.parametrize("length", [0, 8191, 8192, 8193, 32768, 131_072])
def test_pread_reads_whole_files(tmp_path: Path, length: int) -> None:
    """A file longer than usual is read again, until it is whole."""
    text = os.urandom(length)
    (tmp_path / "file").write_bytes(text)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert pread_whole(fd) == text
    finally:
        os.close(fd)
