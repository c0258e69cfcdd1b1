"""The runs of one case, judged together, with everything that is derived from them: what a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.judge.baseline import Baseline
from bench.judge.beside import expectation_for, with_expectations
from bench.judge.case_figures import counting
from bench.judge.gate import SessionPercent, judge_suite
from bench.judge.groups import grouped
from bench.judge.rule import WORST_FIRST
from bench.judge.stats import Summary, summarise
from bench.judge.verdict import Verdict
from bench.records.expectation import Expectation
from bench.records.record import Record


@dataclass(frozen=True)
class Run:
    """One record with its figures; None where no step was recorded."""

    record: Record
    summary: Summary | None


@dataclass(frozen=True)
class Measured:
    """A run that measured something."""

    record: Record
    summary: Summary


@dataclass(frozen=True)
class CaseResult:
    """A case, its runs and its verdict; without runs where it is missing.

    `stored` is the recorded baseline with the same key, whose runs can be shown beside these.
    """

    verdict: Verdict
    runs: tuple[Run, ...] = ()
    stored: Baseline | None = None
    expectation: Expectation | None = None

    @cached_property
    def measured(self) -> list[Measured]:
        """The runs with steps that count (bench.judge.case_figures)."""
        found = [Measured(run.record, run.summary) for run in self.runs if run.summary is not None]
        return [found[place] for place in counting([each.record for each in found])]

    @cached_property
    def median_run(self) -> Measured | None:
        """The run whose step is the median of all; of an even number the faster of the middle two."""
        ordered = sorted(self.measured, key=lambda each: each.summary.median_step_seconds)
        return ordered[(len(ordered) - 1) // 2] if ordered else None


def assess(
    records: Sequence[Record],
    baselines: Sequence[Baseline],
    missing: Sequence[Verdict] = (),
    verdicts: Sequence[Verdict] | None = None,
    session_percent: SessionPercent = None,
    expectations: Sequence[Expectation] = (),
) -> list[CaseResult]:
    """Every case with its runs, its verdict and what was expected of it, the worst first.

    `verdicts` are those of `grouped(records, baselines)` where they were given already, in its order; else all cases
    are judged here, as one suite, with that level between sessions (bench.judge.gate.judge_suite).
    """
    groups = grouped(records, baselines)
    judged = judge_suite(groups, baselines, session_percent=session_percent) if verdicts is None else verdicts
    judged = with_expectations(judged, groups, expectations)
    cases = [
        CaseResult(
            verdict,
            tuple(Run(each, _summary(each)) for each in group),
            _stored(group[0], baselines),
            expectation_for(group[0], expectations),
        )
        for group, verdict in zip(groups, judged, strict=True)
    ]
    cases += [CaseResult(verdict) for verdict in missing]
    return sorted(cases, key=lambda case: WORST_FIRST.index(case.verdict.state))


def _summary(record: Record) -> Summary | None:
    return summarise(record) if record.steps and record.ranks else None


def _stored(record: Record, baselines: Sequence[Baseline]) -> Baseline | None:
    with_runs = (each for each in baselines if each.runs and each.role != "retired")
    return next((each for each in with_runs if not each.differences(record)), None)
