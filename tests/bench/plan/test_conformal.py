"""Conformal intervals keep their promise on exchangeable data, and promise nothing from too few rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.conformal import conformal_quantile, coverage, weighted_quantile

LEVELS = st.floats(0.05, 0.95)
RESIDUALS = st.lists(st.floats(0, 10), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("count", "level", "place"),
    [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (19, 0.5, 10), (99, 0.9, 90), (8, 0.9, None), (1, 0.9, None)],
)
def test_the_finite_sample_rule(count: int, level: float, place: int | None) -> None:
    expected = math.inf if place is None else place
    assert conformal_quantile(list(range(1, count + 1)), level) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(5, 60), st.floats(0.3, 0.95), st.integers(0, 2**31))
def test_exchangeable_residuals_are_covered_as_promised(count: int, level: float, seed: int) -> None:
    """Over all choices of the new one among n + 1 the share is at least the level, and at most 1 / (n + 1) above."""
    residuals = np.abs(np.random.default_rng(seed).standard_cauchy(count + 1))
    kept = [residuals[new] <= conformal_quantile(np.delete(residuals, new), level) for new in range(count + 1)]
    assert level <= np.mean(kept) <= level + 1 / (count + 1) + 1e-12


@settings(max_examples=100, deadline=None)
@given(RESIDUALS, LEVELS, LEVELS)
def test_a_higher_level_is_never_narrower(residuals: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert conformal_quantile(residuals, low) <= conformal_quantile(residuals, high)


@settings(max_examples=100, deadline=None)
@given(RESIDUALS, LEVELS)
def test_one_row_a_family_is_the_plain_rule(residuals: list[float], level: float) -> None:
    assert weighted_quantile(residuals, range(len(residuals)), level) == conformal_quantile(residuals, level)


def test_a_family_counts_once_however_many_rows_it_has() -> None:
    residuals, families = [0.01] * 18 + [0.08], ["big"] * 18 + ["small"]
    assert conformal_quantile(residuals, 0.9) == 0.01
    assert weighted_quantile(residuals, families, 0.9) == 0.08


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, math.nan])
def test_an_impossible_level_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile([1.0], level)


@pytest.mark.parametrize("residual", [-0.1, math.nan])
def test_an_impossible_residual_is_refused(residual: float) -> None:
    with pytest.raises(ValueError, match="absolute"):
        conformal_quantile([0.1, residual], 0.9)


def test_no_residuals_promise_nothing() -> None:
    assert conformal_quantile([], 0.9) == math.inf
    assert math.isnan(coverage([], []))
    assert coverage([0.1, 0.3, 0.3], [0.2, 0.2, math.inf]) == pytest.approx(2 / 3)
