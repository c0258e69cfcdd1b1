"""The report's section of a measured step beside what was expected of it."""

from __future__ import annotations

import json
from pathlib import Path

from reports.document import write_report
from tests.bench.judge.test_beside import COLLECTIVES, PHASES, expected, measured


def test_the_worst_part_is_first_with_its_interval_and_its_terms(synthetic_record, tmp_path: Path) -> None:
    record = measured(synthetic_record(), PHASES, COLLECTIVES)
    report = write_report([record], [], tmp_path, expectations=[expected(record)]).read_text()
    section = report[report.index("### Measured beside expected") : report.index("### Runs")]
    assert "Expected by the device profile a-chip. Ten rows." in section
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert rows[1] == ["expert", "3.00", "2.40 to 3.75", "9.00", "+6.00", "22.5 %", "outside its interval"]
    assert rows[5][:2] == ["computing: products, attention, memory, host", "26.00"]
    assert rows[6] == ["step", "38.00", "30.40 to 47.50", "40.00", "+2.00", "100.0 %", "within"]
    told = json.loads((tmp_path / "report.json").read_text())["verdicts"][0]["expectation"]
    assert told["step_seconds"] == 38.0


def test_without_an_interval_it_says_so_and_claims_nothing(synthetic_record, tmp_path: Path) -> None:
    record = measured(synthetic_record(), PHASES, COLLECTIVES)
    refused = expected(record, low_seconds=None, high_seconds=None, basis=["no interval: too few rows"])
    report = write_report([record], [], tmp_path, expectations=[refused]).read_text()
    assert "No interval: too few rows." in report
    assert "outside its interval" not in report


def test_where_nothing_is_expected_nothing_is_said(synthetic_record, tmp_path: Path) -> None:
    record = synthetic_record()
    other = expected(record, device_name="another device")
    assert "expected" not in write_report([record], [], tmp_path, expectations=[other]).read_text().casefold()


def test_of_a_rank_alone_the_job_is_told_with_the_communication_predicted(lone_record, tmp_path: Path) -> None:
    record = measured(lone_record(), PHASES, COLLECTIVES)
    report = write_report([record], [], tmp_path, expectations=[expected(record)]).read_text()
    # 40 s, 36 s of 64 micro-batches once more for the second stage, 7.5 s of exchanges as many times, 1 s of data
    assert f"The job, if all its stages are as this one: {40 + 36 / 64 + 7.5 * 65 / 64 + 1:.4g} s a step" in report
    assert "Of this rank's own work: exchanges and waiting are beside it." in report
