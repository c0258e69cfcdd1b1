"""Judge records against baselines: floats in, a verdict and the sentence an engineer needs out.

A recorded baseline of five runs or more is judged by its between-run variance (bench.evidence), in speed, memory, skew
and each phase (bench.metrics): what is both surely worse and above the floor fails, what cannot be told from nothing
passes only where the tolerance can be ruled out, and is inconclusive otherwise. All metrics of all cases of a suite
share one error. A published figure knows no variance: there a fixed, stated, one-sided tolerance
decides (5 % unless the baseline says otherwise). More than either faster asks for a fresh baseline, which is not a
failure. A baseline for another recipe, layout or device is refused and the difference named; it is never compared
with a warning.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.attribution import Attribution, attribute
from bench.baseline import Baseline, load_baselines, recorded_baseline
from bench.evidence import (
    FAMILY_ERROR,
    MIN_BASELINE_RUNS,
    MIN_RUNS_TO_DECIDE,
    Comparison,
    Evidence,
    Judgement,
    decide,
)
from bench.metrics import STEP, family, figures_of, metric_of
from bench.record import Record
from bench.stats import Summary, summarise

__all__ = [
    "Baseline",
    "Row",
    "Refusal",
    "Verdict",
    "exit_code",
    "grouped",
    "missing",
    "judge",
    "judge_suite",
    "load_baselines",
    "recorded_baseline",
]

MIN_STEADY_STEPS = 3
# Above the hardware's own peak, the clock, the FLOP count or the peak is wrong, and so is the speed.
MAX_MFU = 1.0

RATE = "tokens_per_second_per_processor"

State = Literal["pass", "fail", "improved", "inconclusive", "no_baseline", "void", "missing"]
# Of cases: what a reader must look at comes first.
WORST_FIRST: tuple[State, ...] = ("void", "fail", "missing", "inconclusive", "no_baseline", "improved", "pass")
RowState = Literal["pass", "fail", "improved", "inconclusive", "compared"]
_WORST_ROW_FIRST: tuple[RowState, ...] = ("fail", "inconclusive", "improved", "pass", "compared")
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

    @property
    def decides(self) -> bool:
        """Whether the verdict can hang on it: of metrics beside speed, only where there is something to say."""
        return self.state != "compared" and (self.metric in (RATE, STEP) or self.state in ("fail", "improved"))


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
    attribution: Attribution | None = None


def judge(
    records: Record | Sequence[Record], baselines: Sequence[Baseline], family_error: float = FAMILY_ERROR
) -> Verdict:
    """Judge the runs of one case against every baseline with the same key."""
    return judge_suite([[records] if isinstance(records, Record) else records], baselines, family_error)[0]


def judge_suite(
    groups: Sequence[Sequence[Record]], baselines: Sequence[Baseline], family_error: float = FAMILY_ERROR
) -> list[Verdict]:
    """Judge several cases, each by its runs: all their metrics are one family, which errs at most `family_error`."""
    cases = [_prepare(list(runs), baselines) for runs in groups]
    tests = {
        (index, baseline.label, metric): comparison
        for index, case in enumerate(cases)
        for baseline in case.weighed
        for metric, comparison in _comparisons(baseline, case).items()
    }
    judged = decide(tests, family_error)
    return [
        _conclude(case, {(label, metric): found for (at, label, metric), found in judged.items() if at == index})
        for index, case in enumerate(cases)
    ]


@dataclass(frozen=True)
class _Case:
    """The runs of one case, their figures, and the baselines that may be compared with them."""

    runs: list[Record]
    void: str | None
    tokens_rate: float
    figures: list[dict[str, float]]
    matched: list[Baseline]
    refusals: tuple[Refusal, ...]

    @property
    def step_seconds(self) -> float:
        first = self.runs[0]
        return first.work.tokens_per_step / self.tokens_rate / first.layout.world_size

    @property
    def weighed(self) -> list[Baseline]:
        return [each for each in self.matched if _is_weighed(each)] if self.void is None else []

    @property
    def measured(self) -> str:
        text = f"{self.tokens_rate:,.5g} tokens/s/p ({self.step_seconds:.4g} s/step)"
        return text + (f", the median of {len(self.runs)} runs," if len(self.runs) > 1 else "")


def _prepare(runs: list[Record], baselines: Sequence[Baseline]) -> _Case:
    _require_one_case(runs)
    first = runs[0]
    if void := next((reason for run in runs if (reason := _why_invalid(run))), None):
        return _Case(runs, void, 1.0, [], [], ())
    summaries = [summarise(run) for run in runs]
    void = next((reason for pair in zip(runs, summaries, strict=True) if (reason := _why_void(*pair))), None)
    related = [
        each
        for each in baselines
        if each.role != "retired" and (each.case == first.case or each.recipe.name == first.recipe.name)
    ]
    differences = [(baseline, baseline.differences(first)) for baseline in related]
    matched = [baseline for baseline, found in differences if not found]
    return _Case(
        runs=runs,
        void=void or _other_learning(runs, matched),
        tokens_rate=statistics.median(each.tokens_per_second_per_processor for each in summaries),
        figures=[figures_of(each) for each in summaries],
        matched=matched,
        refusals=tuple(Refusal(baseline.label, found) for baseline, found in differences if found),
    )


def grouped(records: Iterable[Record]) -> list[list[Record]]:
    """The records that are runs of one case, recipe, layout, device and work, in the order of their first."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    return list(groups.values())


