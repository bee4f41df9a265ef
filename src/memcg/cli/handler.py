"""A program that handles the OOMs of a group, for the demo to stop: ``python -m memcg.cli.handler GROUP SECONDS``.

It holds the group with that delay, says so with a line on its standard output, and raises the limit at each OOM.
"""

import os
import sys

from ..cgroup import open
from ..notify.events import OomEvent

STEP = 64 << 20


def main() -> None:
    """Holds the group until somebody ends this process."""
    # In a process group of its own, to which the kernel sends SIGHUP and SIGCONT should the demo die while it is
    # stopped.
    os.setpgid(0, 0)
    with open(sys.argv[1]).oom.hold(float(sys.argv[2])) as hold:
        print("held", flush=True)
        for event in hold:
            if isinstance(event, OomEvent):
                hold.raise_limit(by=STEP)


if __name__ == "__main__":
    main()
