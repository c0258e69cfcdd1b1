"""The figures of a case as one table: the median over its runs, and how far the runs lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench.judge.alone import alone
from bench.judge.baseline import Baseline
from bench.judge.case_figures import over_runs
from bench.judge.stats import Summary
from bench.records.record import Record
from reports.case import CaseResult, Measured
from reports.formats import number, percent
from reports.markdown import table

T = TypeVar("T")
Line = tuple[str, str, str]

_NOT_MEASURED = "not measured"


def figures(case: CaseResult) -> str:
    """What the case's runs measured: the median over runs, and from the lowest to the highest of them."""
    runs = case.measured
    summaries = [run.summary for run in runs]
    rows = [
        _over_runs("tokens/s/p", summaries, lambda each: each.tokens_per_second_per_processor, ",.5g"),
        _over_runs("s/step, median", summaries, lambda each: each.median_step_seconds, ".4g"),
        _over_runs("s/step, p5", summaries, lambda each: each.p5_step_seconds, ".4g"),
        _over_runs("s/step, p95", summaries, lambda each: each.p95_step_seconds, ".4g"),
        _over_runs("s/step, mean", summaries, lambda each: each.mean_step_seconds, ".4g"),
        ("spread between runs", _spread(summaries), ""),
        _over_runs("TFLOP/s/p", summaries, lambda each: each.tflops_per_second_per_processor, ".4g"),
        _mfu(runs),
        *_memory(runs),
        *(_of_one_rank(runs) if runs[0].record.lone_rank else _of_all_ranks(runs, case.stored)),
        _over_runs("start-up", [run.record for run in runs], lambda each: each.startup_seconds, ".3g", " s"),
    ]
    count = f"median of {len(runs)} runs" if len(runs) > 1 else "one run"
    shown = rows if len(runs) > 1 else [row[:2] for row in rows]
    return table(["", count, "lowest to highest"][: len(shown[0])], shown, numbers=(1, 2)[: len(shown[0]) - 1])


def _of_all_ranks(runs: Sequence[Measured], stored: Baseline | None) -> list[Line]:
    """What follows from ranks that talked to each other."""
    summaries = [run.summary for run in runs]
    return [
        *_shares(summaries),
        _over_runs("skew: slowest rank over median rank", summaries, lambda each: each.skew, "+.1%"),
        ("expert load, most over mean", *_experts(summaries)),
        *_losses(runs, stored),
    ]


def _of_one_rank(runs: Sequence[Measured]) -> list[Line]:
    """What a rank alone says of its host, and of the job."""
    found = [each for run in runs if (each := alone(run.record, run.summary)) is not None]
    calls = found[0].operator_calls or 0
    return [
        _over_runs(f"{calls:,} operators, profiled", found, lambda each: each.operators_seconds, ".4g", " s"),
        _over_runs("the host beside them", found, lambda each: each.host_seconds, ".4g", " s"),
        _over_runs("a micro-batch, forward and backward", found, lambda each: each.micro_batch_seconds, ".4g", " s"),
        _over_runs("the job's s/step, at least", found, lambda each: each.least_step_seconds, ".4g"),
        _over_runs(
            "the job's tokens/s/p, at most", found, lambda each: each.most_tokens_per_second_per_processor, ",.5g"
        ),
    ]


def _over_runs(title: str, items: Sequence[T], get: Callable[[T], float | None], form: str, unit: str = "") -> Line:
    """A figure's median and range over runs; not measured unless every run did."""
    values = [value for each in items if (value := get(each)) is not None]
    if (median := over_runs(items, get)) is None:
        return title, _NOT_MEASURED, ""
    low, middle, high = (_percent_spaced(f"{value:{form}}") for value in (min(values), median, max(values)))
    return title, middle + unit, f"{low} to {high}{unit}"


def _percent_spaced(figure: str) -> str:
    return figure.replace("%", " %")


def _spread(summaries: Sequence[Summary]) -> str:
    medians = [each.median_step_seconds for each in summaries]
    return percent(statistics.stdev(medians) / statistics.mean(medians)) if len(medians) > 1 else "one run: not known"


def _mfu(runs: Sequence[Measured]) -> Line:
    device = runs[0].record.device
    peak = device.peak_flops_per_second
    if peak is None:
        return "MFU", "no stated peak", ""
    return _over_runs(f"MFU of {peak / 1e12:.5g} TFLOP/s", [run.summary for run in runs], lambda each: each.mfu, ".1%")


def _memory(runs: Sequence[Measured]) -> list[Line]:
    peaks = [run.summary.peak for run in runs]
    reserved = [_reserved(run.record) for run in runs]
    most, least = sorted({each.max_rank for each in peaks}), sorted({each.min_rank for each in peaks})
    highest = _over_runs(f"peak memory, most: {_named(most)}", peaks, lambda each: _gib(each.max_bytes), ".2f", " GiB")
    lowest = _over_runs(f"peak memory, least: {_named(least)}", peaks, lambda each: _gib(each.min_bytes), ".2f", " GiB")
    return [
        *([("peak memory", *highest[1:])] if runs[0].record.lone_rank else [highest, lowest]),
        _over_runs("reserved memory, most", reserved, lambda each: each, ".2f", " GiB"),
    ]


def _named(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:3]) + ("…" if len(ranks) > 3 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _gib(count: int) -> float | None:
    return count / 2**30 if count else None


def _reserved(record: Record) -> float | None:
    found = [rank.reserved_bytes for rank in record.ranks if rank.reserved_bytes is not None]
    return max(found) / 2**30 if found else None


def _shares(summaries: Sequence[Summary]) -> list[Line]:
    ideal = _percent_spaced(f"{summaries[0].bubble_ideal:.1%}")
    return [
        _over_runs(
            f"pipeline bubble (ideal {ideal}), of forward, backward and waits",
            summaries,
            lambda each: each.bubble_measured,
            ".1%",
        ),
        _over_runs(
            "communication, of a step, mean over ranks", summaries, lambda each: each.communication_share, ".1%"
        ),
        _over_runs("phases cover, of a step", summaries, lambda each: each.coverage, ".1%"),
    ]


def _experts(summaries: Sequence[Summary]) -> tuple[str, str]:
    """The worst layer's of each run."""
    worst = [max((each for each in s.expert_imbalance if each is not None), default=None) for s in summaries]
    return _over_runs("", worst, lambda each: each, ".3f")[1:]


def _losses(runs: Sequence[Measured], stored: Baseline | None) -> list[Line]:
    summaries = [run.summary for run in runs]
    ends = sorted({f"{number(each.loss_first)} to {number(each.loss_last)}" for each in summaries})
    rows = [("loss, first to last step", ends[0], "")]
    if len(ends) > 1:
        rows = [
            _over_runs("loss, first step", summaries, lambda each: each.loss_first, ".5g"),
            _over_runs("loss, last step", summaries, lambda each: each.loss_last, ".5g"),
        ]
    return [*rows, *([] if stored is None else [_parity(runs, stored)])]


def _parity(runs: Sequence[Measured], stored: Baseline) -> Line:
    """How far the losses are from those of the baseline's first run, at most."""
    theirs = stored.runs[0].losses
    found = [
        (abs(step.loss / other - 1), step.number)
        for run in runs
        for step, other in zip(run.record.steps, theirs, strict=False)
        if step.loss is not None and other
    ]
    title = f"loss, furthest from the baseline's (limit {stored.loss_tolerance_percent:g} %)"
    if not found:
        return title, _NOT_MEASURED, ""
    apart, step = max(found)
    return title, f"{100 * apart:.2g} % at step {step}" if apart else "the same to the last digit", ""
