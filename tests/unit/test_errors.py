"""The tree of errors."""

from __future__ import annotations

import builtins
import copy
import errno
import inspect
import os
import pickle
import re
import traceback
from typing import NamedTuple

import pytest

import memcg
from memcg import errors
from memcg.errors import KernelError, MemcgError, kernel_error, kernel_errors


class Drawn(NamedTuple):
    """A class as the docstring draws it."""

    parent: str
    builtin: str
    errnos: list[str]


def _drawing() -> dict[str, Drawn]:
    """The tree in the docstring, by the names of the classes."""
    drawn: dict[str, Drawn] = {}
    above: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+Error)(?: \((\w+)\))?(?: {2,}(.*))?", line)
        if match is None:
            continue
        branch, name, builtin, remark = match.groups(default="")
        above[len(branch) // 4 :] = [name]
        parent = above[-2] if len(above) > 1 else ""
        drawn[name] = Drawn(parent, builtin, re.findall(r"\bE[A-Z]+\b", remark))
    return drawn


DRAWING = _drawing()
CLASSES = {
    name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, MemcgError)
}
ERRNOS = [(name, number) for name, drawn in DRAWING.items() for number in drawn.errnos]


def test_the_drawing_shows_every_class_once() -> None:
    """The classes of the module, those that the docstring draws, and the public ones are the same."""
    public = {name for name in memcg.__all__ if name.endswith("Error")}
    assert DRAWING.keys() == CLASSES.keys() == public
    assert len(DRAWING) > 15


@pytest.mark.parametrize("name", [name for name in DRAWING if name != "MemcgError"])
def test_the_drawn_bases_are_the_real_ones(name: str) -> None:
    """Each class has the parent that it is drawn below, and the builtin class that is drawn beside it."""
    bases = {base.__name__ for base in CLASSES[name].__bases__}
    assert bases == {DRAWING[name].parent, DRAWING[name].builtin} - {""}


def test_the_root_of_the_tree_is_an_exception() -> None:
    """MemcgError is a plain Exception, so that it says nothing that is untrue of some error."""
    assert MemcgError.__bases__ == (Exception,)


@pytest.mark.parametrize(("name", "number"), ERRNOS)
def test_an_errno_leads_to_the_class_that_is_drawn_with_it(name: str, number: str) -> None:
    """Each errno in the drawing is mapped to its class, and to no subclass of it."""
    assert type(kernel_error(getattr(errno, number), "try", "/p")) is CLASSES[name]


@pytest.mark.parametrize("number", sorted(errors._CLASSES), ids=errno.errorcode.get)
def test_a_mapped_error_is_also_pythons_own(number: int) -> None:
    """The class for an errno is also the OSError that Python raises for it, and has the errno and the path."""
    error = kernel_error(number, "write memory.limit_in_bytes", "/sys/fs/cgroup/memory/a")
    assert isinstance(error, type(OSError(number, "")))
    assert isinstance(error, KernelError)
    assert error.errno == number
    assert error.filename == "/sys/fs/cgroup/memory/a"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, 524], ids=["EINVAL", "EIO", "ENOTSUPP"])
def test_any_other_errno_is_a_plain_kernel_error(number: int) -> None:
    """An errno without a class of its own, even one without a name, is a KernelError that says what it can."""
    error = kernel_error(number, "try", "/p")
    assert type(error) is KernelError
    assert error.errno == number
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "run as root (sudo)"),
        (errno.EPERM, "run as root (sudo)"),
        (errno.EROFS, "remount"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENODEV, "removed"),
        (errno.ENOMEM, "at its limit"),
        (errno.ENOSPC, "65,535"),
    ],
)
def test_the_message_says_what_failed_where_why_and_what_to_do(number: int, remedy: str) -> None:
    """What was being done, the path, the reason and the remedy are all in the text of an error."""
    text = str(kernel_error(number, "create the cgroup", "/sys/fs/cgroup/memory/a"))
    for part in ("cannot create the cgroup", "/sys/fs/cgroup/memory/a", os.strerror(number), remedy):
        assert part in text


def test_a_hint_and_a_kind_replace_what_the_errno_leads_to() -> None:
    """A caller that knows better gives a remedy and a class of its own."""
    error = kernel_error(errno.EBUSY, "write", "/p", "end processes", memcg.LimitBelowUsageError)
    assert type(error) is memcg.LimitBelowUsageError
    assert str(error).endswith("cannot write: Device or resource busy: end processes: '/p'")


def test_the_context_manager_turns_an_oserror_into_one_of_the_tree() -> None:
    """kernel_errors maps the errno, names its own path, uses the hint for this errno, and keeps the cause."""
    cause = OSError(errno.EPERM, "no", "/elsewhere")
    with pytest.raises(memcg.AccessDeniedError, match="another user's") as caught:
        with kernel_errors("signal process 7", "/proc/7", {errno.EPERM: "it is another user's"}):
            raise cause
    assert caught.value.filename == "/proc/7"
    assert caught.value.__cause__ is cause


def test_the_context_manager_leaves_our_own_errors_as_they_are() -> None:
    """An error that is of the tree already, and an OSError too, passes through unchanged."""
    error = kernel_error(errno.ENODEV, "read", "/inner")
    with pytest.raises(memcg.CgroupRemovedError) as caught, kernel_errors("open", "/outer"):
        raise error
    assert caught.value is error


def test_the_context_manager_leaves_other_exceptions_alone() -> None:
    """Nothing but an OSError is turned into an error of the tree."""
    with pytest.raises(ZeroDivisionError), kernel_errors("open", "/p"):
        raise ZeroDivisionError


def test_an_oserror_without_errno_is_an_input_output_error() -> None:
    """An OSError that carries no errno still becomes a KernelError, with EIO."""
    with pytest.raises(KernelError) as caught, kernel_errors("open", "/p"):
        raise OSError("no number")
    assert caught.value.errno == errno.EIO


def _one_of_each() -> list[MemcgError]:
    """An error of each class, made as the library makes it."""
    found: list[MemcgError] = []
    for each in CLASSES.values():
        if issubclass(each, OSError) and not issubclass(each, TimeoutError):
            found.append(each(errno.ENOENT, "cannot do it: there is none", "/sys/fs/cgroup/memory/a"))
        else:
            found.append(each("it cannot be done"))
    return found


@pytest.mark.parametrize("error", _one_of_each(), ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_copying(error: MemcgError) -> None:
    """An error that comes back from another process is of the same class, with the same text, errno and path."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        if isinstance(error, OSError):
            assert isinstance(again, OSError)
            assert (again.errno, again.filename) == (error.errno, error.filename)


def test_who_holds_a_group_survives_pickling_and_copying() -> None:
    """AlreadyHeldError keeps the PIDs of guard and owner, each of which can be unknown."""
    error = memcg.AlreadyHeldError("process 8 holds it", guard=7, owner=8)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(again), again.guard, again.owner) == ("process 8 holds it", 7, 8)
    unknown = memcg.AlreadyHeldError("somebody holds it")
    assert (unknown.guard, unknown.owner) == (None, None)


@pytest.mark.parametrize("error", _one_of_each(), ids=lambda error: type(error).__name__)
def test_a_traceback_shows_the_public_name(error: MemcgError) -> None:
    """Tracebacks name the class as users import it."""
    assert traceback.format_exception_only(error)[0].startswith(f"memcg.{type(error).__name__}: ")


def test_the_builtin_classes_in_the_drawing_exist() -> None:
    """What stands in brackets in the drawing is a builtin exception."""
    for drawn in DRAWING.values():
        assert not drawn.builtin or issubclass(getattr(builtins, drawn.builtin), Exception)
