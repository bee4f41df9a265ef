"""Groups: where the files of a cgroup directory and the verbs of this library meet; and how groups are found."""

from .base import Cgroup
from .finding import current, of, open, root
from .v1 import CgroupV1, Counter
from .v2 import CgroupV2

__all__ = ("Cgroup", "CgroupV1", "CgroupV2", "Counter", "current", "of", "open", "root")
