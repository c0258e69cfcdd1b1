"""Runs gathered into points, with intervals from how much equal runs differ."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from bench.history.change_points import ChangePoint
from bench.history.points import points_of
from bench.history.store import Entry, entry_of
from bench.synthetic import build_synthetic_record


@functools.cache
def base() -> Entry:
    return entry_of(build_synthetic_record(steps=8))


def runs(seconds: list[float], commits: str, day: int = 1) -> list[Entry]:
    """One a letter of `commits`, all on one day."""
    return [
        base().model_copy(
            update={
                "step_seconds": value,
                "created_at": f"2025-01-{day:02d}T00:00:00Z",
                "commit": base().commit.model_copy(update={"sha": letter * 40}),
            }
        )
        for value, letter in zip(seconds, commits, strict=True)
    ]


def test_a_point_is_the_runs_of_one_commit_and_day_without_a_change_between_them() -> None:
    series = runs([1.0] * 7, "aabbbaa") + runs([1.0] * 2, "aa", day=2)
    change = ChangePoint(3, 1.0, 1.0, (3, 6))
    assert [(point.at, len(point.runs)) for point in points_of(series, [change])] == [
        (0, 2),
        (2, 1),
        (3, 2),
        (5, 2),
        (7, 2),
    ]


def test_other_versions_are_another_point() -> None:
    one, two = runs([1.0, 1.0], "aa")
    assert len(points_of([one, two.model_copy(update={"software": {"torch": "2.8"}})], [])) == 2


@pytest.mark.parametrize(("digests", "points"), [({}, 2), ({"grok1": "1" * 64}, 1)])
def test_edits_of_what_did_not_run_make_no_point_of_their_own(digests: dict[str, str], points: int) -> None:
    clean, other = (each.model_copy(update={"code_digests": digests}) for each in runs([1.0, 1.0], "aa"))
    dirty = other.model_copy(update={"commit": other.commit.model_copy(update={"dirty": True})})
    assert len(points_of([clean, dirty], [])) == points


def test_an_interval_holds_the_true_time_as_often_as_it_says() -> None:
    """Of 2000 points with two runs each; four standard deviations of the count."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(40):
        seconds = np.exp(0.02 * random.standard_normal(100)).tolist()
        found = points_of(runs(seconds, "".join(letter * 2 for letter in "ab" * 25)), [])
        held += sum(point.interval[0] <= 1.0 <= point.interval[1] for point in found if point.interval)
    assert held / 2000 == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 2000) ** 0.5)


def test_more_runs_have_a_narrower_interval_and_too_few_pairs_none() -> None:
    seconds = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 1.01]
    many, one = points_of(runs(seconds, "aaaaaab"), [])
    assert many.interval
    assert one.interval
    assert np.ptp(np.log(one.interval)) == pytest.approx(np.sqrt(6) * np.ptp(np.log(many.interval)))
    assert [point.interval for point in points_of(runs(seconds[:5], "aabbc"), [])] == [None, None, None]
