"""What is said of predictions: the fastest first, shares that add up, words that name one layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.plan.device import load_device
from bench.plan.explain import MEANINGS, Ranked, explain, largest_terms, ranking
from bench.plan.played import played, predict_played
from bench.plan.predict import TERMS, place_times, predict
from bench.plan.speed import speed_of
from bench.records.terminal import plain
from tests.bench.plan.made_work import work_of_stages

H100 = load_device("h100-sxm")


def ranked(**more: Any) -> Ranked:
    work = work_of_stages([90_000, 30_000, 400_000], pipeline=1, stages=[0, 0, 0], layout=[0, 1, 2])
    prediction = predict(work, H100)
    return Ranked(["middle", "fast", "slow"], prediction, speed_of(prediction, work, H100), **more)


def test_the_fastest_layout_comes_first() -> None:
    shown = ranking(ranked()).splitlines()
    assert [line.split()[0] for line in shown[2:]] == ["fast", "middle", "slow"]
    assert "products" in shown[-1]
    assert len(ranking(ranked(), most=1).splitlines()) == 3


def test_memory_and_intervals_have_columns_where_they_are_known() -> None:
    shown = ranking(ranked(intervals=["a to b"] * 3, need_bytes=np.array([3, 2, 1]) << 30))
    for word in ("interval", "a to b", "GiB"):
        assert word in shown
    assert "2.00" in shown.splitlines()[2]
    assert "GiB" not in ranking(ranked())


def test_speed_is_of_all_processors() -> None:
    work = work_of_stages([900, 900], pipeline=2, group=2)
    prediction = predict(work, H100)
    speed = speed_of(prediction, work, H100)
    assert speed.tokens_per_second[0] == pytest.approx(4096 / 4 / prediction.step_seconds[0])
    assert speed.mfu[0] == pytest.approx(1e15 / 4 / prediction.step_seconds[0] / 989e12)
    assert speed_of(prediction, work, H100, "fp8").mfu[0] == pytest.approx(speed.mfu[0] * 989 / 1979)


def test_a_layout_is_explained_by_terms_that_add_up() -> None:
    work = work_of_stages([900, 300, 4000], pipeline=5, stages=[0, 1, 4], group=8)
    prediction = predict(work, H100)
    text = explain("TP8 PP5", work, H100, prediction, speed_of(prediction, work, H100), 0)
    shown = [line.split() for line in text.split("\n\n")[1].splitlines()[2:]]
    shares = [float(cells[-1 - len(MEANINGS[cells[0]].split())].rstrip("%")) for cells in shown]
    assert {cells[0] for cells in shown} <= set(TERMS)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "1 to 3" in text  # stages
    assert "989 TFLOP/s (bf16)" in text
    assert "The schedule, played through" in text
    assert plain(H100.efficiency.products.source) in text
    alone = work_of_stages([900], pipeline=1)
    found = predict(alone, H100)
    assert "played through" not in explain("TP1", alone, H100, found, speed_of(found, alone, H100), 0)


def test_a_schedule_stands_beside_the_formula_and_an_anchor_moves_both_and_the_stages() -> None:
    work = work_of_stages([900, 300, 4000], pipeline=3)
    formula, found = predict(work, H100), predict_played(work, H100)
    of_passes = {name: term for name, term in formula.terms.items() if name not in ("data", "optimizer")}
    by_formula = float(sum(term[0] for term in of_passes.values())) - H100.host.seconds_a_step.value
    assert by_formula != pytest.approx(played(work, H100, 0).seconds, rel=1e-3)
    for factor in (1.0, 3.0):
        text = explain("PP3", work, H100, found, speed_of(found, work, H100), 0, factor)
        assert f"played through: {factor * played(work, H100, 0).seconds:.4g} s" in text
        assert f"by the formula {factor * by_formula:.4g} s" in text
    times = place_times(work, H100).of_micro_batch
    assert f"{3e3 * times[2]:.4f}" in text.split("\n\n")[2]


def test_every_term_has_a_meaning() -> None:
    assert set(MEANINGS) == set(TERMS)


def test_small_terms_are_not_named_in_the_ranking() -> None:
    found = ranked().prediction
    assert largest_terms(found, 2).startswith("products ")
    assert "optimizer" not in largest_terms(found, 2)
