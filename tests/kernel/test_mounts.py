"""Unusual mounts, made in a mount namespace of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import memcg

ELSEWHERE = """
set -e
mount --make-rprivate /
mount -t "$5" ${6:+-o "$6"} cgroup "$1"
mount -t tmpfs hides-what-was-there "$2"
exec "$3" -c 'import memcg, sys; group = memcg.open(sys.argv[1]); print(group.path, group.limit)' "$4"
"""


def test_a_mount_that_is_hidden_by_another_does_not_matter(group: memcg.Cgroup, tmp_path: Path) -> None:
    """Where something else is mounted over the usual place, the group is found at another mount."""
    place = tmp_path / "an odd place"
    place.mkdir()
    usual = group._directory.mount.point
    kind = ["cgroup", "memory"] if group._directory.mount.version == 1 else ["cgroup2"]
    arguments = [str(place), usual, sys.executable, group.cgroup_path, *kind]
    seen = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stderr == ""
    assert seen.stdout == f"{place}{group.cgroup_path} {32 << 20}\n"
