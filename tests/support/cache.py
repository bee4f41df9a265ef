"""Filling the page cache of a group, wherever the tests run: the temporary directory may be memory itself."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from memcg import MiB
from support.scripts import start_python

if TYPE_CHECKING:
    import memcg

READ = """
import sys
for path in sys.stdin.read().split("\\n"):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""


def fill_cache(group: memcg.Cgroup, mib: int) -> None:
    """Has a process in *group*, which ends then, read so much of Python's own files, which nobody has cached."""
    paths, size = [], 0
    for directory in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(directory).rglob("*.py")):
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                size += os.fstat(file).st_size
            finally:
                os.close(file)
            paths.append(str(path))
            if size > mib * MiB:
                reader = start_python(group, READ)
                reader.communicate("\n".join(paths), timeout=60)
                assert reader.returncode == 0
                return
    raise AssertionError(f"Python has less than {mib} MiB of files here")
