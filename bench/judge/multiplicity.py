"""One error for all that is judged together: Holm's procedure over questions, Cauchy's combination within each.

Figures that ask one question in several ways (is a step slower: by its median, its mean, its lower quartile) move
together. To split the error between them would waste it. Cauchy's combination of their p-values (Liu and Xie 2020,
"Cauchy combination test") keeps the error at small levels however they depend on each other, and loses nothing where
they agree. Questions share the family's error by Holm's weighted procedure (Holm 1979). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
_LEAST_P = 1e-300  # its cotangent is a number
_MOST_P = 1 - 1e-9  # one p of 1 says nothing, and must not outweigh another's proof


@dataclass(frozen=True)
class Asked:
    """A p-value, the question that it belongs to, and its weight among all."""

    p_value: float
    question: Hashable
    weight: float


@dataclass(frozen=True)
class Rejection:
    """Whether a hypothesis is rejected, and the level that it was tested at."""

    is_rejected: bool
    alpha: float


def rejections(asked: Mapping[Key, Asked], family_error: float) -> dict[Key, Rejection]:
    """Which hypotheses are rejected, so that any question is wrongly so with a chance of at most `family_error`.

    Of a question that is rejected, those figures are whose own p is below its level: always one or more.
    """
    questions: dict[Hashable, list[Asked]] = {}
    for each in asked.values():
        questions.setdefault(each.question, []).append(each)
    levels = _holm(
        {name: cauchy([(each.p_value, each.weight) for each in members]) for name, members in questions.items()},
        {name: math.fsum(each.weight for each in members) for name, members in questions.items()},
        family_error,
    )
    return {
        name: Rejection(levels[each.question].is_rejected and each.p_value <= levels[each.question].alpha, alpha)
        for name, each in asked.items()
        for alpha in [levels[each.question].alpha]
    }


def cauchy(p_values: Sequence[tuple[float, float]]) -> float:
    """One p-value of several (p, weight)."""
    if len(p_values) == 1:
        return p_values[0][0]
    whole = math.fsum(weight for _, weight in p_values)
    mean = math.fsum(weight / whole * _cotangent(p) for p, weight in p_values)
    return math.atan2(1.0, mean) / math.pi


def _cotangent(p_value: float) -> float:
    """cot(pi p): what a standard Cauchy variable exceeds with chance p."""
    return 1 / math.tan(math.pi * min(max(p_value, _LEAST_P), _MOST_P))


def _holm(
    p_values: Mapping[Hashable, float], weights: Mapping[Hashable, float], family_error: float
) -> dict[Hashable, Rejection]:
    """The smallest p over weight first, each at its share of the error among those left.

    Equal ones are each among all of them, so that the order in which they were given decides nothing.
    """
    by_ratio: dict[float, list[Hashable]] = {}
    for name in p_values:
        by_ratio.setdefault(p_values[name] / weights[name], []).append(name)
    result: dict[Hashable, Rejection] = {}
    going, left = True, math.fsum(weights.values())
    for ratio in sorted(by_ratio):
        equal = by_ratio[ratio]
        alphas = {name: family_error * min(1.0, weights[name] / max(left, weights[name])) for name in equal}
        going = going and all(p_values[name] <= alpha for name, alpha in alphas.items())
        result |= {name: Rejection(going, alpha) for name, alpha in alphas.items()}
        left -= math.fsum(weights[name] for name in equal)
    return result
