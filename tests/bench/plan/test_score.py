"""Scores: rows find their frozen predictions, classes are judged apart, and the null model stands beside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.plan.frozen import Frozen, FrozenPrediction, key_of
from bench.plan.published import PublishedRow, read_published
from bench.plan.score import Scored, score_table, scored, scores


@pytest.fixture(scope="module")
def row() -> PublishedRow:
    return replace(next(row for row in read_published().rows if row.metric == "s/step"), value=10.0)


def prediction(row: PublishedRow, seconds: float) -> FrozenPrediction:
    return FrozenPrediction(
        row=row.name, key=key_of(row), seconds=seconds, low=seconds * 0.9, high=seconds * 1.1, null_seconds=20.0
    )


def test_rows_find_their_predictions_in_any_order(row: PublishedRow) -> None:
    other, third = replace(row, tensor=row.tensor * 2), replace(row, pipeline=row.pipeline * 4)
    frozen = Frozen(level=0.9, made_with={}, predictions=[prediction(other, 5.0), prediction(row, 9.5)])
    found, missing = scored([row, third, other], frozen)
    assert [each.seconds for each in found] == [9.5, 5.0]
    assert missing == [third]


def test_coverage_counts_rows_with_an_interval(row: PublishedRow) -> None:
    rows = [Scored(row, 9.5, 9.0, 11.0, 20.0), Scored(row, 5.0, 4.0, 6.0, 20.0), Scored(row, 9.0, None, None, None)]
    (score,) = scores(rows)
    assert (score.covered, score.with_interval, score.coverage) == (1, 2, 0.5)
    assert score.errors.rows == 3
    assert score.errors.median == pytest.approx(0.1)
    assert score.null is not None
    assert score.null.rows == 2
    assert score.null.median == pytest.approx(1.0)


def test_regret_is_over_layouts_of_one_job(row: PublishedRow) -> None:
    slow = replace(row, tensor=row.tensor * 2, value=12.0)
    (score,) = scores([Scored(row, 11.0, None, None, None), Scored(slow, 9.0, None, None, None)])
    assert score.worst_regret == pytest.approx(0.2)
    assert score.mean_tau == pytest.approx(-1)
    assert score.coverage is None
    (alone,) = scores([Scored(row, 11.0, None, None, None)])
    assert (alone.worst_regret, alone.mean_tau) == (None, None)


def test_measurements_of_one_layout_are_no_choice(row: PublishedRow) -> None:
    again = replace(row, line=row.line + 1, value=20.0)
    (score,) = scores([Scored(row, 11.0, None, None, None), Scored(again, 11.0, None, None, None)])
    assert (score.errors.rows, score.choices) == (2, ())
    slow = replace(row, tensor=row.tensor * 2, value=18.0)
    rows = [Scored(each, seconds, None, None, None) for each, seconds in ((row, 11.0), (again, 11.0), (slow, 12.0))]
    (score,) = scores(rows)
    assert (score.errors.rows, score.choices[0].layouts) == (3, 2)
    assert score.worst_regret == 0  # what is put first takes 15 s, the median of its two


def test_classes_are_judged_apart_and_together(row: PublishedRow) -> None:
    eight = replace(row, precision="fp8")
    found = scores([Scored(row, 11.0, 9, 12, 20.0), Scored(eight, 20.0, None, None, None)])
    assert [each.name for each in found] == [
        "H100 SXM 80GB, 16 bits, dense", "H100 SXM 80GB, 8 bits, dense", "all rows",
    ]  # fmt: skip
    assert found[-1].errors.rows == 2
    shown = score_table(found, 0.9)
    assert "100% of 1" in shown
    assert "inside 90%" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        scores([])
