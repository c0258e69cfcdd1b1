"""A measured step beside what was expected of it, part by part: where it spends more than it should. No torch.

A record holds seconds by phase and by collective, an expectation seconds by term. They meet in the parts that both
tell: what is computed (forward and backward, without the collectives within), each kind of exchange, what the
pipeline takes, and what follows it. A log with one time a step has the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.judge.attribution import Attribution
from bench.judge.stats import Summary, summarise
from bench.judge.verdict import Verdict
from bench.records.expectation import Expectation
from bench.records.record import Record

STEP = "step"
# The parts that are measured, and the terms of each.
PARTS: Mapping[str, tuple[str, ...]] = {
    "computing": ("products", "attention", "memory", "host"),
    "tensor": ("tensor",),
    "expert": ("expert",),
    "context": ("context",),
    "pipeline and bubble": ("pipeline", "bubble"),
    "after the pipeline": ("data", "optimizer"),
}
_AFTER_THE_PIPELINE = ("gradients", "optimizer", "report")
_EXCHANGES = ("tensor", "expert", "context")


@dataclass(frozen=True)
class Part:
    """Seconds of a step, expected and measured; the bounds are the step's, in proportion."""

    name: str
    terms: tuple[str, ...]
    expected_seconds: float
    low_seconds: float | None
    high_seconds: float | None
    measured_seconds: float | None  # None: the record does not tell it apart

    @property
    def excess_seconds(self) -> float | None:
        """What it takes more than expected; negative where it takes less."""
        return None if self.measured_seconds is None else self.measured_seconds - self.expected_seconds

    @property
    def is_outside(self) -> bool | None:
        """Whether it lies outside its interval; None where there is none, or nothing was measured."""
        if self.measured_seconds is None or self.low_seconds is None or self.high_seconds is None:
            return None
        return not self.low_seconds <= self.measured_seconds <= self.high_seconds


@dataclass(frozen=True)
class Beside:
    """The step and its parts, those first that take most more than expected."""

    expectation: Expectation
    step: Part
    parts: tuple[Part, ...]

    @property
    def sentence(self) -> str:
        """For the end of a verdict."""
        interval = ""
        if self.step.low_seconds is not None and self.step.high_seconds is not None:
            interval = f" ({self.step.low_seconds:.4g} to {self.step.high_seconds:.4g})"
        told = f"{self.expectation.profile} is expected to take {self.step.expected_seconds:.4g} s a step{interval}"
        worst = next(iter(self.parts), None)
        if worst is not None and worst.excess_seconds is not None and worst.excess_seconds > 0:
            told += f", and most beyond that is in {worst.name}, {worst.excess_seconds:+.3g} s"
        return told


def beside(record: Record, summary: Summary, expectation: Expectation) -> Beside:
    """The record's median step beside its expectation."""
    measured = {} if expectation.ranks_share_cores else _measured(record, summary)
    parts = [
        _part(name, terms, expectation, measured.get(name))
        for name, terms in PARTS.items()
        if any(expectation.terms.get(term) for term in terms) or measured.get(name)
    ]
    whole = Part(
        STEP, (), expectation.step_seconds, expectation.low_seconds, expectation.high_seconds,
        summary.median_step_seconds,
    )  # fmt: skip
    return Beside(expectation, whole, tuple(sorted(parts, key=_worst_first)))


def _worst_first(part: Part) -> tuple[bool, float]:
    excess = part.excess_seconds
    return (excess is None, -part.expected_seconds if excess is None else -excess)


def _part(name: str, terms: tuple[str, ...], of: Expectation, measured: float | None) -> Part:
    """Of a rank alone only the terms that it has by itself, where it has some."""
    own = tuple(term for term in terms if of.is_in_step(term)) or terms
    seconds = sum(of.terms.get(term, 0.0) for term in own)
    low, high = (
        None if bound is None else seconds * bound / of.step_seconds for bound in (of.low_seconds, of.high_seconds)
    )
    return Part(name, own, seconds, low, high, measured)


def _measured(record: Record, summary: Summary) -> dict[str, float]:
    """Seconds of the parts that the record tells apart."""
    phases = summary.phase_seconds
    if not {"forward", "backward"} <= phases.keys():
        return {}
    found = {"after the pipeline": sum(phases.get(name, 0.0) for name in _AFTER_THE_PIPELINE)}
    computing = phases["forward"] + phases["backward"]
    if record.lone_rank is not None:
        return found | {"computing": computing}
    if "pipeline" in phases:
        found["pipeline and bubble"] = phases["pipeline"]
    if record.layout.world_size > 1 and not summary.collective_seconds:
        return found  # what forward and backward wait for is not told apart
    exchanged = dict.fromkeys(_EXCHANGES, 0.0)
    for name, seconds in summary.collective_seconds.items():
        if (kind := exchange_of(name.rpartition(" ")[0])) is not None:
            exchanged[kind] += seconds
    return found | exchanged | {"computing": max(0.0, computing - sum(exchanged.values()))}


def exchange_of(group: str) -> str | None:
    """Which part an exchange of forward and backward is of; None of a group that is used after the pipeline."""
    if group in ("tensor", "tensor x context", "context"):
        return "context" if group == "context" else "tensor"
    return "expert" if group in ("expert", "expert-tensor", "expert-tensor x expert") else None


def expectation_for(record: Record, expectations: Sequence[Expectation]) -> Expectation | None:
    """The one that is of such a run, where there is one."""
    return next((each for each in expectations if each.is_of(record)), None)


def with_expectations(
    verdicts: Sequence[Verdict], groups: Sequence[Sequence[Record]], expectations: Sequence[Expectation]
) -> list[Verdict]:
    """Verdicts that say where time went say too what was expected, where that is known.

    Args:
        verdicts: of the groups, in their order.
        groups: the runs of each case.
        expectations: of any runs.
    """
    return [_explained(verdict, runs, expectations) for verdict, runs in zip(verdicts, groups, strict=True)]


def _explained(verdict: Verdict, runs: Sequence[Record], expectations: Sequence[Expectation]) -> Verdict:
    expectation = expectation_for(runs[0], expectations) if verdict.attribution is not None else None
    if verdict.attribution is None or expectation is None:
        return verdict
    told = median_beside(runs, expectation)
    attribution: Attribution = replace(verdict.attribution, expected=told.sentence)
    return replace(verdict, attribution=attribution, sentence=f"{verdict.sentence}. Expected: {told.sentence}")


def median_beside(runs: Sequence[Record], expectation: Expectation) -> Beside:
    """Of the run whose step is the median of all; of an even number the faster of the middle two."""
    found = [(record, summarise(record)) for record in runs if record.valid]
    ordered = sorted(found, key=lambda each: each[1].median_step_seconds)
    return beside(*ordered[(len(ordered) - 1) // 2], expectation)
