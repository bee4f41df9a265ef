"""Real OOMs: what a subscription tells of them."""

from __future__ import annotations

import memcg
from support.processes import finish, start_hog, wait_blocked


def test_an_oom_with_the_killer_on_is_told_once_and_its_kill_once(group: memcg.CgroupV1) -> None:
    """One hog, one OOM, one kill: one OomEvent with this group as its origin, then one KernelKill of one."""
    with group.oom.subscribe() as events:
        hog = start_hog(group, 64)
        told = list(events.until(hog))
        assert finish(hog) == -9
    match told:
        case [memcg.OomEvent(origin=origin), memcg.KernelKill(count=1)]:
            assert origin == group
        case _:
            raise AssertionError(told)


def test_a_handler_that_raises_the_limit_saves_the_process(group: memcg.CgroupV1) -> None:
    """With the killer off the hog blocks; raising the limit in the handler lets it finish."""
    group.oom.disable()
    with group.oom.subscribe() as events:
        hog = start_hog(group, 64)
        for event in events.until(hog):
            assert isinstance(event, memcg.OomEvent)
            assert event.under_oom
            wait_blocked(hog)
            group.limit = 128 * memcg.MiB
        assert finish(hog) == 0
    assert group.oom.kills == 0
