"""The figures of a case in groups: the median over its runs, and how far the runs lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench.judge.alone import alone
from bench.judge.baseline import Baseline
from bench.judge.stats import Summary
from bench.records.record import Record
from reports.case import CaseResult, Measured
from reports.formats import LOSS, PERCENT, Unit, bytes_unit, flops_unit, number, percent, rate_unit, seconds_unit
from reports.markdown import Markup, table

T = TypeVar("T")
Line = tuple[str, str, str]

_NOT_MEASURED = "not measured"


def figures(case: CaseResult) -> str:
    """What the case's runs measured: the median over runs, and from the lowest to the highest of them."""
    runs = case.measured
    is_alone = bool(runs[0].record.lone_rank)
    groups = {
        "Speed": [*_speed([run.summary for run in runs]), _startup(runs)],
        "Efficiency": [*_efficiency(runs), *([] if is_alone else _shares([run.summary for run in runs]))],
        "Memory": _memory(runs),
        "Balance": [] if is_alone else _balance([run.summary for run in runs]),
        "Learning": [] if is_alone else _losses(runs, case.stored),
        "This rank, and the job": _of_one_rank(runs) if is_alone else [],
    }
    rows: list[Line] = []
    for name, lines in groups.items():
        rows += [(Markup(f"**{name}**"), "", ""), *lines] if lines else []
    count = f"median of {len(runs)} runs" if len(runs) > 1 else "one run"
    shown = rows if len(runs) > 1 else [row[:2] for row in rows]
    told = table(["figure", count, "lowest to highest"][: len(shown[0])], shown, numbers=(1, 2)[: len(shown[0]) - 1])
    return told + (f"\n\n{_BELOW_IDEAL}" if any(map(_is_below_ideal, runs)) else "")


_BELOW_IDEAL = (
    "The pipeline's bubble is below its ideal, which takes each stage to be equally fast at all times. Here some ran "
    "faster while others waited, as they do where stages share processors."
)


def _is_below_ideal(run: Measured) -> bool:
    found = run.summary.bubble_measured
    return found is not None and found < run.summary.bubble_ideal


def _speed(summaries: Sequence[Summary]) -> list[Line]:
    rates = [each.tokens_per_second_per_processor for each in summaries]
    steps = seconds_unit(each.median_step_seconds for each in summaries)
    return [
        _over_runs("tokens/s/p", rates, lambda each: each, rate_unit(rates)),
        _over_runs("step, median", summaries, lambda each: each.median_step_seconds, steps),
        _over_runs("step, mean", summaries, lambda each: each.mean_step_seconds, steps),
        _over_runs("step, p5", summaries, lambda each: each.p5_step_seconds, steps),
        _over_runs("step, p95", summaries, lambda each: each.p95_step_seconds, steps),
        _over_runs("spread of a run's steps (CV)", summaries, lambda each: each.cv, PERCENT),
        ("spread between runs (CV)", _spread(summaries), ""),
    ]


def _startup(runs: Sequence[Measured]) -> Line:
    return _in_unit("start-up", [run.record.startup_seconds for run in runs], seconds_unit)


def _efficiency(runs: Sequence[Measured]) -> list[Line]:
    flops = [1e12 * run.summary.tflops_per_second_per_processor for run in runs]
    return [_in_unit("model FLOP/s of a processor", flops, flops_unit), _mfu(runs)]


def _balance(summaries: Sequence[Summary]) -> list[Line]:
    ideal = percent(summaries[0].bubble_ideal)
    worst = [max((each for each in s.expert_imbalance if each is not None), default=None) for s in summaries]
    return [
        _over_runs(f"pipeline bubble (ideal {ideal})", summaries, lambda each: each.bubble_measured, PERCENT),
        _over_runs("skew: slowest rank over median rank", summaries, lambda each: each.skew, PERCENT),
        _over_runs("expert load, most over mean, worst layer", worst, lambda each: each, Unit("", 1.0, "", 3)),
    ]


