"""One row a case: the figures a reader came for, in one unit and with the same decimals down each column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.judge.case_figures import over_runs
from bench.judge.metrics import RATE
from bench.judge.stats import Summary
from bench.judge.verdict import Verdict
from bench.records.record import Record
from reports.case import CaseResult
from reports.formats import Unit, bytes_unit, number, percent, rate_unit, seconds_unit
from reports.markdown import Markup, state_cell, table, text

_NONE = "–"


def overview(cases: Sequence[CaseResult]) -> str:
    """One row a case, with a link to the rest."""
    rates = [_middle(case, lambda each: each.tokens_per_second_per_processor) for case in cases]
    steps = [_middle(case, lambda each: each.median_step_seconds) for case in cases]
    peaks = [_middle(case, lambda each: each.peak.max_bytes or None) for case in cases]
    rate, step, peak = rate_unit(_known(rates)), seconds_unit(_known(steps)), bytes_unit(_known(peaks))
    # a phone shows the first four columns
    headers = ["case", "verdict", "tokens/s/p", step.per("step"), "tokens/s/p change", "CV", "MFU", f"peak {peak.name}"]
    rows = [
        [
            Markup(f"[{text(case.verdict.name)}](#case-{index + 1})"),
            state_cell(case.verdict.state),
            _told(rates[index], rate),
            _told(steps[index], step),
            change_of_speed(case.verdict),
            _percent(case, lambda each: each.cv),
            _percent(case, lambda each: each.mfu),
            _told(peaks[index], peak),
            _loss(case),
            str(len(case.runs)),
            processors(case.runs[0].record) if case.runs else _NONE,
        ]
        for index, case in enumerate(cases)
    ]
    return table([*headers, "loss", "runs", "processors"], rows, numbers=range(2, 10))


def change_of_speed(verdict: Verdict) -> str:
    """Of tokens/s/p against the baseline that judges."""
    row = verdict.judged(RATE)
    return _NONE if row is None else f"{row.change_percent:+.1f} %"


def _middle(case: CaseResult, get: Callable[[Summary], float | None]) -> float | None:
    """The median over the runs that count; none unless every run has it."""
    return over_runs([run.summary for run in case.measured], get)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _told(value: float | None, unit: Unit) -> str:
    return _NONE if value is None else unit.of(value)


def _percent(case: CaseResult, get: Callable[[Summary], float | None]) -> str:
    value = _middle(case, get)
    return _NONE if value is None else percent(value)


def _loss(case: CaseResult) -> str:
    if case.median_run is None or case.median_run.record.lone_rank:
        return _NONE
    first, last = _middle(case, lambda each: each.loss_first), _middle(case, lambda each: each.loss_last)
    return f"{number(first)} to {number(last)}"


def processors(record: Record) -> str:
    """How many of which, or which one of them."""
    ranks, device = record.layout.world_size, record.device.name
    return f"{ranks} x {device}" if record.lone_rank is None else f"rank {record.lone_rank.rank} of {ranks}, {device}"