def _key(record: Record) -> tuple[str, ...]:
    parts = (part.model_dump_json() for part in (record.layout, record.device, record.work))
    return (record.case, record.recipe.hash, *parts)


def missing(
    records: Iterable[Record], baselines: Sequence[Baseline], expected: Iterable[str] | None = None
) -> list[Verdict]:
    """A verdict for each case that should have been run and was not: renamed, skipped, crashed or empty.

    `expected` names them; without it they are the cases of the recorded baselines of the devices that ran.
    """
    ran = list(records)
    devices = [record.device for record in ran]
    stored = {
        each.case: f"the baseline {each.label} stands for it"
        for each in baselines
        if each.kind == "recorded"
        and each.role == "judge"
        and any(device.kind in each.device.kinds and each.device.accepts(device.name) for device in devices)
    }
    wanted = stored if expected is None else dict.fromkeys(expected, "it was asked for")
    found = {record.case for record in ran if record.steps}
    return [
        Verdict("missing", case, f"MISSING: {case} has no run to judge, but {why}; run it, or retire its baseline")
        for case, why in wanted.items()
        if case not in found
    ]


def exit_code(verdict: Verdict, require_baseline: bool) -> int:
    """0 if the case may pass a gate, else 1. Where a baseline is required, so is an answer: neither may be missing."""
    if verdict.state in ("no_baseline", "inconclusive"):
        return int(require_baseline)
    return int(verdict.state in ("fail", "void", "missing"))


def _require_one_case(runs: list[Record]) -> None:
    if not runs:
        raise ValueError("no record to judge")
    first = runs[0]
    for run in runs[1:]:
        if _key(run) != _key(first):
            raise ValueError(f"records {first.id} and {run.id} are not runs of one case, recipe, layout and device")


def _why_invalid(run: Record) -> str | None:
    """What keeps a run from being summarised at all."""
    return None if run.valid else run.void_reasons[0] + _more(len(run.void_reasons))


def _why_void(run: Record, summary: Summary) -> str | None:
    """What makes a speed meaningless: fast but wrong is not fast."""
    if summary.steady_steps < MIN_STEADY_STEPS:
        return f"{summary.steady_steps} steady steps of {len(run.steps)}, at least {MIN_STEADY_STEPS} needed"
    if summary.mfu is not None and summary.mfu > MAX_MFU:
        return f"{summary.mfu:.0%} of the device's stated peak is impossible; check peak_flops_per_second"
    return _dropped(run)


def _dropped(run: Record) -> str | None:
    """Tokens that some layer's experts did not get; None too where the recipe or the load is not recorded."""
    model = run.recipe.resolved.get("model")
    each_goes_to = model.get("experts_per_token") if isinstance(model, dict) else None
    if not isinstance(each_goes_to, int) or isinstance(each_goes_to, bool):
        return None
    expected = len(run.steps) * run.work.tokens_per_step * each_goes_to
    for layer, load in enumerate(run.expert_load):
        if sum(load) != expected:
            return f"layer {layer}: its experts got {sum(load):,} of {expected:,} (token, expert) pairs"
    return None


def _other_learning(runs: Sequence[Record], matched: Sequence[Baseline]) -> str | None:
    """The first step whose loss or gradient norm is not that of a baseline's run."""
    for baseline in matched:
        if not baseline.runs:
            continue
        stored = baseline.runs[0]
        traces = (
            ("loss", stored.losses, baseline.loss_tolerance_percent),
            ("grad norm", stored.grad_norms, baseline.grad_norm_tolerance_percent),
        )
        for run in runs:
            for name, theirs, tolerance in traces:
                ours = [step.loss if name == "loss" else step.grad_norm for step in run.steps]
                if found := _first_apart(ours, theirs, tolerance):
                    step, mine, other = found
                    return (
                        f"step {run.steps[step].step}: {name} {mine:.6g} where {baseline.label} had {other:.6g}, more "
                        f"than {tolerance:g} % apart: it computes something else, or reads other data"
                    )
    return None


def _first_apart(
    ours: Sequence[float | None], theirs: Sequence[float | None], tolerance_percent: float
) -> tuple[int, float, float] | None:
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine is not None and other is not None and is_apart(mine, other, tolerance_percent):
            return index, mine, other
    return None


def is_apart(mine: float, other: float, tolerance_percent: float) -> bool:
    """Whether a loss or gradient norm is not the other's."""
    return abs(mine - other) > tolerance_percent / 100 * abs(other)


def _more(count: int) -> str:
    return f" (and {count - 1} more reasons)" if count > 1 else ""


