"""What became of the guests and of the tests in them, as tables."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .guest import Outcome


@dataclass(frozen=True)
class Run:
    """A run of the tests: one user in one guest."""

    row: str
    user: str
    release: str
    verdict: str
    """``passed``, or why the row failed."""
    passed: int = 0
    failures: tuple[str, ...] = ()
    """Which tests failed, and with what."""
    skips: Counter[str] = field(default_factory=Counter)
    """How many tests were skipped, by the reason."""
    seconds: float = 0.0


def story(outcome: Outcome) -> str:
    """What became of a guest, in one sentence."""
    words = [f"ready after {outcome.booted:.0f} s" if outcome.booted is not None else "did not boot"]
    words += [f"{name}: status {status}" for name, status in outcome.statuses.items()]
    if outcome.timed_out:
        words.append("ended at the timeout")
    return f"{outcome.release}: {', '.join(words)}, {outcome.seconds:.0f} s in all".removeprefix(": ")


def run(row: str, user: str, outcome: Outcome) -> Run:
    """What the tests of one user came to."""
    report = outcome.directory / f"{user}.xml"
    if user in outcome.statuses and report.exists():
        return _read(row, user, outcome.release, outcome.statuses[user], report)
    printed = (outcome.directory / f"{user}.out").read_text(errors="replace")
    ended = re.findall(r"^(\S.*?) (PASSED|FAILED|ERROR|SKIPPED)\b.*%\]$", printed, re.MULTILINE)
    failures = tuple(name for name, end in ended if end in ("FAILED", "ERROR"))
    skips = Counter("the reason is lost" for _, end in ended if end == "SKIPPED")
    passed = sum(end == "PASSED" for _, end in ended)
    return Run(row, user, outcome.release, _why(user, outcome), passed, failures, skips)


def _why(user: str, outcome: Outcome) -> str:
    """Why there is no report."""
    if user in outcome.statuses:
        return f"pytest ended with status {outcome.statuses[user]}"
    return "did not boot" if outcome.booted is None else "timed out" if outcome.timed_out else "broke off"


def _read(row: str, user: str, release: str, status: int, report: Path) -> Run:
    passed, failures, skips, seconds = 0, [], Counter[str](), 0.0
    for suite in ElementTree.parse(report).iter("testsuite"):
        seconds += float(suite.get("time", 0))
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [*case.iter("failure"), *case.iter("error")]
        skipped = case.find("skipped")
        if wrong:
            failures.append(f"{case.get('classname')}::{case.get('name')}: {_line(wrong[0].get('message'))}")
        elif skipped is not None:
            skips[_line(skipped.get("message"))] += 1
        else:
            passed += 1
    # Status 1 says that tests failed; any other is a mistake in what was asked for.
    verdict = "passed" if status == 0 else "failed" if status == 1 else f"pytest ended with status {status}"
    return Run(row, user, release, verdict, passed, tuple(failures), skips, seconds)


def _line(message: str | None) -> str:
    return " ".join((message or "").split())[:200]


def table(runs: Sequence[Run]) -> str:
    """The summary: a row for each run, then why tests were skipped, and what failed."""
    head = ("kernel", "user", "release", "passed", "failed", "skipped", "seconds", "")
    rows = [
        (
            *(each.row, each.user, each.release or "-"),
            *map(str, (each.passed, len(each.failures), each.skips.total(), round(each.seconds))),
            each.verdict,
        )
        for each in runs
    ]
    lines = [*_columns([head, *rows])]
    for title, notes in (("skipped", _skips(runs)), ("failed", _failures(runs))):
        lines += ["", f"{title}:", *notes] if notes else []
    return "\n".join(lines)


def total(runs: Iterable[Run]) -> str:
    """The last line."""
    runs = [*runs]
    passed = sum(each.passed for each in runs)
    failed = sum(max(len(each.failures), each.verdict != "passed") for each in runs)
    skipped = sum(each.skips.total() for each in runs)
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def _skips(runs: Iterable[Run]) -> list[str]:
    where: dict[str, list[str]] = {}
    for each in runs:
        for reason, count in each.skips.items():
            where.setdefault(reason, []).append(f"{each.row} {each.user} {count}")
    return [f"  {reason} ({', '.join(places)})" for reason, places in sorted(where.items())]


def _failures(runs: Iterable[Run]) -> list[str]:
    return [f"  {each.row} {each.user} {failure}" for each in runs for failure in each.failures]


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = range(3, 7)
    for row in rows:
        cells = (
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
