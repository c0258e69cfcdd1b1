"""Errors, regret and rank correlation, against examples worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.errors import choice_of, choices_by_job, errors_of

SECONDS = st.floats(0.1, 1000)


def test_errors_are_of_predicted_over_measured() -> None:
    errors = errors_of([1.1, 0.8, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    assert errors.rows == 4
    assert errors.median == pytest.approx(0.15)
    assert errors.worst == pytest.approx(1.0)
    assert errors.p90 == pytest.approx(0.2 + 0.7 * 0.8)
    assert errors.bias == pytest.approx(0.05)


def test_regret_is_of_what_is_put_first() -> None:
    # the second is put first and takes 12 where 10 was possible; of six pairs one is in the wrong order
    choice = choice_of([5.0, 4.0, 6.0, 7.0], [10.0, 12.0, 13.0, 20.0])
    assert choice.regret == pytest.approx(0.2)
    assert choice.tau == pytest.approx((5 - 1) / 6)


def test_among_equal_predictions_the_slowest_counts() -> None:
    assert choice_of([1.0, 1.0, 2.0], [3.0, 4.0, 2.0]).regret == pytest.approx(1.0)
    assert math.isnan(choice_of([1.0, 1.0], [3.0, 4.0]).tau)


@given(st.lists(SECONDS, min_size=2, max_size=20, unique=True))
def test_right_orders_have_no_regret(measured: list[float]) -> None:
    right, wrong = choice_of(measured, measured), choice_of([1e6 / each for each in measured], measured)
    assert right.regret == 0
    assert right.tau == pytest.approx(1)
    assert wrong.tau == pytest.approx(-1)
    assert wrong.regret == pytest.approx(max(measured) / min(measured) - 1)


def test_jobs_are_judged_apart_and_need_two_rows() -> None:
    found = choices_by_job(["a", "b", "a", "c"], [1.0, 1.0, 2.0, 3.0], [2.0, 1.0, 1.0, 1.0])
    assert list(found) == ["a"]
    assert found["a"].regret == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        errors_of([seconds], [1.0])


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        errors_of([], [])
    with pytest.raises(ValueError, match="two layouts"):
        choice_of([1.0], [1.0])
