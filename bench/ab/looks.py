"""In which order an A/B comparison runs its sides, and how often it looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from bench.ab.sides import Name
from bench.judge import metrics
from bench.judge.evidence import FAMILY_ERROR, FIRST_LOOK, Judgement, decide
from bench.judge.metrics import family

State = Literal["pass", "fail", "improved", "inconclusive", "void"]
Figures = Mapping[str, float]


def order(pair: int) -> tuple[Name, Name]:
    """Who runs first in a pair, counted from 0: base head, head base, ... so that a steady drift cancels."""
    return ("head", "base") if pair % 2 else ("base", "head")


def sequential(
    take: Callable[[int], Sequence[tuple[Figures, Figures]]], pairs: int, confirm: int
) -> tuple[dict[str, Judgement], float, int]:
    """The judgement of each metric, the error it was made at, and how many looks it took.

    `take` runs until there are so many pairs and returns all. With `confirm` there are two looks at most: the first at
    a fifth of the error; what it leaves in doubt gets so many more pairs, all judged together at the rest.
    """
    first = FAMILY_ERROR * FIRST_LOOK if confirm else FAMILY_ERROR
    judged = _judged(take(pairs), first)
    if not confirm or deciding(judged)[1] != "inconclusive":
        return judged, first, 1
    rest = FAMILY_ERROR * (1 - FIRST_LOOK)
    return _judged(take(pairs + confirm), rest), rest, 2


def _judged(pairs: Sequence[tuple[Figures, Figures]], error: float) -> dict[str, Judgement]:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    return decide(family(before, after, is_paired=True), error)


def deciding(judged: Mapping[str, Judgement]) -> tuple[str, State]:
    """The metric that makes the verdict, and its state."""
    worst = metrics.deciding({name: each.state for name, each in judged.items()})
    return worst, judged[worst].state
