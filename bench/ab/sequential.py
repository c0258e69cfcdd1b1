"""The order in which an A/B comparison runs its two revisions, and the test of their pairs, in one stage or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.judge import rule
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_SHARE, Judgement, MetricState, decide
from bench.judge.metrics import family

Figures = Mapping[str, float]
Role = Literal["base", "head"]


@dataclass(frozen=True)
class Finding:
    """The judgement of each metric, the family-wise error that it was made at, and how many stages that took."""

    judged: dict[str, Judgement]
    family_error: float
    stages: int

    @property
    def deciding(self) -> tuple[str, MetricState]:
        """The metric that makes the verdict, and its state."""
        found = rule.deciding([(name, each.state) for name, each in self.judged.items()])
        assert found is not None, "the time of a step is always judged"
        return list(self.judged)[found[0]], found[1]


def order(pair: int) -> tuple[Role, Role]:
    """Who runs first in a pair, counted from 0: base head, head base, ... so that a steady drift cancels."""
    return ("head", "base") if pair % 2 else ("base", "head")


def sequential(
    take: Callable[[int], Sequence[tuple[Figures, Figures]]],
    pairs: int,
    confirm: int,
    family_error: float = FAMILY_ERROR,
) -> Finding:
    """Judge `pairs` pairs; with `confirm`, judge an inconclusive result once more, with that many pairs more.

    `take` runs until there are so many pairs and returns all of them. The two stages share `family_error`
    (bench.judge.evidence.FIRST_STAGE_SHARE); the second judges all pairs together. There is no third.
    """
    spent = family_error * FIRST_STAGE_SHARE if confirm else family_error
    first = _judged(take(pairs), spent, stages=1)
    if not confirm or first.deciding[1] != "inconclusive":
        return first
    return _judged(take(pairs + confirm), family_error - spent, stages=2)


def _judged(pairs: Sequence[tuple[Figures, Figures]], error: float, stages: int) -> Finding:
    before, after = ([pair[place] for pair in pairs] for place in (0, 1))
    return Finding(decide(family(before, after, is_paired=True), error), error, stages)
