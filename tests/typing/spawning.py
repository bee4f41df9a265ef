"""What type checkers see of starting processes: text or bytes, as subprocess has it. Never run."""

import os
import subprocess
import sys
from pathlib import Path

from typing_extensions import assert_type

from memcg import Cgroup, PopenOptions


def popen(group: Cgroup, maybe: bool) -> None:
    """The streams are bytes, unless one of the four arguments that make them text is given."""
    assert_type(group.popen(["true"]), subprocess.Popen[bytes])
    assert_type(group.popen("true", shell=True), subprocess.Popen[bytes])
    assert_type(group.popen(Path("/bin/true")), subprocess.Popen[bytes])
    assert_type(group.popen([b"true", Path("a")]), subprocess.Popen[bytes])
    assert_type(group.popen(["true"], text=False), subprocess.Popen[bytes])
    assert_type(group.popen(["true"], text=None, encoding=None), subprocess.Popen[bytes])
    assert_type(group.popen(["true"], text=True), subprocess.Popen[str])
    assert_type(group.popen(["true"], encoding="utf-8"), subprocess.Popen[str])
    assert_type(group.popen(["true"], errors="replace"), subprocess.Popen[str])
    assert_type(group.popen(["true"], universal_newlines=True), subprocess.Popen[str])


def with_every_argument(group: Cgroup) -> None:
    """All keyword arguments of subprocess.Popen are taken."""
    process = group.popen(
        ["true"],
        bufsize=-1,
        executable="/bin/true",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
        preexec_fn=os.getpid,
        close_fds=True,
        shell=False,
        cwd=Path("/"),
        env={"A": "b"},
        startupinfo=None,
        creationflags=0,
        restore_signals=True,
        start_new_session=True,
        pass_fds=[3],
        user="nobody",
        group=65534,
        extra_groups=[],
        umask=0o22,
        pipesize=-1,
        process_group=0,
        text=True,
    )
    assert_type(process, subprocess.Popen[str])
    assert_type(process.communicate(), tuple[str, str])


def options_can_be_passed_on(group: Cgroup, options: PopenOptions) -> None:
    """A wrapper can take the options by their public type."""
    more: PopenOptions = {**options, "cwd": "/", "stdin": subprocess.DEVNULL}
    assert_type(group.popen(["true"], **more), subprocess.Popen[bytes])
