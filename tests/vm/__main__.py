"""The kernel tests in other kernels, or any command in one. From the top of the repository:

    make test-vm KERNELS="6.1-v1 7.3-v2" USERS=root TESTS=tests/kernel/test_oom.py
    PYTHONPATH=tests .venv/bin/python -m vm run 7.3-v2 --user -- python -c 'import memcg; print(memcg.current())'

A guest sees this machine's own file system, with the repository and Python as they are at that moment, and what it
writes is gone with it. Root starts in the root group; a user has no capabilities, and starts in a group that was
given to him as systemd would. The kernels are Debian's, and are kept in ``$MEMCG_VM_CACHE``, by default
``~/.cache/memcg/vm``; once they are there, no network is needed. Emulated, all takes about ten times as long as on
the machine itself; ``KVM=1`` where that works.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from . import table
from .disk import REPOSITORY, disk, install
from .guest import ROOT, USER, Machine, Step, boot
from .kernels import ROWS, VmError, kernel

if TYPE_CHECKING:
    from .kernels import Row

RESULTS = REPOSITORY / "build/vm"

# The timeout is made for machines that are not emulated; the names tell where a guest was when it broke off.
PYTEST = ("-v", "-m", "not slow", "-o", "timeout=900", "-p", "no:cacheprovider", "--color=no")

USERS = {"root": ROOT, "user": USER}


def main() -> int:
    """Does what the command line says, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    test = verbs.add_parser("test", help="the kernel tests in each row of the table")
    test.set_defaults(verb=_test)
    test.add_argument("--kernel", action="append", choices=ROWS, help="which row; by default all")
    test.add_argument("--user", action="append", choices=USERS, help="as whom; by default one after the other")
    test.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many guests at a time")
    test.add_argument("--timeout", type=int, default=2700, metavar="SECONDS", help="when a guest is ended")
    test.add_argument("tests", nargs="*", default=["tests/kernel"], help="by default tests/kernel")

    run = verbs.add_parser("run", help="a command in one guest, with its output and its status")
    run.set_defaults(verb=_run)
    run.add_argument("row", choices=ROWS)
    run.add_argument("command", nargs="+", help="after --")
    run.add_argument("--user", action="store_true", help="as an unprivileged user in a delegated group")
    run.add_argument("--timeout", type=int, default=600, metavar="SECONDS", help="when the guest is ended")
    run.add_argument("--keep", type=Path, metavar="DIRECTORY", help="where to leave output, console and dmesg")
    run.add_argument("--swap", default="", metavar="SIZE", help="a swap disk of that size, such as 256M")
    run.add_argument("--slow-disk", type=int, default=0, metavar="IOPS", help="so many requests a second to it")
    run.add_argument("--lru-gen", choices=["y", "n"], default="", help="the multi-generational LRU")

    verbs.add_parser("fetch", help="asks Debian for the newest kernels").set_defaults(verb=_fetch)
    for each in (test, run):
        each.add_argument("--memory", default="2G", metavar="SIZE")
        each.add_argument("--cpus", type=int, default=1 if each is test else 2)
        each.add_argument("--append", action="append", default=[], metavar="ARGUMENT", help="for the kernel")
        each.add_argument("--qemu", action="append", default=[], metavar="ARGUMENT", help="for qemu")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        install()
        status: int = options.verb(options)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _fetch(options: argparse.Namespace) -> int:
    for row in ROWS.values():
        found = kernel(row, newest=True)
        print(f"{row.name}: Linux {found.release}, {found.directory}")
    return 0


def _run(options: argparse.Namespace) -> int:
    row = ROWS[options.row]
    step = Step("run", USER if options.user else ROOT, f"exec {shlex.join(options.command)}")
    disks = {"swap": options.swap, "slow_disk": options.slow_disk, "lru_gen": options.lru_gen}
    machine = dataclasses.replace(_machine(options), **disks)
    with disk() as image, contextlib.ExitStack() as stack:
        results = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="memcg-vm-"))
        outcome = boot(
            row,
            kernel(row),
            image,
            [step],
            Path(results).resolve(),
            machine=machine,
            deadline=options.timeout,
            show=_print,
        )
        print(f"vm: {table.story(outcome)}", file=sys.stderr)
        if "run" not in outcome.statuses:
            print(outcome.tail("console"), file=sys.stderr)
    return outcome.statuses.get("run", 3)


def _test(options: argparse.Namespace) -> int:
    rows = [ROWS[name] for name in dict.fromkeys(options.kernel or ROWS)]
    users = [*dict.fromkeys(options.user or USERS)]
    steps = [Step(user, USERS[user], _pytest(user, options.tests)) for user in users]
    _collect(options.tests)
    kernels = {row: kernel(row, newest=True) for row in rows}
    machine, stop = _machine(options), threading.Event()

    def visit(row: Row) -> list[table.Run]:
        print(f"vm: {row.name}: Linux {kernels[row].release}, package {kernels[row].package}", flush=True)
        outcome = boot(
            row,
            kernels[row],
            image,
            steps,
            RESULTS / row.name,
            machine=machine,
            deadline=options.timeout,
            show=_print if len(rows) == 1 else lambda text: None,
            stop=stop,
        )
        print(f"vm: {row.name}: {table.story(outcome)}", flush=True)
        for step in steps:
            if not (outcome.directory / f"{step.name}.xml").exists():
                print(f"vm: {row.name} {step.name} left no report in {outcome.directory}:")
                print(outcome.tail(f"{step.name}.out"), outcome.tail("console"), sep="\n", flush=True)
        return [table.run(row.name, user, outcome) for user in users]

    with disk() as image, ThreadPoolExecutor(options.jobs) as pool:
        try:
            runs = [run for runs in pool.map(visit, rows) for run in runs]
        except BaseException:
            stop.set()
            raise
    print("", table.table(runs), "", table.total(runs), sep="\n")
    return 0 if all(run.verdict == "passed" for run in runs) else 1


def _pytest(user: str, tests: list[str]) -> str:
    arguments = shlex.join([*PYTEST, *tests])
    # What a compiler makes does not depend on the kernel, and would take it minutes.
    return f"CC=none-in-a-guest exec python -m pytest {arguments} --junitxml=$TMPDIR/{user}.xml"


def _collect(tests: list[str]) -> None:
    """Shows at once what is wrong with the tests, and compiles them, so that no guest has to."""
    command = [sys.executable, "-m", "pytest", *PYTEST, "--collect-only", "-qq", *tests]
    collected = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if collected.returncode:
        raise VmError(f"pytest cannot collect the tests:\n{collected.stdout}")


def _machine(options: argparse.Namespace) -> Machine:
    return Machine(options.memory, options.cpus, tuple(options.append), tuple(options.qemu))


def _print(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
