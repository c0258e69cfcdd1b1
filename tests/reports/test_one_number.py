"""A case has one speed: the report, the terminal, the gate's table, JUnit and the benchmark's table say the same."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.commands.gate import _table
from bench.judge.baseline import load_baselines, recorded_baseline
from bench.judge.gate import judge
from bench.judge.junit import as_junit
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.case import CaseResult, assess
from reports.document import write_report
from reports.headline import headline
from reports.tables.figures import figures
from reports.tables.glance import glance
from reports.tables.overview import overview

# a disturbed run does not count where three others do
MACHINES = st.sampled_from([0.0, 0.0, 0.0, 1e4])
SECONDS = st.floats(30.0, 50.0)
RUNS = st.one_of(*(st.lists(st.tuples(SECONDS, MACHINES), min_size=n, max_size=n) for n in (1, 2, 6)))
BASELINE = recorded_baseline([build_synthetic_record(seed=90 + index, noise=0.003) for index in range(5)], "to test")
PUBLISHED = load_baselines(Path(__file__).parents[2] / "baselines")
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


def _said(case: CaseResult, records: list[Record], with_baseline: bool) -> list[tuple[str, str]]:
    """(tokens/s/p, s/step) of every place that states them."""
    verdict = judge(records, [BASELINE] if with_baseline else [])
    junit = ElementTree.fromstring(as_junit([verdict], require_baseline=False))
    words = [" ".join(each.attrib.values()) + (each.text or "") for each in junit.iter()]
    told = (verdict.sentence, case.verdict.sentence, headline([case]), *words)
    found = [pair for text in told for pair in SPEED.findall(text)[:1]]
    shown, measured = overview([case]), figures(case)
    found.append((_cells(shown, "tokens/s/p")[0], _cells(shown, "s/step")[0]))
    found.append((_cells(measured, "tokens/s/p")[0], _cells(measured, "step, median")[0].removesuffix(" s")))
    found.append((_cells(glance(case), "tokens/s/p")[0], _cells(glance(case), "s/step")[0]))
    if with_baseline:
        rows = {row[1]: row[2] for row in (re.split(r"\s{2,}", line) for line in _table([verdict]).splitlines()[1:])}
        found.append((rows["tokens/s/p"], rows["s/step"].removesuffix(" s")))
        (mean,) = (row.measured for row in verdict.rows if row.metric == "mean_step_seconds")
        assert _is_rounded(_cells(measured, "step, mean")[0].removesuffix(" s"), mean)
    return found


def _is_rounded(shown: str, value: float) -> bool:
    """Whether a figure is this value, to the digits that it has."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace(",", "")) - value) <= 0.500001 * 10.0**-decimals


def _is_of(said: tuple[str, str], case: CaseResult) -> bool:
    """Whether both figures are the medians over the runs of a case that count."""
    runs = [run.summary for run in case.measured]
    rate = statistics.median(each.tokens_per_second_per_processor for each in runs)
    return _is_rounded(said[0], rate) and _is_rounded(said[1], statistics.median(e.median_step_seconds for e in runs))


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(RUNS, st.booleans())
def test_every_place_states_the_same_speed(runs: list[tuple[float, float]], with_baseline: bool) -> None:
    records = _records(runs)
    (case,) = assess(records, [BASELINE] if with_baseline else [])
    said = _said(case, records, with_baseline)
    assert all(_is_of(each, case) for each in said), said


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(RUNS)
def test_a_change_beside_a_published_figure_is_one_number(runs: list[tuple[float, float]]) -> None:
    """Of tokens/s/p: the same change of s/step is another percentage."""
    (case,) = assess(_records(runs), PUBLISHED)
    told = [
        re.findall(r"ran ([\d.]+ % (?:slower|faster)) than its", said)
        for said in (headline([case]), case.verdict.sentence)
    ]
    assert told[0] == told[1] != [], (headline([case]), case.verdict.sentence)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_written_report_says_it_too(count: int, tmp_path: Path) -> None:
    """The first screen, the comparison and the figures; what is of one run alone says so."""
    records = _records([(40.0 + at, 0.0) for at in range(count)])
    text = write_report(records, [BASELINE], tmp_path).read_text()
    (case,) = assess(records, [BASELINE])
    rates, steps = (re.findall(rf"^\| +{name} +\| +([\d,.]+)", text, re.M) for name in ("tokens/s/p", "s/step"))
    rates, steps = rates[:3], [*steps[:2], *re.findall(r"^\| +step, median +\| +([\d.]+) s", text, re.M)]
    assert len(rates) == len(steps) == 3
    assert all(_is_of(each, case) for each in zip(rates, steps, strict=True)), (rates, steps)
    assert ("the faster of the middle two" in text) == (count % 2 == 0)
