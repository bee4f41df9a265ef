"""Starting a child inside a group.

The child joins the group between fork and exec, in the small program ``memcg-enter`` (csrc/enter.c), which then
becomes the program asked for. `subprocess.Popen` starts it, so that all that Popen does is done as ever.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, TypedDict, overload

from .cgroupfs.delegation import joining_error
from .errors import InvalidTypeError, InvalidValueError, KernelError, kernel_error, kernel_errors
from .fd import OwnedFd, bookkeeping

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .cgroupfs.directory import Directory

PathOrText: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
Command: TypeAlias = "PathOrText | Sequence[PathOrText]"
Stream: TypeAlias = "IO[bytes] | IO[str] | int | None"

_ENTER: Final = Path(__file__).with_name("memcg-enter")
_REPORT: Final = struct.Struct("=ii")
_STARTED: Final = 0
_JOIN: Final = 1
_TRIES: Final = 10


class PopenOptions(TypedDict, total=False):
    """The keyword arguments of `subprocess.Popen`, but for those that make it text or bytes."""

    bufsize: int
    executable: PathOrText | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    preexec_fn: Callable[[], object] | None
    close_fds: bool
    shell: bool
    cwd: PathOrText | None
    env: Mapping[str, PathOrText] | Mapping[bytes, PathOrText] | None
    startupinfo: None
    creationflags: int
    restore_signals: bool
    start_new_session: bool
    pass_fds: Collection[int]
    user: str | int | None
    group: str | int | None
    extra_groups: Sequence[str | int] | None
    umask: int
    pipesize: int
    process_group: int | None


class Spawner:
    """The part of a group that starts processes in it; a base of `Cgroup`."""

    __slots__ = ()

    @property
    def _directory(self) -> Directory:
        raise NotImplementedError

    @overload
    def popen(
        self,
        args: Command,
        *,
        text: Literal[True],
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[str]: ...
    @overload
    def popen(
        self,
        args: Command,
        *,
        text: bool | None = None,
        encoding: str,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[str]: ...
    @overload
    def popen(
        self,
        args: Command,
        *,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str,
        universal_newlines: bool | None = None,
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[str]: ...
    @overload
    def popen(
        self,
        args: Command,
        *,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: Literal[True],
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[str]: ...
    @overload
    def popen(
        self,
        args: Command,
        *,
        text: Literal[False] | None = None,
        encoding: None = None,
        errors: None = None,
        universal_newlines: Literal[False] | None = None,
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[bytes]: ...
    def popen(
        self,
        args: Command,
        *,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[PopenOptions],
    ) -> subprocess.Popen[str] | subprocess.Popen[bytes]:
        """Starts a child in this group, as `subprocess.Popen` with the same arguments, and returns that.

        The child is in the group before its program's first instruction, and so is all that it starts. A
        ``preexec_fn`` runs before it joins; none is needed, and it is as unsafe with threads as ever.

        In a group that is frozen (v2), the child stops as it joins, and this returns once it is thawed.

        Where the group is out of memory with its killer off, a program can hardly be started there: it needs
        memory for its arguments, which the kernel refuses (ENOMEM, E2BIG), or it ends at once, with status 127.

        Raises:
            OSError: the program cannot be started, with the error of `subprocess.Popen`, such as
                FileNotFoundError naming a program that does not exist.
            AccessDeniedError: the caller may not write the group's ``cgroup.procs``.
            InternalProcessesError: on v2, the group gives controllers to its children, so it has no processes.
            CgroupRemovedError: the group is gone.
        """
        return _start(
            self._directory,
            args,
            options,
            text=text,
            encoding=encoding,
            errors=errors,
            universal_newlines=universal_newlines,
        )


def _start(
    directory: Directory,
    args: Command,
    options: PopenOptions,
    *,
    text: bool | None,
    encoding: str | None,
    errors: str | None,
    universal_newlines: bool | None,
) -> subprocess.Popen[str] | subprocess.Popen[bytes]:
    child: subprocess.Popen[str] | subprocess.Popen[bytes]
    child = subprocess.Popen.__new__(subprocess.Popen)  # at hand also where something raises later
    start = partial(
        subprocess.Popen.__init__,
        child,
        text=text,
        encoding=encoding,
        errors=errors,
        universal_newlines=universal_newlines,
    )
    try:
        _launch(child, start, directory, args, options)
    except BaseException:  # also of a signal handler, such as Ctrl-C
        if getattr(child, "pid", None) is not None:
            child.kill()
            child.__exit__(None, None, None)  # waits, and closes its pipes
        raise
    return child


def _launch(
    child: subprocess.Popen[str] | subprocess.Popen[bytes],
    start: Callable[..., None],
    directory: Directory,
    args: Command,
    options: PopenOptions,
) -> None:
    """Starts *child*, and sees to it that it has become its program."""
    command, program = _as_popen_reads(args, options)
    candidates = _candidates(program, options.get("env"))
    pass_fds = options.get("pass_fds", ())
    with contextlib.ExitStack() as files:
        with kernel_errors("start a process in the cgroup", directory.path):
            procs = OwnedFd(_above_streams(directory.open_file("cgroup.procs", os.O_WRONLY)))
            files.enter_context(procs)
            report, status = map(files.enter_context, _pipe(shared=options.get("preexec_fn") is not None))
        # By descriptor, as another user= may not reach the path where memcg is installed.
        enter = files.enter_context(_open_enter())
        passed = {procs.fileno(), status.fileno(), enter.fileno(), *pass_fds}
        inherits = not options.get("close_fds", True) and not pass_fds
        ours: PopenOptions = {
            **options,
            "executable": f"/proc/self/fd/{enter.fileno()}",
            "shell": False,
            "close_fds": inherits or options.get("close_fds", True),
            "pass_fds": tuple(passed),
        }
        numbers = (procs.fileno(), status.fileno(), enter.fileno(), len(candidates))
        arguments = ["memcg-enter", *map(str, numbers), *candidates, *command]
        try:
            if inherits:
                _start_inheriting(start, arguments, ours, passed)
            else:
                start(arguments, **ours)
            child.args = args
            status.close()
            failure = next((told for told in _reports(report) if told[0] != _STARTED), None)
        except BaseException as error:
            status.close()
            if getattr(child, "pid", None) is None:
                _end_unknown(report)
            if isinstance(error, OSError) and error.filename == ours["executable"]:
                raise _explain(error.errno or errno.EIO, program) from error
            raise
    if failure is None:
        return  # the pipe was closed by exec
    step, number = failure
    if step == _JOIN:
        raise joining_error(number, "join the cgroup", directory)
    raise OSError(number, os.strerror(number), program)


def _start_inheriting(
    start: Callable[..., None], arguments: list[str | PathOrText], options: PopenOptions, passed: set[int]
) -> None:
    """Starts the child with all files that a child inherits, and those *passed*."""
    for tries_left in reversed(range(_TRIES)):
        options["pass_fds"] = tuple(passed | _inheritable_fds())
        try:
            start(arguments, **options)
            return
        except OSError as error:
            # Most likely, another thread has closed one of its files since the listing; nothing was run so far.
            if error.errno != errno.EBADF or error.filename is not None or not tries_left:
                raise


def _reports(report: OwnedFd) -> Iterator[tuple[int, int]]:
    """What memcg-enter tells: steps, each with a number."""
    while data := os.read(report.fileno(), _REPORT.size):
        step, number = _REPORT.unpack(data)
        yield step, number


def _end_unknown(report: OwnedFd) -> None:
    """Ends a child that was forked just before a signal handler raised, so that Popen has not noted its PID."""
    for step, number in _reports(report):
        if step == _STARTED:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def _explain(number: int, program: PathOrText) -> OSError:
    """Why memcg-enter could not be run: the arguments are too long for any program, or it is not there."""
    if number == errno.E2BIG:
        return OSError(number, os.strerror(number), program)
    return kernel_error(number, "run memcg-enter", str(_ENTER), kind=KernelError)


def _as_popen_reads(args: Command, options: PopenOptions) -> tuple[list[PathOrText], PathOrText]:
    """The argument vector and the program that Popen would make of its arguments."""
    command = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    executable = options.get("executable")
    if options.get("shell"):
        if isinstance(args, os.PathLike):
            raise InvalidTypeError("with shell=True, args is a str or a sequence, not a path")
        command = [executable or "/bin/sh", "-c", *command]
    if not command:
        raise InvalidValueError("args is empty: it starts with the program")
    return command, command[0] if executable is None else executable


def _candidates(
    program: PathOrText, env: Mapping[str, PathOrText] | Mapping[bytes, PathOrText] | None
) -> list[bytes]:
    """The paths to try: the program itself, or where PATH has it, as Popen searches it."""
    path = os.fsencode(program)
    if os.path.dirname(path):
        return [path]
    # It takes keys of bytes too, which its annotation does not say.
    search = os.get_exec_path(env)  # type: ignore[arg-type]
    return [os.path.join(os.fsencode(directory), path) for directory in search]


def _above_streams(fd: int) -> int:
    """*fd*, or a copy of it above the standard streams, which the child may have other plans for."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


