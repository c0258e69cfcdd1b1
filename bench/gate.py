"""Judge records against baselines: floats in, a verdict and the sentence an engineer needs out.

A recorded baseline of five runs or more is judged by its between-run variance (bench.evidence): a slowdown that is
both sure and above the floor fails, one that cannot be told from none passes only where the tolerance can be ruled
out, and is inconclusive otherwise. A published figure knows no variance: there a fixed, stated, one-sided tolerance
decides (5 % unless the baseline says otherwise). More than either faster asks for a fresh baseline, which is not a
failure. A baseline for another recipe, layout or device is refused and the difference named; it is never compared
with a warning.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.baseline import Baseline, load_baselines, recorded_baseline
from bench.evidence import FAMILY_ERROR, FLOOR_PERCENT, MIN_BASELINE_RUNS, MIN_RUNS_TO_DECIDE, Evidence, decide
from bench.record import Record
from bench.stats import summarise

__all__ = [
    "Baseline",
    "Row",
    "Refusal",
    "Verdict",
    "exit_code",
    "judge",
    "load_baselines",
    "recorded_baseline",
]

MIN_STEADY_STEPS = 3
# Above the hardware's own peak, the clock, the FLOP count or the peak is wrong, and so is the speed.
MAX_MFU = 1.0

State = Literal["pass", "fail", "improved", "inconclusive", "no_baseline", "void"]
RowState = Literal["pass", "fail", "improved", "inconclusive", "compared"]
_WORST_FIRST: tuple[RowState, ...] = ("fail", "inconclusive", "improved", "pass", "compared")
_STATE_OF_ROW: dict[RowState, State] = {
    "fail": "fail",
    "inconclusive": "inconclusive",
    "improved": "improved",
    "pass": "pass",
}


@dataclass(frozen=True)
class Row:
    """One metric beside one baseline. `limit_percent` is the change beyond which it fails, or that must be ruled out.

    `evidence` says how sure that is, of step seconds; a published figure has none.
    """

    metric: str
    measured: float
    baseline: float
    change_percent: float
    limit_percent: float | None
    state: RowState
    label: str
    source: str
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Refusal:
    """A baseline of the same case or recipe that may not be compared, and what differs."""

    label: str
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one or more runs of one case."""

    state: State
    case: str
    sentence: str
    rows: tuple[Row, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def judge(records: Record | Sequence[Record], baselines: Sequence[Baseline]) -> Verdict:
    """Judge the runs of one case: the median of their medians against every baseline with the same key."""
    runs = [records] if isinstance(records, Record) else list(records)
    _require_one_case(runs)
    if reason := _why_void(runs):
        return Verdict("void", runs[0].case, f"VOID: {runs[0].case} cannot be judged: {reason}")
    first = runs[0]
    summaries = [summarise(run) for run in runs]
    tokens_rate = statistics.median(each.tokens_per_second_per_processor for each in summaries)
    step_seconds = first.work.tokens_per_step / tokens_rate / first.layout.world_size
    related = [b for b in baselines if b.case == first.case or b.recipe.name == first.recipe.name]
    differences = [(baseline, baseline.differences(first)) for baseline in related]
    refusals = tuple(Refusal(baseline.label, found) for baseline, found in differences if found)
    matched = [baseline for baseline, found in differences if not found]
    medians = [each.median_step_seconds for each in summaries]
    rows = tuple(row for baseline in matched for row in _rows(baseline, tokens_rate, step_seconds, medians))
    measured = f"{tokens_rate:,.5g} tokens/s/p ({step_seconds:.4g} s/step)"
    if len(runs) > 1:
        measured += f", the median of {len(runs)} runs,"
    return _conclude(first, rows, refusals, measured)


def exit_code(verdict: Verdict, require_baseline: bool) -> int:
    """0 if the case may pass a gate, else 1. Where a baseline is required, so is an answer: neither may be missing."""
    if verdict.state in ("no_baseline", "inconclusive"):
        return int(require_baseline)
    return int(verdict.state in ("fail", "void"))


def _require_one_case(runs: list[Record]) -> None:
    if not runs:
        raise ValueError("no record to judge")
    first = runs[0]
    for run in runs[1:]:
        same = (run.case, run.recipe.hash, run.layout, run.device, run.work) == (
            first.case,
            first.recipe.hash,
            first.layout,
            first.device,
            first.work,
        )
        if not same:
            raise ValueError(f"records {first.id} and {run.id} are not runs of one case, recipe, layout and device")


def _why_void(runs: list[Record]) -> str | None:
    for run in runs:
        if not run.valid:
            return run.void_reasons[0] + _more(len(run.void_reasons))
        summary = summarise(run)
        if summary.steady_steps < MIN_STEADY_STEPS:
            return f"{summary.steady_steps} steady steps of {len(run.steps)}, at least {MIN_STEADY_STEPS} needed"
        if summary.mfu is not None and summary.mfu > MAX_MFU:
            return f"{summary.mfu:.0%} of the device's stated peak is impossible; check peak_flops_per_second"
    return None


def _more(count: int) -> str:
    return f" (and {count - 1} more reasons)" if count > 1 else ""


def _rows(baseline: Baseline, tokens_rate: float, step_seconds: float, medians: Sequence[float]) -> list[Row]:
    if baseline.role == "judge" and len(baseline.runs) >= MIN_BASELINE_RUNS:
        return _weighed_rows(baseline, tokens_rate, step_seconds, medians)
    limit = baseline.tolerance_percent
    # The same limit said in seconds: 5 % fewer tokens a second are 5.26 % longer steps, so both rows agree.
    longer, shorter = 100 * limit / (100 - limit), 100 * limit / (100 + limit)
    rate, seconds = baseline.metrics.tokens_per_second_per_processor, baseline.metrics.step_seconds
    return [
        _row(baseline, "tokens_per_second_per_processor", tokens_rate, rate, -limit, limit),
        _row(baseline, "step_seconds", step_seconds, seconds, longer, -shorter),
    ]


def _weighed_rows(baseline: Baseline, tokens_rate: float, step_seconds: float, medians: Sequence[float]) -> list[Row]:
    """Both metrics say the same of a run, so they are one test and get one state."""
    theirs = [statistics.median(run.steady_step_seconds) for run in baseline.runs]
    limit = 100 * baseline.tolerance_percent / (100 - baseline.tolerance_percent)  # in seconds, as in _rows
    judged = decide({"step_seconds": (theirs, medians)}, limit)["step_seconds"]
    figures = (
        ("tokens_per_second_per_processor", tokens_rate, -baseline.tolerance_percent),
        ("step_seconds", step_seconds, limit),
    )
    return [
        Row(
            metric=metric,
            measured=measured,
            baseline=getattr(baseline.metrics, metric),
            change_percent=100 * (measured / getattr(baseline.metrics, metric) - 1),
            limit_percent=worst,
            state=judged.state,
            label=baseline.label,
            source=baseline.source,
            evidence=judged.evidence,
        )
        for metric, measured, worst in figures
    ]


def _row(baseline: Baseline, metric: str, measured: float, stored: float, worst: float, best: float) -> Row:
    """One row; beyond the signed percents `worst` and `best` it fails or asks for a refresh."""
    change = 100 * (measured / stored - 1)
    sense = 1 if best > 0 else -1
    state: RowState = "pass"
    if baseline.role == "compare":
        state = "compared"
    elif sense * change < sense * worst:
        state = "fail"
    elif sense * change > sense * best:
        state = "improved"
    limit = None if baseline.role == "compare" else worst
    return Row(metric, measured, stored, change, limit, state, baseline.label, baseline.source)


def _conclude(record: Record, rows: tuple[Row, ...], refusals: tuple[Refusal, ...], measured: str) -> Verdict:
    """The worst row makes the verdict, and the sentence is about it."""
    judged = [row for row in rows if row.state != "compared"]
    if not judged:
        sentence = f"NO BASELINE: {record.case} ran at {measured} on {record.device.name}; {_why_none(refusals)}"
        return Verdict("no_baseline", record.case, sentence, rows, refusals)
    worst = min(judged, key=lambda row: _WORST_FIRST.index(row.state))
    sentence = _sentence(record, rows, worst, measured)
    return Verdict(_STATE_OF_ROW[worst.state], record.case, sentence, rows, refusals)


def _sentence(record: Record, rows: tuple[Row, ...], worst: Row, measured: str) -> str:
    rate, seconds = (row for row in rows if row.label == worst.label)
    against = f"{rate.baseline:,.7g} ({seconds.baseline:.4g}) of {worst.label}"
    change = rate.change_percent
    moved = f"{abs(change):.1f} % {'faster' if change > 0 else 'slower'} than its baseline"
    ending = f"the limit is {abs(rate.limit_percent or 0):g} %"
    if worst.evidence is not None:
        return _weighed_sentence(record, worst, worst.evidence, f"{measured} against {against}")
    if worst.state == "improved":
        ending = "store a fresh baseline, so that losing this speed again is noticed"
    return f"{worst.state.upper()}: {record.case} ran {moved}: {measured} against {against}; {ending}"


def _weighed_sentence(record: Record, worst: Row, evidence: Evidence, figures: str) -> str:
    """The change with its interval, and what to do where that is not enough to tell."""
    theirs, ours = evidence.runs
    changed = (
        f"{worst.state.upper()}: {record.case} took {evidence.change_percent:+.1f} % a step against its baseline "
        f"({evidence.low_percent:+.1f} to {evidence.high_percent:+.1f} % at {1 - FAMILY_ERROR:.0%} each way, "
        f"{ours} run{'s' * (ours > 1)} against {theirs}): {figures}"
    )
    endings = {
        "fail": f"sure, and above the floor of {FLOOR_PERCENT:g} %",
        "improved": "store a fresh baseline, so that losing this speed again is noticed",
        "pass": f"a slowdown of {evidence.visible_percent:.1f} % would have been seen",
        "inconclusive": (
            f"runs vary by {evidence.spread_percent:.1f} %, so only {evidence.visible_percent:.1f} % would surely have "
            f"been seen, and it takes {MIN_RUNS_TO_DECIDE} runs to decide; add --runs, or compare on one quiet machine"
        ),
    }
    return f"{changed}; {endings[worst.state]}"


def _why_none(refusals: tuple[Refusal, ...]) -> str:
    if not refusals:
        return "no baseline is stored for this case"
    nearest = min(refusals, key=lambda refusal: len(refusal.differences))
    return (
        f"the nearest of {len(refusals)} baselines, {nearest.label}, was refused: "
        + ", ".join(nearest.differences[:3])
        + (f" and {len(nearest.differences) - 3} more" if len(nearest.differences) > 3 else "")
    )
