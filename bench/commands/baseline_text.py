"""What `python -m bench baseline` prints: one baseline whole, and a candidate beside what it would replace."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

import numpy as np

from bench.baselines import store as baseline_store
from bench.baselines.noise import notes
from bench.baselines.sessions import session_facts
from bench.judge.baseline import Baseline
from bench.judge.difference import MIN_BASELINE_RUNS, Comparison
from bench.judge.evidence import FAMILY_ERROR, POWER, weigh
from bench.judge.metrics import family
from bench.judge.outliers import outliers
from bench.judge.recorded_run import RecordedRun
from bench.judge.words import change, confidence, figure, interval, smallest, title
from bench.records.fields import utc_moment
from bench.records.terminal import pairs, plain, table

MAX_NOTES = 20


def age(baseline: Baseline) -> str:
    """Of the newest run; a published figure does not say, and a time that is not in UTC says nothing."""
    try:
        newest = max((utc_moment(run.created_at) for run in baseline.runs), default=None)
    except ValueError:
        return "unknown"
    return "-" if newest is None else f"{(datetime.now(timezone.utc) - newest).days} d"


def described(baseline: Baseline) -> str:
    facts: list[tuple[str, object]] = [
        ("label", baseline.label),
        ("kind, role", f"{baseline.kind}, {baseline.role}"),
        ("case", baseline.case),
        ("recipe", f"{baseline.recipe.name}, {baseline.recipe.hash or 'hash not stated'}"),
        ("work", f"{baseline.sequence_length} tokens x {baseline.global_batch} a step, {baseline.dtype}"),
        ("parameters", f"{baseline.parameters_total:,}"),
        ("layout", ", ".join(f"{k} {v}" for k, v in baseline.layout.model_dump().items() if v is not None)),
        ("device", f"{baseline.device.name} ({baseline.device.match}; {', '.join(baseline.device.kinds)})"),
        ("s/step", f"{baseline.metrics.step_seconds:.6g}"),
        ("tokens/s/p", f"{baseline.metrics.tokens_per_second_per_processor:,.7g}"),
        ("tolerance, floor", f"{baseline.tolerance_percent:g} %, {baseline.floor_percent:g} %"),
        ("source", baseline.source),
        ("rationale", baseline.rationale),
        ("software", _words(baseline.software) or "not stated"),
        *_provenance(baseline.runs),
        *_sharpness(baseline),
        *session_facts(baseline),
    ]
    parts = [pairs(facts), *([_runs(baseline.runs)] if baseline.runs else []), _remarks(baseline)]
    return "\n\n".join(part for part in parts if part)


def _remarks(baseline: Baseline) -> str:
    """The runs far from the others, and what is odd about the steps of single runs."""
    odd = [
        f"run {run.record_id[:8]}: {note}"
        for run in baseline.runs
        for note in notes(run.steady_step_seconds, run.warmup_steps)
    ]
    more = [f"and {len(odd) - MAX_NOTES} more"] if len(odd) > MAX_NOTES else []
    lines = [*(each.sentence for each in outliers(baseline)), *(f"note: {each}" for each in (odd[:MAX_NOTES] + more))]
    return "\n".join(plain(line, 5000) for line in lines)


def _provenance(runs: Iterable[RecordedRun]) -> list[tuple[str, object]]:
    """Commits and environments, once each: more than one of either is not one unchanged program."""
    commits = {f"{each.commit.sha or 'unknown'}{' with changes' * bool(each.commit.dirty)}": None for each in runs}
    environments = {_words(each.environment) or "none": None for each in runs}
    if len(commits) > 1 or len(environments) > 1:
        several = [("note", f"runs of {len(commits)} commits in {len(environments)} environments: one program?")]
    else:
        several = []
    return [
        *(("commit", each) for each in commits),
        *(("environment", each) for each in environments),
        *several,
    ]


def _sharpness(baseline: Baseline) -> list[tuple[str, object]]:
    """How much runs vary, and the slowdown that five new runs of the same noise would reliably show."""
    if len(baseline.runs) < MIN_BASELINE_RUNS:
        return [
            ("judged by", f"its tolerance alone: {len(baseline.runs)} runs are too few to tell the noise between runs")
        ]
    logs = np.log([statistics.median(run.steady_step_seconds) for run in baseline.runs])
    pattern = np.arange(-2.0, 3.0) / np.arange(-2.0, 3.0).std(ddof=1)
    after = np.exp(logs.mean() + logs.std(ddof=1) * pattern)
    evidence = weigh(Comparison(before=np.exp(logs).tolist(), after=after.tolist()))
    return [
        ("between runs", f"{evidence.spread_percent:.2f} % (one standard deviation)"),
        (
            "smallest slowdown",
            f"{smallest(max(evidence.visible_percent, baseline.floor_percent))} is found by {len(after)} runs "
            f"with {POWER:.0%} power, at a false-alarm rate of {FAMILY_ERROR:.0%}",
        ),
    ]


def _runs(runs: Iterable[RecordedRun]) -> str:
    rows = []
    for run in runs:
        steady = np.asarray(run.steady_step_seconds)
        variation = 100 * steady.std(ddof=1) / steady.mean() if len(steady) > 1 else 0.0
        peak = run.figures.get("peak_bytes")
        rows.append(
            (
                run.record_id,
                run.created_at,
                (run.commit.sha or "unknown")[:8],
                f"{run.warmup_steps} + {len(steady)}",
                f"{np.median(steady):.6g}",
                f"{variation:.1f} %",
                "-" if peak is None else f"{peak / 2**30:.2f}",
            )
        )
    headers = ["run", "made", "commit", "warm-up + steady", "s/step", "CV", "peak GiB"]
    return table(headers, rows, numbers=(3, 4, 5, 6))


def compared(candidate: Baseline, stored: list[Baseline]) -> str:
    replaced = baseline_store.judge_of_key(candidate, stored)
    if replaced is None:
        return f"candidate  {plain(candidate.label)}\n{_nearest(candidate, stored)}{_far(candidate)}"
    heading = pairs(
        [
            ("candidate", candidate.label),
            ("would replace", replaced.label),
            ("stored because", replaced.rationale),
            ("software", "the same, as it is part of the key"),
        ]
    )
    return f"{heading}\n\n{_changes(candidate, replaced)}{_far(candidate)}"


def _far(candidate: Baseline) -> str:
    return "".join(f"\nin the candidate, {plain(each.sentence, 5000)}" for each in outliers(candidate))


def _nearest(candidate: Baseline, stored: list[Baseline]) -> str:
    """Where no baseline has the same key: in what the nearest one differs."""
    found = baseline_store.nearest(candidate, stored)
    if found is None:
        return f"no baseline is stored for the case {plain(candidate.case)}: this would be the first"
    near, differences = found
    lines = [
        "replaces nothing: no recorded baseline with this key judges",
        f"nearest    {plain(near.label)} ({near.kind}, role {near.role}: {near.metrics.step_seconds:.4g} s/step, "
        f"candidate {candidate.metrics.step_seconds:.4g})",
        f"because    {plain(near.rationale, 5000)}",
        *(f"differs in {plain(each)}" for each in differences),
    ]
    lines += [] if differences else ["differs in nothing that it states"]
    if near.runs and all(each.startswith("software.") for each in differences):
        lines += ["", _changes(candidate, near)]
    return "\n".join(lines)


def _changes(candidate: Baseline, stored: Baseline) -> str:
    """Every metric that the runs of both have, with its interval where the stored ones are enough for one."""
    before, after = ([run.known_figures for run in baseline.runs] for baseline in (stored, candidate))
    rows = [
        (
            title(name),
            figure(name, statistics.median(comparison.before)),
            figure(name, statistics.median(comparison.after)),
            *_change(name, comparison),
        )
        for name, comparison in family(before, after).items()
    ]
    headers = ["metric", "stored", "candidate", "change", f"{confidence(FAMILY_ERROR)} interval"]
    return table(headers, rows, numbers=(1, 2, 3, 4))


def _change(name: str, comparison: Comparison) -> tuple[str, str]:
    """(change, interval)."""
    if len(comparison.before) >= MIN_BASELINE_RUNS:
        evidence = weigh(comparison)
        return change(name, evidence.change_percent), interval(evidence.low_percent, evidence.high_percent)
    before, after = statistics.median(comparison.before), statistics.median(comparison.after)
    return change(name, 100 * (after - before) / (comparison.whole or before)), "too few stored runs"


def _words(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
