"""The command line: ``memcg``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from ..errors import InvalidValueError, MemcgError
from ..units import parse_delay, parse_duration_text
from . import delay, doctor
from .demo import demo

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Runs the command given on the command line, and returns its exit status."""
    arguments = _parser().parse_args()
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `memcg doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemcgError as error:
        print(f"memcg: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memcg", description="Take over out-of-memory handling for a group of processes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "demo",
        help="a program runs out of memory in a real group: left to the kernel, taken over, and abandoned",
        description="Runs a program that needs three times the memory its group may use, three times. It takes a "
        "few seconds, uses at most 192 MiB, and leaves nothing behind.",
    )
    command.set_defaults(run=lambda arguments: demo())

    command = commands.add_parser(
        "doctor",
        help="lists groups whose OOM killer is off, and repairs those that nobody looks after",
        description="""Lists the groups whose OOM killer is off: why it is, and who is blocked there.

Should whoever holds a group be killed together with the guard that puts it back, then the mark of
the hold is left, and the group gets stuck at its next OOM. That is found here, and repaired.""",
        epilog=doctor.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("group", metavar="GROUP", nargs="?", help="look only at this group and those below")
    command.add_argument(
        "--fix",
        action="store_true",
        help="put back what abandoned holds have left; never touches a group that is held, or whose killer was "
        "switched off without a hold",
    )
    command.set_defaults(run=lambda arguments: doctor.doctor(arguments.group, fix=arguments.fix))

    command = commands.add_parser(
        "delay",
        help="holds a group: at each OOM, the kernel kills only after a delay",
        description="""Keeps the kernel's OOM killer away from a group, and prints what happens there.

At an OOM, whoever is in charge has the delay to raise the limit or to end a process; then the kernel
kills. Runs until it is ended, or the group removed.""",
        epilog=delay.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("group", metavar="GROUP", help="such as /jobs/7, or the full path of its directory")
    command.add_argument(
        "delay", metavar="DELAY", type=_duration("the delay"), help="such as 10s, 500ms or 1.5min"
    )
    command.add_argument(
        "--total",
        metavar="TIME",
        type=_duration("the total"),
        help="the most that the delays of OOMs in close succession may add up to",
    )
    command.add_argument("--once", action="store_true", help="after the first delay that ran out, kill at once")
    command.add_argument(
        "--takeover", action="store_true", help="also hold a group whose killer is off already, and leave it on"
    )
    command.set_defaults(
        run=lambda arguments: delay.delay(
            arguments.group,
            arguments.delay,
            total=arguments.total,
            once=arguments.once,
            takeover=arguments.takeover,
        )
    )
    return parser


def _duration(what: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return parse_delay(parse_duration_text(text, what), what)
        except InvalidValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse
