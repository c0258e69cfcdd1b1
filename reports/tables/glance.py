"""The two figures that a reader came for, tokens/s/p and s/step, beside the baseline's."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.judge.evidence import FAMILY_ERROR
from bench.judge.metrics import RATE, STEP
from bench.judge.verdict import Row
from bench.judge.words import change, confidence
from reports.case import CaseResult
from reports.formats import Unit, rate_unit, seconds_unit
from reports.headline import deciding_row
from reports.markdown import state_cell, table
from reports.tables.comparison import interval_told


@dataclass(frozen=True)
class Glance:
    """A figure of each run of ours, and its row beside the baseline that judges, if one does."""

    name: str
    better: str
    unit: Unit
    ours: tuple[float, ...]
    row: Row | None

    @property
    def middle(self) -> float:
        return statistics.median(self.ours)


def glances(case: CaseResult) -> tuple[Glance, Glance] | None:
    """tokens/s/p and s/step of a case that measured something."""
    if not case.measured:
        return None
    rates = tuple(run.summary.tokens_per_second_per_processor for run in case.measured)
    steps = tuple(run.summary.median_step_seconds for run in case.measured)
    rate, step = (_row(case, name) for name in (RATE, STEP))
    beside = [each.baseline for each in (rate, step) if each is not None]
    seconds = seconds_unit([statistics.median(steps), *beside[1:]])
    return (
        Glance("tokens/s/p", "more is better", rate_unit([*rates, *beside[:1]]), rates, rate),
        Glance(seconds.per("step"), "less is better", seconds, steps, step),
    )


def glance(case: CaseResult) -> str:
    """Both figures in a table; nothing of a case that measured nothing."""
    found = glances(case)
    if found is None:
        return ""
    if found[0].row is None:
        rows = [(each.name, each.unit.of(each.middle), _range(each)) for each in found]
        shown = rows if len(case.measured) > 1 else [row[:2] for row in rows]
        return table(["figure", "measured", "lowest to highest run"][: len(shown[0])], shown, numbers=range(1, 3))
    headers = ["figure", "measured", "baseline", "change", f"{confidence(FAMILY_ERROR)} interval", "result"]
    return table(headers, [_beside(each) for each in found], numbers=range(1, 5))


def _beside(found: Glance) -> list[str]:
    row = found.row
    if row is None:
        return [found.name, found.unit.of(found.middle), "–", "–", "–", "–"]
    return [
        found.name,
        found.unit.of(row.measured),
        found.unit.of(row.baseline),
        change(row.metric, row.change_percent),
        interval_told(row),
        state_cell(row.state),
    ]


def _range(found: Glance) -> str:
    return f"{found.unit.of(min(found.ours))} to {found.unit.of(max(found.ours))}"


def _row(case: CaseResult, metric: str) -> Row | None:
    """Beside the baseline that the verdict rests on."""
    decides = deciding_row(case.verdict)
    rows = [row for row in case.verdict.rows if row.metric == metric and row.state != "compared"]
    return next((row for row in rows if decides is None or row.label == decides.label), None)