def _is_weighed(baseline: Baseline) -> bool:
    return baseline.role == "judge" and len(baseline.runs) >= MIN_BASELINE_RUNS


def _limits(baseline: Baseline) -> tuple[float, float]:
    """The tolerance said in seconds: 5 % fewer tokens a second are 5.26 % longer steps, 5 % more are 4.76 % shorter."""
    tolerance = baseline.tolerance_percent
    return 100 * tolerance / (100 - tolerance), 100 * tolerance / (100 + tolerance)


def _comparisons(baseline: Baseline, case: _Case) -> dict[str, Comparison]:
    theirs = [run.known_figures for run in baseline.runs]
    return {
        name: replace(each, limit_percent=_limits(baseline)[0], floor_percent=baseline.floor_percent)
        for name, each in family(theirs, case.figures).items()
    }


def _rows(baseline: Baseline, case: _Case, judged: Mapping[tuple[str, str], Judgement]) -> list[Row]:
    if _is_weighed(baseline):
        return _weighed_rows(
            baseline, case, {name: each for (label, name), each in judged.items() if label == baseline.label}
        )
    limit = baseline.tolerance_percent
    longer, shorter = _limits(baseline)
    rate, seconds = baseline.metrics.tokens_per_second_per_processor, baseline.metrics.step_seconds
    return [
        _row(baseline, RATE, case.tokens_rate, rate, -limit, limit),
        _row(baseline, STEP, case.step_seconds, seconds, longer, -shorter),
    ]


def _weighed_rows(baseline: Baseline, case: _Case, judged: Mapping[str, Judgement]) -> list[Row]:
    """tokens/s/p and s/step say the same of a run, so they are one test and get one state."""
    longest = _limits(baseline)[0]
    sides = _comparisons(baseline, case)
    figures = [
        (RATE, STEP, case.tokens_rate, baseline.metrics.tokens_per_second_per_processor, -baseline.tolerance_percent),
        (STEP, STEP, case.step_seconds, baseline.metrics.step_seconds, longest),
        *(
            (name, name, statistics.median(side.after), statistics.median(side.before), longest)
            for name, side in sides.items()
            if name != STEP
        ),
    ]
    return [
        Row(
            metric=metric,
            measured=measured,
            baseline=stored,
            change_percent=100 * (measured / stored - 1) if tested == STEP else judged[tested].evidence.change_percent,
            limit_percent=limit,
            state=judged[tested].state,
            label=baseline.label,
            source=baseline.source,
            evidence=judged[tested].evidence,
        )
        for metric, tested, measured, stored, limit in figures
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


def _conclude(case: _Case, judged: Mapping[tuple[str, str], Judgement]) -> Verdict:
    """The worst row that decides makes the verdict, and the sentence is about it."""
    record = case.runs[0]
    if case.void is not None:
        return Verdict("void", record.case, f"VOID: {record.case} cannot be judged: {case.void}")
    rows = tuple(row for baseline in case.matched for row in _rows(baseline, case, judged))
    deciding = [row for row in rows if row.decides]
    if not deciding:
        sentence = (
            f"NO BASELINE: {record.case} ran at {case.measured} on {record.device.name}; {_why_none(case.refusals)}"
        )
        return Verdict("no_baseline", record.case, sentence, rows, case.refusals)
    worst = min(deciding, key=lambda row: _WORST_ROW_FIRST.index(row.state))
    attribution = _attribution(case, worst)
    sentence = _sentence(record, rows, worst, case.measured)
    if attribution is not None and attribution.sentence:
        sentence += f". Where: {attribution.sentence}"
    return Verdict(_STATE_OF_ROW[worst.state], record.case, sentence, rows, case.refusals, attribution)


def _attribution(case: _Case, worst: Row) -> Attribution | None:
    """Of a change that is one: where it is."""
    baseline = next(each for each in case.matched if each.label == worst.label)
    stored = [run.figures for run in baseline.runs if run.figures]
    return attribute(stored, case.figures) if worst.state in ("fail", "improved") and stored else None


def _sentence(record: Record, rows: tuple[Row, ...], worst: Row, measured: str) -> str:
    rate, seconds = (
        next(row for row in rows if (row.label, row.metric) == (worst.label, name)) for name in (RATE, STEP)
    )
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
    metric = metric_of(STEP if worst.metric == RATE else worst.metric)
    assert metric is not None
    unit = "% of a step" if metric.scale == "of a step" else "%"
    took = "took" if metric.name == STEP else f"{metric.title}:"
    changed = (
        f"{worst.state.upper()}: {record.case} {took} {evidence.change_percent:+.1f} {unit}"
        f"{' a step' if metric.name == STEP else ''} against its baseline "
        f"({evidence.low_percent:+.1f} to {evidence.high_percent:+.1f} % at {1 - FAMILY_ERROR:.0%} each way, "
        f"{ours} run{'s' * (ours > 1)} against {theirs}): {figures}"
    )
    endings = {
        "fail": "sure, and above the floor",
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
