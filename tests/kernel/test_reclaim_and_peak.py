"""Reclaiming an amount of memory, and high-water marks of one's own, as cgroup v2 has them."""

from __future__ import annotations

import pytest

import memcg
from memcg import MiB
from support.cache import fill_cache
from support.files import need
from support.processes import Worker


@pytest.fixture
def group(group_v2: memcg.CgroupV2) -> memcg.CgroupV2:
    """All of this is of cgroup v2."""
    return group_v2


def measured(group: memcg.CgroupV2) -> memcg.Peak:
    """A `Peak`; skips where the kernel cannot reset it."""
    need(group, "peak")
    try:
        return group.measure_peak()
    except memcg.NotSupportedError as error:
        pytest.skip(str(error))


# Reclaim.


@pytest.mark.parametrize("nbytes", [8 * MiB, "8M"])
def test_cache_is_given_back(group: memcg.CgroupV2, nbytes: int | str) -> None:
    """Page cache can be reclaimed by the amount, and the result says that it was."""
    need(group, "reclaim")
    fill_cache(group, 16)
    before = group.usage
    assert before >= 15 * MiB
    assert group.reclaim(nbytes) is True
    assert group.usage <= before - 7 * MiB
    assert group.reclaim(0) is True


def test_what_cannot_be_reclaimed_is_told(group: memcg.CgroupV2) -> None:
    """Where less can be reclaimed than was asked for, the result is False, and nobody is killed."""
    need(group, "reclaim")
    group.swap_max = 0
    with Worker(group) as worker:
        assert worker.do("touch 16") == "done"
        assert group.reclaim("16M") is False
        assert worker.do("touch 1") == "done"
    assert group.oom.kills == 0


def test_swappiness_is_taken_or_named(group: memcg.CgroupV2) -> None:
    """Where the kernel takes a swappiness, so does reclaim(); where not, the error says which version does."""
    need(group, "reclaim")
    for swappiness, since in ((0, "6.12"), (200, "6.12"), ("max", "6.16")):
        try:
            assert group.reclaim("1M", swappiness) in (True, False)  # type: ignore[arg-type]
        except memcg.NotSupportedError as error:
            assert f"swappiness={swappiness}: that came with Linux {since}" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("nbytes", "swappiness"),
    [
        *(("1K", None), (-1, None), ("", None), ("\n", None), (True, None), (None, None), (1.5, None)),
        *((MiB, -1), (MiB, 201), (MiB, "most"), (MiB, True), (MiB, 60.0)),
    ],
)
def test_what_is_no_amount_is_refused(group: memcg.CgroupV2, nbytes: int, swappiness: int | None) -> None:
    """Amounts and swappinesses that are none never reach the kernel."""
    with pytest.raises((memcg.InvalidValueError, memcg.InvalidTypeError)):
        group.reclaim(nbytes, swappiness)


# Peaks.


def test_a_peak_of_ones_own(group: memcg.CgroupV2) -> None:
    """A mark begins at what is used, follows usage up and not down, and can be set back."""
    with Worker(group) as worker, measured(group) as peak:
        assert worker.do("touch 12") == "done"
        assert worker.do("free") == "done"
        assert peak.value >= 12 * MiB
        peak.reset()
        assert peak.value < 12 * MiB
        assert worker.do("touch 4") == "done"
        assert 4 * MiB <= peak.value < 12 * MiB
        assert group.peak >= 12 * MiB


def test_peaks_do_not_disturb_each_other(group: memcg.CgroupV2) -> None:
    """Each mark of this process is set back by itself, and what everyone reads in memory.peak stays."""
    with Worker(group) as worker, measured(group) as first:
        assert worker.do("touch 12") == "done"
        assert worker.do("free") == "done"
        with measured(group) as second:
            assert second.value < 12 * MiB <= first.value
            assert worker.do("touch 8") == "done"
            assert worker.do("free") == "done"
            first.reset()
            assert first.value < 8 * MiB <= second.value < 12 * MiB
            second.reset()
            assert second.value < 8 * MiB
        assert group.peak >= 12 * MiB


def test_a_peak_is_closed_once(group: memcg.CgroupV2) -> None:
    """After close(), a mark says that it is closed; of a group that is gone, that it is removed."""
    child = group.create("child")
    peak = measured(child)
    child.remove()
    with pytest.raises(memcg.CgroupRemovedError):
        _ = peak.value
    with pytest.raises(memcg.CgroupRemovedError):
        peak.reset()
    peak.close()
    with pytest.raises(memcg.ClosedError):
        _ = peak.value


def test_a_peak_of_swap(group: memcg.CgroupV2) -> None:
    """The same is there for swap, from the same version on."""
    need(group, "swap_peak")
    with group.measure_swap_peak() as peak:
        assert peak.value == group.swap_current == 0


def test_a_kernel_that_cannot_reset_a_peak_says_so(group: memcg.CgroupV2) -> None:
    """Before Linux 6.12, measure_peak() is refused, for root and for others, with what can be done instead."""
    need(group, "peak")
    if (group.path / memcg.CgroupV2.peak.name).stat().st_mode & 0o200:
        pytest.skip("this kernel can reset the peak")
    with pytest.raises(memcg.NotSupportedError, match=r"6\.12: read it as it is"):
        group.measure_peak()
