"""``memcg doctor``: groups that are held, or whose OOM killer is off, and what becomes of those that nobody looks
after."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import cgroup
from ..errors import AccessDeniedError, CgroupNotFoundError, MemcgError
from ..oom.marks import Holder, Mark, has_killer_off_before, holder_of, read_mark
from ..oom.repair import Repair, is_off, repair
from ..units import format_size
from .blocked import Blocked
from .printing import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cgroup import Cgroup
    from ..controls.stat import OomControlV1

NOTHING_WRONG = 0
FAILED = 1
ABANDONED = 3

EPILOG = """exit status:
  0  nothing is wrong, or all of it was repaired
  1  something could not be looked at; the messages say what and why
  3  an abandoned hold was found, and is still there"""

Kind = Literal["held", "abandoned", "inherited", "below a held group", "switched off by hand"]


@dataclass
class _Finding:
    """A group whose killer is off, or that has the mark of a hold."""

    group: Cgroup
    control: OomControlV1 | None
    """None on cgroup v2, which has no such switch."""
    kind: Kind
    mark: Mark | None = None
    holder: Holder | None = None
    source: Cgroup | None = None
    """Above it, the group from whose hold this one has the switch."""
    blocked: Blocked = field(default_factory=Blocked)
    repair: Repair = field(default_factory=Repair)
    repaired: bool = False


def doctor(path: str | None, *, fix: bool) -> int:
    """Looks at the group at *path*, or the root, and at all below; the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    examination = _Examination()
    top = cgroup.root() if path is None else cgroup.open(path)
    examination.walk(top)
    if fix:  # before anything is printed, as nobody may be there to read it
        examination.fix()
    for finding in examination.findings:
        print(_describe(finding, fix=fix))
    print(_sum_up(examination.findings, top))
    for error in examination.errors:
        print(f"memcg: {error}", file=sys.stderr)
    if any(each.kind in ("abandoned", "inherited") and not each.repaired for each in examination.findings):
        return ABANDONED
    return FAILED if examination.errors else NOTHING_WRONG


class _Examination:
    """What was found, and what went wrong meanwhile."""

    def __init__(self) -> None:
        self.findings: list[_Finding] = []
        self.errors: list[MemcgError] = []

    def walk(self, top: Cgroup) -> None:
        """Looks at *top* and all groups below, each before its children."""
        # A list and no recursion: any user with a group may nest more deeply than Python does.
        stack: list[tuple[Cgroup, tuple[_Finding, ...]]] = [(top, ())]
        while stack:
            group, above = stack.pop()
            errors = len(self.errors)
            with self._noting_errors():
                control = _control(group)
                finding = _diagnose(group, control, above)
                if finding:
                    self.findings.append(finding)
                    above = (*above, finding)
                if (
                    isinstance(group, cgroup.CgroupV1) and control and control.under_oom and above
                ):  # by its own limit, or that of a group above
                    blocked = Blocked()
                    blocked.look(group)
                    for each in above:
                        if each.control and each.control.under_oom:
                            each.blocked.add(blocked)
            with self._noting_errors():
                stack += [(child, above) for child in reversed(group.children())]
            del self.errors[errors + 1 :]  # one is enough for one group

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except CgroupNotFoundError:  # removed meanwhile
            return
        except MemcgError as error:
            self.errors.append(error)

    def fix(self) -> None:
        """Repairs what is abandoned."""
        for finding in self.findings:
            if finding.kind == "abandoned":
                try:
                    finding.repair = repair(finding.group)
                except MemcgError as error:
                    finding.repair = Repair(failed=(error,))
                if finding.repair.holder:
                    finding.kind, finding.holder = "held", finding.repair.holder  # since a moment ago
                else:
                    finding.repaired = not finding.repair.failed
                self.errors += finding.repair.failed
        for finding in self.findings:
            if finding.kind == "inherited":
                finding.repaired = _is_on(finding.group)


def _control(group: Cgroup) -> OomControlV1 | None:
    return group.oom_control if isinstance(group, cgroup.CgroupV1) else None


def _diagnose(group: Cgroup, control: OomControlV1 | None, above: tuple[_Finding, ...]) -> _Finding | None:
    for _ in range(3):  # a hold may begin or end just now
        mark = read_mark(group)
        if mark is None:
            break
        holder = holder_of(group, mark)
        if holder is not None and holder.is_guard:
            return _Finding(group, control, "held", mark, holder)
    else:
        return _Finding(group, control, "abandoned", mark, holder)
    if control is None or not control.oom_kill_disable:
        return None
    source = _source(group, above)
    if source is None:
        return _Finding(group, control, "switched off by hand")
    holder = holder_of(source, read_mark(source))
    kind: Kind = "below a held group" if holder and holder.is_guard else "inherited"
    return _Finding(group, control, kind, source=source)