def _of_one_rank(runs: Sequence[Measured]) -> list[Line]:
    """What a rank alone says of its host, and of the job."""
    found = [each for run in runs if (each := alone(run.record, run.summary)) is not None]
    calls, rates = found[0].operator_calls or 0, [each.most_tokens_per_second_per_processor for each in found]
    return [
        _in_unit(f"{calls:,} operators, profiled", [each.operators_seconds for each in found], seconds_unit),
        _in_unit("the host beside them", [each.host_seconds for each in found], seconds_unit),
        _in_unit("a micro-batch, forward and backward", [each.micro_batch_seconds for each in found], seconds_unit),
        _in_unit("the job's step, at least", [each.least_step_seconds for each in found], seconds_unit),
        _in_unit("the job's tokens/s/p, at most", rates, rate_unit),
    ]


def _in_unit(title: str, values: Sequence[float | None], unit_of: Callable[[Sequence[float]], Unit]) -> Line:
    """A figure's median and range over runs, in the unit that fits them."""
    unit = unit_of([value for value in values if value is not None])
    return _over_runs(title, values, lambda each: each, unit)


def _over_runs(title: str, items: Sequence[T], get: Callable[[T], float | None], unit: Unit) -> Line:
    """A figure's median and range over runs; not measured unless every run did."""
    found = [get(each) for each in items]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return title, _NOT_MEASURED, ""
    return title, unit.told(statistics.median(values)), f"{unit.of(min(values))} to {unit.told(max(values))}"


def _spread(summaries: Sequence[Summary]) -> str:
    medians = [each.median_step_seconds for each in summaries]
    return percent(statistics.stdev(medians) / statistics.mean(medians)) if len(medians) > 1 else "one run: not known"


def _mfu(runs: Sequence[Measured]) -> Line:
    device = runs[0].record.device
    peak = device.peak_flops_per_second
    if peak is None:
        return "MFU", "no stated peak", ""
    return _over_runs(
        f"MFU of {peak / 1e12:.5g} TFLOP/s", [run.summary for run in runs], lambda each: each.mfu, PERCENT
    )


def _memory(runs: Sequence[Measured]) -> list[Line]:
    peaks = [run.summary.peak for run in runs]
    most, least = sorted({each.max_rank for each in peaks}), sorted({each.min_rank for each in peaks})
    unit = bytes_unit(each.max_bytes for each in peaks)
    highest = _over_runs(f"peak, most: {_named(most)}", peaks, lambda each: each.max_bytes or None, unit)
    lowest = _over_runs(f"peak, least: {_named(least)}", peaks, lambda each: each.min_bytes or None, unit)
    return [
        *([("peak", *highest[1:])] if runs[0].record.lone_rank else [highest, lowest]),
        _over_runs("reserved, most", [_reserved(run.record) for run in runs], lambda each: each, unit),
    ]


def _named(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:3]) + ("…" if len(ranks) > 3 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _reserved(record: Record) -> float | None:
    return max((rank.reserved_bytes for rank in record.ranks if rank.reserved_bytes is not None), default=None)


def _shares(summaries: Sequence[Summary]) -> list[Line]:
    return [
        _over_runs(
            "communication, of a step, mean over ranks", summaries, lambda each: each.communication_share, PERCENT
        ),
        _over_runs("phases cover, of a step", summaries, lambda each: each.coverage, PERCENT),
    ]


def _losses(runs: Sequence[Measured], stored: Baseline | None) -> list[Line]:
    summaries = [run.summary for run in runs]
    ends = sorted({f"{_loss(each.loss_first)} to {_loss(each.loss_last)}" for each in summaries})
    rows: list[Line] = [("loss, first to last step", ends[0], "")]
    if len(ends) > 1:
        rows = [
            _over_runs("loss, first step", summaries, lambda each: each.loss_first, LOSS),
            _over_runs("loss, last step", summaries, lambda each: each.loss_last, LOSS),
        ]
    return [*rows, *([] if stored is None else [_parity(runs, stored)])]


def _loss(value: float | None) -> str:
    return number(value) if value is None else LOSS.of(value)


def _parity(runs: Sequence[Measured], stored: Baseline) -> Line:
    """How far the losses are from those of the baseline's first run, at most."""
    theirs = stored.runs[0].losses
    found = [
        (abs(step.loss / other - 1), step.step)
        for run in runs
        for step, other in zip(run.record.steps, theirs, strict=False)
        if step.loss is not None and other
    ]
    title = f"loss, furthest from the baseline's (limit {stored.loss_tolerance_percent:g} %)"
    if not found:
        return title, _NOT_MEASURED, ""
    apart, step = max(found)
    return title, f"{100 * apart:.2g} % at step {step}" if apart else "the same to the last digit", ""
