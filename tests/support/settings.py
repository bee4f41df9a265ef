"""What a group is set to, to see that something changed nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import memcg

SETTINGS = (
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.kmem.tcp.limit_in_bytes",
    "memory.swappiness",
    "memory.oom_control",
    "memory.use_hierarchy",
    "memory.move_charge_at_immigrate",
    "notify_on_release",
    "cgroup.clone_children",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.swap.high",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.zswap.writeback",
    "memory.oom.group",
    "cgroup.type",
    "cgroup.freeze",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cgroup.procs",
)


def settings(group: memcg.Cgroup) -> dict[str, str]:
    """The text of every file that can be set, in *group* and all groups below, and the processes in each."""
    texts = {}
    for directory in (group.path, *(path for path in sorted(group.path.rglob("*")) if path.is_dir())):
        for name in SETTINGS:
            file = directory / name
            if file.exists():
                with contextlib.suppress(OSError):  # the processes of a threaded group
                    texts[str(file)] = file.read_text()
    return texts