def _source(group: Cgroup, above: tuple[_Finding, ...]) -> Cgroup | None:
    """The group above, with the mark of a hold, from which *group* has got its switch; None where it has not."""
    with contextlib.suppress(AccessDeniedError):
        if above and above[-1].source and above[-1].group == group.parent and not has_killer_off_before(group):
            return above[-1].source
        while not has_killer_off_before(group):
            parent = group.parent
            if parent is None:
                return None
            if read_mark(parent) is not None:
                return parent
            if not is_off(parent):
                return None
            group = parent
    return None


def _is_on(group: Cgroup) -> bool:
    try:
        return not is_off(group)
    except CgroupNotFoundError:
        return True
    except MemcgError:
        return False


# What is said.


def _describe(finding: _Finding, *, fix: bool) -> str:
    lines = [f"{printable(str(finding.group.path))}: {_state(finding)}"]
    if blocked := str(finding.blocked):
        lines.append(blocked)
    lines.append(_explain(finding))
    lines += [f"repaired: {printable(each.path)}: {each.what}" for each in finding.repair.done]
    if finding.kind in ("abandoned", "inherited"):
        if finding.kind == "inherited" and finding.repaired:
            lines.append(f"repaired, with {printable(str(finding.source and finding.source.path))}")
        elif fix and not finding.repaired and finding.kind == "abandoned":
            lines.append("not repaired, for the reasons below")
        elif not finding.repaired:
            how = f"memcg doctor --fix {shlex.quote(str((finding.source or finding.group).path))}"
            lines.append(f"to repair it: {printable(how)}")
    return "\n    ".join(lines)


def _state(finding: _Finding) -> str:
    control, group = finding.control, finding.group
    if control is not None:
        under_oom = ", under OOM" if control.under_oom else ""
        return f"OOM killer {'off' if control.oom_kill_disable else 'on'}{under_oom}"
    with contextlib.suppress(MemcgError):
        if isinstance(group, cgroup.CgroupV2):
            frozen = ", frozen" if group.cgroup_freeze else ""
            return f"memory.high {format_size(group.high)}{frozen}"
    return "gone"


def _explain(finding: _Finding) -> str:
    path = str(finding.group.path)
    source = "" if finding.source is None else printable(str(finding.source.path))
    if finding.kind == "held":
        assert finding.mark is not None
        return _explain_holder(finding.mark, finding.holder)
    if finding.kind == "abandoned":
        guard = f"process {finding.mark.guard}" if finding.mark and finding.mark.guard else "whichever it was"
        lock = f"; process {finding.holder.pid} has it locked, and is no guard" if finding.holder else ""
        return f"an abandoned hold: its guard, {guard}, is gone{lock}"
    if finding.kind == "inherited":
        return f"inherited from {source}, whose hold is abandoned"
    if finding.kind == "below a held group":
        return f"inherited from {source}, which is held: its guard sees to it"
    how = f"echo 0 > {shlex.quote(f'{path}/memory.oom_control')}"
    return f"switched off by hand, or by a program without a hold; to switch it on: {printable(how)}"


def _explain_holder(mark: Mark, holder: Holder | None) -> str:
    if holder is None or holder.pid is None:
        return "held, by a guard that cannot be seen from here: it is in another PID namespace, or another user's"
    delay = "without a limit of time" if mark.delay is None else f"with a delay of {mark.delay:g} s"
    owner = "unknown"
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{holder.pid}/status").read_text(errors="replace")
        inner = status.partition("\nNSpid:")[2].partition("\n")[0].split()
        if len(inner) > 1:
            owner = f"{mark.owner} of its own PID namespace"
        else:
            owner = str(mark.owner)
            owner += f" ({printable(Path(f'/proc/{mark.owner}/comm').read_text(errors='replace').rstrip())})"
    return f"held by guard {holder.pid} for process {owner}, {delay}"


def _sum_up(findings: list[_Finding], top: Cgroup) -> str:
    if not findings:
        return f"{printable(str(top.path))}: no OOM killer is off, here or below, and no hold was abandoned"
    counts: dict[str, int] = {}
    for finding in findings:
        kind = f"{finding.kind}{' and repaired' if finding.repaired else ''}"
        counts[kind] = counts.get(kind, 0) + 1
    groups = "1 group" if len(findings) == 1 else f"{len(findings)} groups"
    return f"{groups}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
