"""The command line: ``memcg``."""

from __future__ import annotations

import argparse
import sys

from ..errors import MemcgError
from .demo import demo


def main() -> int:
    """Runs the command given on the command line, and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="memcg", description="Take over out-of-memory handling for a group of processes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "demo",
        help="a program runs out of memory in a real group: first left to the kernel, then taken over",
        description="Runs a program that needs three times the memory its group may use, twice. It takes a few "
        "seconds, uses at most 192 MiB, and leaves nothing behind.",
    )
    command.set_defaults(run=demo)
    arguments = parser.parse_args()
    try:
        status: int = arguments.run()
    except MemcgError as error:
        print(f"memcg: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
