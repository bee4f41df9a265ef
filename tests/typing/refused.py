"""What type checkers refuse: each line below is an error, or mypy finds its comment unused. Never run."""

import memcg
from memcg import Cgroup, CgroupV1, CgroupV2, EventFD


def assigning(group: Cgroup, v1: CgroupV1) -> None:
    """Values of the wrong type cannot be assigned to control files and words."""
    group.limit = 1.5  # type: ignore[assignment]
    group.limit = b"512M"  # type: ignore[assignment]
    v1.limit_in_bytes = 1.5  # type: ignore[assignment]
    v1.oom_control = "1"  # type: ignore[assignment]
    v1.oom_control = None  # type: ignore[assignment]
    v1.swappiness = "60"  # type: ignore[assignment]
    v1.release_agent = 1  # type: ignore[assignment]


def assigning_to_files_of_v2(v2: CgroupV2) -> None:
    """The same of cgroup v2."""
    v2.max = 1.5  # type: ignore[assignment]
    v2.high = b"512M"  # type: ignore[assignment]
    v2.oom_group = "1"  # type: ignore[assignment]
    v2.cgroup_type = "domain"  # type: ignore[assignment]
    v2.cgroup_subtree_control = None  # type: ignore[assignment]
    v2.current = 5  # type: ignore[misc]
    v2.events = v2.events  # type: ignore[misc]
    v2.reclaim(1.5)  # type: ignore[arg-type]
    v2.reclaim("1M", swappiness="most")  # type: ignore[arg-type]
    _ = v2.limit_in_bytes  # type: ignore[attr-defined]


def assigning_what_is_read_only(group: Cgroup, v1: CgroupV1) -> None:
    """What the kernel does not let be written cannot be assigned to."""
    group.usage = 1  # type: ignore[misc]
    group.peak = 1  # type: ignore[misc]
    group.parent = group  # type: ignore[misc]
    v1.stat = v1.stat  # type: ignore[misc]
    v1.usage_in_bytes = 5  # type: ignore[misc]
    v1.failcnt = 0  # type: ignore[misc]
    v1.cgroup_procs = (1,)  # type: ignore[misc]


def what_is_not_there(group: Cgroup, v1: CgroupV1) -> None:
    """Control files are of one version, and misspelt ones of none."""
    _ = group.limit_in_bytes  # type: ignore[attr-defined]
    _ = v1.limit_in_byte  # type: ignore[attr-defined]
    v1.limit_in_byte = 5  # type: ignore[attr-defined]
    _ = memcg.KernelWhisper  # type: ignore[attr-defined]


def commands_and_sources(v1: CgroupV1, event: EventFD) -> None:
    """Methods take what they take, and a source of events is a control file."""
    v1.force_empty(1)  # type: ignore[call-arg]
    v1.cgroup_event_control(event, "memory.oom_control")  # type: ignore[arg-type]
    v1.cgroup_event_control(event, v1.oom_control)  # type: ignore[arg-type]
    v1.cgroup_event_control(event.fileno(), CgroupV1.oom_control)  # type: ignore[arg-type]
    v1.reset_failcnt("swap")  # type: ignore[arg-type]


def arguments(group: Cgroup, event: EventFD) -> None:
    """Sizes, times, names and PIDs have their types."""
    group.create(b"x")  # type: ignore[arg-type]
    group.create("x", "512M")  # type: ignore[call-arg]
    group.create("x", limit=0.5)  # type: ignore[arg-type]
    _ = group / 5  # type: ignore[operator]
    group.add("1")  # type: ignore[arg-type]
    memcg.of("self")  # type: ignore[arg-type]
    memcg.parse_size(1.5)  # type: ignore[arg-type]
    memcg.temporary("512M")  # type: ignore[call-arg]
    event.write("1")  # type: ignore[arg-type]
    event.read("soon")  # type: ignore[arg-type]
    EventFD(0, True)  # type: ignore[call-arg]


def starting(group: Cgroup) -> None:
    """popen() takes what subprocess.Popen takes, and nothing else."""
    group.popen(["true"], shel=True)  # type: ignore[call-overload]
    group.popen(["true"], text="yes")  # type: ignore[call-overload]
    group.popen(5)  # type: ignore[call-overload]
    group.popen(["true"], -1)  # type: ignore[call-overload]


def making(group: Cgroup) -> None:
    """Cgroup is abstract, and the classes of events and groups are final."""
    Cgroup(group._directory)  # type: ignore[abstract]

    class Other(CgroupV1):  # type: ignore[misc]
        """No such thing."""

    class AnotherOom(memcg.OomEvent):  # type: ignore[misc]
        """No such thing."""

    class AnotherEnd(memcg.Overridden):  # type: ignore[misc]
        """No such thing."""


def changing(event: memcg.OomEvent, stat: memcg.MemoryStatV1) -> None:
    """Events and stats are frozen, and events are made with keywords."""
    event.time = 1.0  # type: ignore[misc]
    stat.cache = 1  # type: ignore[misc]
    memcg.OomEvent(event.cgroup, 1.0, True, None)  # type: ignore[call-arg]


def narrowing(events: memcg.Subscription[memcg.HoldEvent]) -> memcg.Subscription:
    """What yields more will not do for what yields less."""
    return events  # type: ignore[return-value]


async def forgetting(events: memcg.Subscription, event: EventFD) -> None:
    """What is to be awaited must be."""
    events.next()  # type: ignore[unused-coroutine]
    event.aread()  # type: ignore[unused-coroutine]
