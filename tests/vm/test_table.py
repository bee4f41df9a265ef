"""What the tests in guests came to is counted from their reports, or from what was printed where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vm.guest import Outcome
from vm.table import Run, run, table, total

if TYPE_CHECKING:
    from pathlib import Path

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="pytest" time="12.5">
  <testcase classname="test_oom" name="test_one"/>
  <testcase classname="test_oom" name="test_two[a]">
    <failure message="assert 1 == 2&#10; +  where 1">long</failure>
  </testcase>
  <testcase classname="test_oom" name="test_three"><error message="left open">long</error></testcase>
  <testcase classname="test_oom" name="test_four"><skipped message="since 6.12">x</skipped></testcase>
  <testcase classname="test_oom" name="test_five"><skipped message="since 6.12">x</skipped></testcase>
</testsuite></testsuites>
"""

PRINTED = """
tests/kernel/test_oom.py::test_one PASSED                              [  1%]
tests/kernel/test_oom.py::test_two[a b] FAILED                         [ 20%]
tests/kernel/test_oom.py::test_three SKIPPED (since 6.12)              [ 30%]
tests/kernel/test_oom.py::test_four
"""


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """A guest that was booted, whose root has printed, and has left a report."""
    (tmp_path / "root.out").write_text(PRINTED)
    (tmp_path / "root.xml").write_text(REPORT)
    return Outcome(tmp_path, seconds=20, booted=5, release="6.1.0-50-amd64", statuses={"root": 1})


def test_a_report_is_counted(outcome: Outcome) -> None:
    """Each test is in one count, with what it failed with, and the reason why it was skipped."""
    counted = run("6.1-v1", "root", outcome)
    assert (counted.verdict, counted.passed, counted.seconds) == ("failed", 1, 12.5)
    assert counted.failures == (
        "test_oom::test_two[a]: assert 1 == 2 + where 1",
        "test_oom::test_three: left open",
    )
    assert counted.skips == {"since 6.12": 2}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"timed_out": True}, "timed out"),
        ({}, "broke off"),
        ({"statuses": {"root": 3}}, "pytest ended with status 3"),
    ],
)
def test_without_a_report_what_was_printed_is(outcome: Outcome, change: dict[str, object], verdict: str) -> None:
    """A guest that was ended still tells how far it came, and has failed."""
    (outcome.directory / "root.xml").unlink()
    outcome.statuses = {}
    for name, value in change.items():
        setattr(outcome, name, value)
    counted = run("6.1-v1", "root", outcome)
    assert (counted.verdict, counted.passed, counted.skips.total()) == (verdict, 1, 1)
    assert counted.failures == ("tests/kernel/test_oom.py::test_two[a b]",)


def test_a_guest_that_did_not_boot_has_failed(tmp_path: Path) -> None:
    """Though not one test failed, the total has a failure."""
    (tmp_path / "user.out").touch()
    counted = run("7.3-v2", "user", Outcome(tmp_path, seconds=9))
    assert counted.verdict == "did not boot"
    assert total([counted]) == "0 passed, 1 failed, 0 skipped"


def test_the_table_names_what_failed_and_why_others_were_skipped(outcome: Outcome) -> None:
    """A reason is told once, with the rows that it was given in."""
    runs = [run("6.1-v1", "root", outcome), Run("7.3-v2", "user", "7.3.4", "passed", passed=1234)]
    runs[1].skips["since 6.12"] += 1
    assert table(runs).splitlines() == [
        "kernel  user  release         passed  failed  skipped  seconds",
        "6.1-v1  root  6.1.0-50-amd64       1       2        2       12  failed",
        "7.3-v2  user  7.3.4             1234       0        1        0  passed",
        "",
        "skipped:",
        "  since 6.12 (6.1-v1 root 2, 7.3-v2 user 1)",
        "",
        "failed:",
        "  6.1-v1 root test_oom::test_two[a]: assert 1 == 2 + where 1",
        "  6.1-v1 root test_oom::test_three: left open",
    ]
    assert total(runs) == "1235 passed, 2 failed, 3 skipped"
