"""The control files of a group, against the text that the kernel has in them."""

from __future__ import annotations

import pytest

import memcg
from support.processes import wait_until


def control_file(group: memcg.Cgroup, attribute: str) -> memcg.ControlFile[object]:
    """The control file that is that attribute of *group*."""
    control: memcg.ControlFile[object] = getattr(type(group), attribute)
    return control


def need(group: memcg.Cgroup, attribute: str) -> None:
    """Skips where this kernel has no such file."""
    control = control_file(group, attribute)
    if not control.exists(group):
        pytest.skip(f"this kernel has no {control.name}, which came with Linux {control.since}")


def text_of(group: memcg.Cgroup, attribute: str) -> str:
    """What the kernel has in the file."""
    return (group.path / control_file(group, attribute).name).read_text()


def read_while_still(group: memcg.Cgroup, attribute: str) -> tuple[object, str]:
    """The attribute and the file's text, read so close together that both are of one moment."""
    found: list[tuple[object, str]] = []

    def still() -> bool:
        before, value, after = text_of(group, attribute), getattr(group, attribute), text_of(group, attribute)
        found[:] = [(value, after)]
        return before == after

    wait_until(still, f"{attribute} stands still")
    return found[0]
