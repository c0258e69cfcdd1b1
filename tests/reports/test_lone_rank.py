"""The report of a rank alone: no word of what needs the others."""

from __future__ import annotations

from pathlib import Path

from reports.document import write_report


def test_it_says_that_communication_was_not_measured_and_shows_no_figure_of_it(lone_record, tmp_path: Path) -> None:
    report = write_report([lone_record()], [], tmp_path).read_text()
    assert "One rank of 16, alone: communication predicted, not measured." in report
    assert "rank 5 of 16, Ascend910B-synthetic" in report
    for absent in ("bubble", "skew:", "not finite", "slowest rank over", "Loss of each step", "plot-1-schedule"):
        assert absent not in report, absent
    assert "the job's tokens/s/p, at most" in report
    assert "1,000,000 operators, profiled" in report
    assert "| ran " in report


def test_a_whole_jobs_report_is_as_it_was(synthetic_record, tmp_path: Path) -> None:
    report = write_report([synthetic_record()], [], tmp_path).read_text()
    assert "alone" not in report
    assert "pipeline bubble (ideal" in report
    assert "Loss of each step" in report
