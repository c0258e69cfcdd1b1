"""A case has one speed: the report, the terminal, the gate's table, JUnit and the benchmark's table say the same."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.commands.gate import _table
from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge
from bench.judge.junit import as_junit
from bench.judge.words import figure
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.case import CaseResult, assess
from reports.document import write_report
from reports.tables.figures import figures
from reports.tables.overview import overview

# a disturbed run does not count where three others do
MACHINES = st.sampled_from([0.0, 0.0, 0.0, 1e4])
SECONDS = st.floats(30.0, 50.0)
RUNS = st.one_of(*(st.lists(st.tuples(SECONDS, MACHINES), min_size=n, max_size=n) for n in (1, 2, 6)))
BASELINE = recorded_baseline([build_synthetic_record(seed=90 + index, noise=0.003) for index in range(5)], "to test")
SPEED = re.compile(r"([\d,.]+) tokens/s/p \(([\d.]+) s/step\)")


def _records(runs: list[tuple[float, float]]) -> list[Record]:
    return [
        build_synthetic_record(seed=1 + at, median_seconds=seconds, host=_host(stolen))
        for at, (seconds, stolen) in enumerate(runs)
    ]


def _host(stolen: float) -> dict[str, float]:
    return {"stolen_seconds": stolen}


def _cells(markdown: str, name: str) -> list[str]:
    """Of the table's row or column of this name."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines() if "|" in line]
    if name in lines[0]:
        return [lines[2][lines[0].index(name)]]
    return next(line[1:] for line in lines if line[0] == name)


def _said(case: CaseResult, records: list[Record], with_baseline: bool) -> set[tuple[str, str]]:
    """(tokens/s/p, s/step) of every place that states them."""
    verdict = judge(records, [BASELINE] if with_baseline else [])
    junit = ElementTree.fromstring(as_junit([verdict], require_baseline=False))
    words = [" ".join(each.attrib.values()) + (each.text or "") for each in junit.iter()]
    found = {pair for text in (verdict.sentence, case.verdict.sentence, *words) for pair in SPEED.findall(text)[:1]}
    shown = overview([case], ["-"])
    found.add((_cells(shown, "tokens/s/p")[0], _cells(shown, "s/step")[0]))
    found.add((_cells(figures(case), "tokens/s/p")[0], _cells(figures(case), "s/step, median")[0]))
    if with_baseline:
        rows = {row[1]: row[2] for row in (re.split(r"\s{2,}", line) for line in _table([verdict]).splitlines()[1:])}
        found.add((rows["tokens/s/p"], rows["s/step"].removesuffix(" s")))
        means = (figure(row.metric, row.measured) for row in verdict.rows if row.metric == "mean_step_seconds")
        assert _cells(figures(case), "s/step, mean")[0] + " s" == next(means)
    return found


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(RUNS, st.booleans())
def test_every_place_states_the_same_speed(runs: list[tuple[float, float]], with_baseline: bool) -> None:
    records = _records(runs)
    (case,) = assess(records, [BASELINE] if with_baseline else [])
    assert len(said := _said(case, records, with_baseline)) == 1, said


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_written_report_says_it_too(count: int, tmp_path: Path) -> None:
    """The first line, the overview and the figures; what is of one run alone says so."""
    records = _records([(40.0 + at, 0.0) for at in range(count)])
    text = write_report(records, [BASELINE], tmp_path).read_text()
    ((rate, seconds), *_) = SPEED.findall(text.splitlines()[0])
    assert len(re.findall(rf"\| +{rate} +\|", text)) >= 3  # the overview, the comparison, the figures
    assert len(re.findall(rf"\| +{seconds}(?: s)? +\|", text)) >= 3
    assert ("the faster of the middle two" in text) == (count % 2 == 0)
