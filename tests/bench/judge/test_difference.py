"""The error of a difference, by hand: within a session, across a few sessions, across enough of them, in pairs."""

from __future__ import annotations

import math

import pytest

from bench.judge.difference import Comparison, difference, limits_percent

BEFORE = (["a"] * 2 + ["b"] * 4, [0.0, 2.0, 5.0, 5.0, 8.0, 6.0])


def test_within_a_session_each_side_borrows_half_a_degree_and_the_whole_has_no_more_than_students_test() -> None:
    """Sums of squares 40 and 6, so variances 10 and 3; (40 + 1.5) / 4.5 and (6 + 5) / 2.5 are reckoned with.

    Satterthwaite's degrees of freedom would be 6.8, of eight runs and two means.
    """
    found = difference(Comparison([0.0, 2.0, 4.0, 6.0, 8.0], [1.0, 1.0, 4.0], whole=1.0))
    assert found.change == pytest.approx(-2.0)
    assert found.error.size**2 == pytest.approx(41.5 / 4.5 / 5 + 11 / 2.5 / 3)
    assert found.error.freedom == 6
    assert found.spread**2 == pytest.approx(46 / 6)
    assert found.within is None
    assert (found.session_spread, found.is_session_spread_known) == (0.0, False)


def test_sides_of_equal_noise_have_the_degrees_of_freedom_of_students_test() -> None:
    found = difference(Comparison([0.0, 2.0, 4.0, 6.0, 8.0], [1.0, 3.0, 5.0, 7.0, 9.0], whole=1.0))
    assert found.error.freedom == 8
    assert found.error.size**2 == pytest.approx(2 * 45 / 4.5 / 5)


def test_a_change_of_a_ratio_is_a_logarithm_and_of_a_part_a_share_of_the_whole() -> None:
    two, four = [2.0, 2.0, 2.0, 2.0, 2.0], [4.0, 4.0, 4.0]
    assert difference(Comparison(two, four)).change == pytest.approx(math.log(2))
    assert difference(Comparison(two, four, whole=8.0)).change == pytest.approx(0.25)


def test_a_tolerance_of_tokens_a_second_is_another_in_seconds() -> None:
    assert limits_percent(5.0) == pytest.approx((5.263158, 4.761905))
    assert limits_percent(50.0) == pytest.approx((100.0, 33.333333))
    assert Comparison([1.0] * 5, [1.0]).limit_percent == limits_percent(5.0)[0]


def test_runs_that_are_equal_are_not_known_to_be_free_of_noise() -> None:
    """Neither in pairs nor in two groups: a ten thousandth is reckoned with."""
    pairs = difference(Comparison([1.0] * 4, [1.5] * 4, whole=1.0, is_paired=True))
    assert pairs.change == pytest.approx(0.5)
    assert pairs.error.size == pytest.approx(1e-4 / 2)
    assert pairs.error.freedom == 3
    groups = difference(Comparison([1.0] * 5, [1.5] * 5, whole=1.0))
    assert groups.error.size == pytest.approx(1e-4 * math.sqrt(2 / 5))


def test_paired_runs_are_judged_by_the_differences_of_the_pairs() -> None:
    found = difference(Comparison([1.0, 5.0, 9.0], [2.0, 7.0, 12.0], whole=1.0, is_paired=True))
    assert found.change == pytest.approx(2.0)
    assert found.spread == pytest.approx(1.0)
    assert found.error.size == pytest.approx(1 / math.sqrt(3))
    assert found.error.freedom == 2


def test_a_few_sessions_are_as_far_apart_as_they_are_seen_to_be_if_that_is_more_than_is_assumed() -> None:
    """Means 1, 6 and 9. A session of 2 runs and one of 4 are as two of 8 / 3 runs.

    Runs: (8 + 0.5 x 4) / 4.5 before, (8 + 0.5 x 2) / 2.5 after; by runs in a session 5 / 6 and 1.2. Between the means
    of one side is 12.5; less half of 5 / 6 + 1.2 are the sessions' own.
    """
    names, before = BEFORE
    found = difference(
        Comparison(before, [7.0, 9.0, 11.0], whole=1.0, sessions=(names, ["c"] * 3), session_spread=1.0, resolution=0.1)
    )
    own = 12.5 - (5 / 6 + 1.2) / 2
    within = 5 / 6 / 2 + 1.2
    assert found.change == pytest.approx(9 - 3.5)
    assert found.session_spread**2 == pytest.approx(own)
    assert found.error.size**2 == pytest.approx(1.5 * own + within)
    assert found.error.freedom == pytest.approx((1.5 * own + within) ** 2 / ((5 / 12) ** 2 / 4.5 + 1.2**2 / 2.5))
    assert found.within is not None
    assert found.within.size**2 == pytest.approx(within)
    assert found.spread**2 == pytest.approx(16 / 6)
    assert found.resolution == 0.1
    assert not found.is_session_spread_known


