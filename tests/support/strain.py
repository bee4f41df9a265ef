"""Making processes wait for memory."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import memcg
from memcg import MiB
from support.processes import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

CAP_SYS_RESOURCE = 24


@contextmanager
def strained(group: memcg.Cgroup) -> Iterator[Worker]:
    """A process in *group*, which has a limit of 32 MiB, waits for memory again and again, within the body.

    On v1, where the kernel tries to reclaim before it kills, that is a few percent of the time; on v2 it is nearly
    all."""
    with Worker(group) as worker:
        if isinstance(group, memcg.CgroupV2):
            group.high = 8 * MiB
            worker.order("touch 30")
        else:
            worker.order("strain 64 60")
        yield worker


def has_any_window() -> bool:
    """Whether this process may have windows of any length, and not only multiples of 2 seconds."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
