"""One error for many questions, each asked in several ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.judge.multiplicity import Asked, cauchy, rejections

P = st.floats(1e-12, 1 - 1e-6)


def test_the_combination_is_that_of_liu_and_xie() -> None:
    """By their formula: T = sum w tan((1/2 - p) pi), and p = 1/2 - arctan(T) / pi."""
    p_values, weights = (0.003, 0.2, 0.6), (0.5, 0.3, 0.2)
    statistic = sum(w * math.tan((0.5 - p) * math.pi) for p, w in zip(p_values, weights, strict=True))
    expected = 0.5 - math.atan(statistic) / math.pi
    assert cauchy(list(zip(p_values, weights, strict=True))) == pytest.approx(expected, rel=1e-12)


@given(P, st.integers(1, 5))
def test_figures_that_agree_lose_nothing(p_value: float, count: int) -> None:
    assert cauchy([(p_value, 1.0)] * count) == pytest.approx(p_value, rel=1e-6)


@given(st.lists(P, min_size=1, max_size=6))
def test_the_combination_is_between_the_least_and_the_most(p_values: list[float]) -> None:
    found = cauchy([(p, 1.0) for p in p_values])
    assert min(p_values) * (1 - 1e-9) <= found <= max(p_values) * (1 + 1e-9)


def test_a_question_that_is_rejected_blames_a_figure() -> None:
    asked = {name: Asked(p, "speed", 1 / 3) for name, p in (("median", 0.4), ("mean", 1e-5), ("quartile", 0.7))}
    found = rejections(asked | {"memory": Asked(0.5, "memory", 0.1)}, 0.01)
    assert [name for name, each in found.items() if each.is_rejected] == ["mean"]


def test_questions_share_the_error_by_holm() -> None:
    asked = {name: Asked(p, name, 1.0) for name, p in (("a", 0.5), ("b", 0.001), ("c", 0.004))}
    found = rejections(asked, 0.01)
    assert {name: each.alpha for name, each in found.items()} == pytest.approx({"b": 0.01 / 3, "c": 0.005, "a": 0.01})
    assert [name for name in "abc" if found[name].is_rejected] == ["b", "c"]


def test_what_follows_a_question_that_is_not_rejected_is_not_either() -> None:
    """The third is below its own level, 1 %, but the second was above 0.5 %."""
    asked = {name: Asked(p, name, 1.0) for name, p in (("a", 0.001), ("b", 0.006), ("c", 0.007))}
    assert [name for name, each in rejections(asked, 0.01).items() if each.is_rejected] == ["a"]


def test_questions_go_by_p_over_weight() -> None:
    """The heavy one first, at nine tenths of the error; the light one then has all of it."""
    found = rejections({"light": Asked(0.002, "light", 0.1), "heavy": Asked(0.003, "heavy", 0.9)}, 0.01)
    assert {name: each.alpha for name, each in found.items()} == pytest.approx({"heavy": 0.009, "light": 0.01})
    assert all(each.is_rejected for each in found.values())


def test_the_order_of_equal_questions_decides_nothing() -> None:
    """Two cases whose memory did not change: the one that was read first was judged by another interval."""
    asked = {name: Asked(p, name, w) for name, p, w in (("a", 0.5, 0.1), ("b", 0.5, 0.1), ("c", 0.002, 1.0))}
    forwards, backwards = rejections(asked, 0.01), rejections(dict(reversed(asked.items())), 0.01)
    assert forwards == backwards
    assert forwards["a"] == forwards["b"]
    assert forwards["a"].alpha == pytest.approx(0.005)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 0.99])
def test_equal_sides_are_rejected_as_often_as_stated(correlation: float) -> None:
    """At 1 %, of 40,000 triples of normal scores; 4 standard deviations of the count."""
    random, trials = np.random.default_rng(4), 40_000
    shared = random.normal(size=(trials, 1))
    own = random.normal(size=(trials, 3))
    p_values = stats.norm.sf(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)
    rejected = sum(cauchy([(float(p), 1.0) for p in row]) <= 0.01 for row in p_values) / trials
    assert rejected <= 0.01 + 4 * math.sqrt(0.01 / trials)
