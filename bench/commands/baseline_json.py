"""What `python -m bench baseline ... --json` writes: stored baselines, and how a candidate differs from one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from bench.baselines import store as baseline_store
from bench.judge.baseline import Baseline
from bench.judge.difference import MIN_BASELINE_RUNS, Comparison
from bench.judge.evidence import weigh
from bench.judge.metrics import family


def stored(found: Iterable[tuple[Path, Baseline]]) -> dict[str, object]:
    """Baselines with the files that hold them."""
    return {"schema": 1, "baselines": [{"file": str(path), **_dumped(each)} for path, each in found]}


def written(path: Path, baseline: Baseline, replaced: Baseline | None = None) -> dict[str, object]:
    """One that was written, and which it took the place of."""
    return {
        "schema": 1,
        "file": str(path),
        "baseline": _dumped(baseline),
        "replaced": None if replaced is None else replaced.label,
    }


def compared(candidate: Baseline, others: list[Baseline]) -> dict[str, object]:
    """A candidate beside the baseline that it would replace, or else beside the nearest one."""
    replaced = baseline_store.judge_of_key(candidate, others)
    found = (replaced, []) if replaced else baseline_store.nearest(candidate, others)
    near, differences = found or (None, [])
    return {
        "schema": 1,
        "candidate": candidate.label,
        "replaces": None if replaced is None else replaced.label,
        "nearest": None if near is None else near.label,
        "differences": differences,
        "changes": _changes(candidate, near) if near is not None and near.runs else {},
    }


def _changes(candidate: Baseline, stored: Baseline) -> dict[str, dict[str, float]]:
    """Of every metric that the runs of both have."""
    before, after = ([run.known_figures for run in baseline.runs] for baseline in (stored, candidate))
    return {name: _change(comparison) for name, comparison in family(before, after).items()}


def _change(comparison: Comparison) -> dict[str, float]:
    """Medians, and the interval of the change where the stored runs are enough for one."""
    found = {"stored": statistics.median(comparison.before), "candidate": statistics.median(comparison.after)}
    if len(comparison.before) >= MIN_BASELINE_RUNS:
        evidence = weigh(comparison)
        found["change_percent"] = evidence.change_percent
        found |= {"low_percent": evidence.low_percent, "high_percent": evidence.high_percent}
    return found


def _dumped(baseline: Baseline) -> dict[str, object]:
    return baseline.model_dump(mode="json", by_alias=True)