@pytest.mark.parametrize(("assumed", "reckoned"), [(1.0, math.sqrt(2 / 3)), (7.0, 7.0)])
def test_a_few_sessions_are_as_far_apart_as_their_runs_or_as_is_assumed(assumed: float, reckoned: float) -> None:
    """Both baseline sessions have the mean 1, so nothing is seen between them; runs vary by 4 / 6."""
    names = ["a"] * 2 + ["b"] * 4
    found = difference(
        Comparison([0.0, 2.0, 1.0, 1.0, 1.0, 1.0], [3.0, 4.0, 5.0], whole=1.0, sessions=(names, ["c"] * 3))
    )
    assert found.within is None, "nothing is assumed between sessions of such a metric"
    found = difference(
        Comparison(
            [0.0, 2.0, 1.0, 1.0, 1.0, 1.0],
            [3.0, 4.0, 5.0],
            whole=1.0,
            sessions=(names, ["c"] * 3),
            session_spread=assumed,
        )
    )
    assert found.session_spread == pytest.approx(max(assumed, reckoned))


def _five_sessions(after: list[float]) -> Comparison:
    """Means 0 to 4, each of two runs one above and one below."""
    names = [name for name in "abcde" for _ in range(2)]
    before = [mean + away for mean in range(5) for away in (-1.0, 1.0)]
    return Comparison(before, after, whole=1.0, sessions=(names, ["z"] * len(after)), session_spread=100.0)


def test_five_sessions_know_their_own_level_and_a_session_of_fewer_runs_varies_more() -> None:
    """The means vary by 2.5, of which a mean of two runs explains 1; one run alone varies by 2."""
    found = difference(_five_sessions([5.0]))
    assert found.is_session_spread_known
    assert found.session_spread**2 == pytest.approx(2.5 - 1)
    assert found.error.size**2 == pytest.approx(2.5 * (1 + 1 / 5) + (2 - 1))
    assert found.error.freedom == pytest.approx(16 / (9 / 4 + 1 / 5))
    assert found.within is not None
    assert found.within.size**2 == pytest.approx(1 / 5 + 2)


def test_one_session_of_two_runs_is_all_that_tells_how_runs_vary() -> None:
    """By one degree of freedom: 2. A mean of 10 / 9 runs has 1.8 of it, ours of one run 2."""
    names, before = ["a", "a", "b", "c", "d", "e"], [-1.0, 1.0, 1.0, 2.0, 3.0, 4.0]
    found = difference(Comparison(before, [5.0], whole=1.0, sessions=(names, ["z"]), session_spread=100.0))
    assert found.session_spread**2 == pytest.approx(2.5 - 1.8)
    assert found.error.size**2 == pytest.approx(3 + 0.2)
    assert found.error.freedom == pytest.approx(3.2**2 / (3**2 / 4 + 0.2**2 / 1), rel=1e-9)


def test_a_session_of_quieter_runs_is_not_taken_to_vary_less() -> None:
    found = difference(_five_sessions([5.0, 5.0, 5.0, 5.0]))
    assert found.error.size**2 == pytest.approx(2.5 * (1 + 1 / 5))
    assert found.error.freedom == pytest.approx(4)


def test_runs_of_one_session_are_not_across_sessions_whatever_is_assumed() -> None:
    one = Comparison([1.0] * 5, [2.0] * 3, sessions=(["a"] * 5, ["a"] * 3), session_spread=0.1)
    assert not one.is_across_sessions
    assert difference(one).within is None


@pytest.mark.parametrize(
    ("comparison", "complaint"),
    [
        (Comparison([1.0] * 4, [1.0]), "4 baseline runs and 1 of ours: at least 5 and 1"),
        (Comparison([1.0] * 5, []), "at least 5 and 1"),
        (Comparison([1.0] * 2, [1.0] * 2, is_paired=True), "at least 3 and 3"),
        (Comparison([1.0] * 4, [1.0] * 3, is_paired=True), "do not make pairs"),
        (Comparison([1.0] * 5, [1.0], sessions=(["a"] * 5, [])), "every run has one session"),
        (Comparison([1.0] * 5, [0.0]), "not a positive number"),
        (Comparison([1.0] * 5, [math.inf], whole=1.0), "not a positive number"),
    ],
)
def test_what_cannot_be_compared_is_refused(comparison: Comparison, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        difference(comparison)


def test_a_part_of_a_step_may_take_no_time() -> None:
    assert difference(Comparison([1.0] * 5, [0.0], whole=4.0)).change == pytest.approx(-0.25)