class _Status(OwnedFd):
    """The writing end of the pipe that tells of success by being closed.

    A child that another thread forks meanwhile must not keep it open, so it closes its copy (`_in_child`). With
    *shared*, it stays open there: a ``preexec_fn`` makes Popen run those hooks in our own child too.
    """

    private: ClassVar[set[int]] = set()

    def __init__(self, fd: int, *, shared: bool) -> None:
        super().__init__(fd)
        if not shared:
            self.private.add(fd)

    def _destroy(self, fd: int) -> None:
        with bookkeeping:  # held across forks
            self.private.discard(fd)
            super()._destroy(fd)


def _in_child() -> None:
    while _Status.private:
        os.close(_Status.private.pop())


os.register_at_fork(after_in_child=_in_child)


def _pipe(*, shared: bool) -> tuple[OwnedFd, OwnedFd]:
    """The reading end, and a `_Status`."""
    with bookkeeping:
        reading, writing = os.pipe()
        return OwnedFd(reading), _Status(_above_streams(writing), shared=shared)


def _open_enter() -> OwnedFd:
    try:
        return OwnedFd(_above_streams(os.open(_ENTER, os.O_PATH | os.O_CLOEXEC)))
    except OSError as error:
        number = error.errno or errno.EIO
        hint = "memcg is not completely installed" if number == errno.ENOENT else ""
        raise kernel_error(number, "run memcg-enter", str(_ENTER), hint, KernelError) from error


def _inheritable_fds() -> set[int]:
    """What a child gets with close_fds=False. Popen's own way would need ours to be inheritable here, for a
    moment, where another thread's child might get them too and keep this call waiting."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.add(int(name))
    return found
