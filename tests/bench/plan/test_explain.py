"""What is said of predictions: the fastest first, shares that add up, words that name one layout."""

from __future__ import annotations

import numpy as np
import pytest

from bench.plan.device import load_device
from bench.plan.explain import MEANINGS, Ranked, explain, largest_terms, ranking
from bench.plan.layouts import layouts_of
from bench.plan.names import find, name_of
from bench.plan.predict import TERMS, predict
from bench.plan.speed import speed_of
from bench.records.terminal import plain
from grok1.config.load import load_recipe
from tests.bench.plan.made_work import work_of_stages

H100 = load_device("h100-sxm")


def ranked(**more: object) -> Ranked:
    work = work_of_stages([90_000, 30_000, 400_000], pipeline=1, stages=[0, 0, 0], layout=[0, 1, 2])
    prediction = predict(work, H100)
    return Ranked(["middle", "fast", "slow"], prediction, speed_of(prediction, work, H100), **more)  # type: ignore[arg-type]


def test_the_fastest_layout_comes_first():
    shown = ranking(ranked()).splitlines()
    assert [line.split()[0] for line in shown[2:]] == ["fast", "middle", "slow"]
    assert "products" in shown[-1]
    assert len(ranking(ranked(), most=1).splitlines()) == 3


def test_memory_and_intervals_have_columns_where_they_are_known():
    shown = ranking(ranked(intervals=["a to b"] * 3, peak_bytes=np.array([3, 2, 1]) << 30))
    for word in ("interval", "a to b", "GiB"):
        assert word in shown
    assert "2.00" in shown.splitlines()[2]
    assert "GiB" not in ranking(ranked())


def test_speed_is_of_all_processors():
    work = work_of_stages([900, 900], pipeline=2, group=2)
    prediction = predict(work, H100)
    speed = speed_of(prediction, work, H100)
    assert speed.tokens_per_second[0] == pytest.approx(4096 / 4 / prediction.step_seconds[0])
    assert speed.mfu[0] == pytest.approx(1e15 / 4 / prediction.step_seconds[0] / 989e12)
    assert speed_of(prediction, work, H100, "fp8").mfu[0] == pytest.approx(speed.mfu[0] * 989 / 1979)


def test_a_layout_is_explained_by_terms_that_add_up():
    work = work_of_stages([900, 300, 4000], pipeline=5, stages=[0, 1, 4], group=8)
    prediction = predict(work, H100)
    text = explain("TP8 PP5", work, H100, prediction, speed_of(prediction, work, H100), 0)
    shown = [line.split() for line in text.split("\n\n")[1].splitlines()[2:]]
    shares = [float(cells[2].rstrip("%")) for cells in shown]
    assert {cells[0] for cells in shown} <= set(TERMS)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "1 to 3" in text  # stages
    assert "989 TFLOP/s (bf16)" in text
    assert "The schedule, played through" in text
    assert plain(H100.efficiency.products.source) in text
    alone = work_of_stages([900], pipeline=1)
    found = predict(alone, H100)
    assert "played through" not in explain("TP1", alone, H100, found, speed_of(found, alone, H100), 0)


def test_every_term_has_a_meaning():
    assert set(MEANINGS) == set(TERMS)


def test_small_terms_are_not_named_in_the_ranking():
    found = ranked().prediction
    assert largest_terms(found, 2).startswith("products ")
    assert "optimizer" not in largest_terms(found, 2)


def test_a_layout_is_named_and_found_by_its_words():
    rows = [layouts_of(load_recipe("grok1-40b", [f"parallel.{key}={value}"])) for key, value in
            (("dispatcher", "allgather"), ("dispatcher", "alltoall"))]  # fmt: skip
    one, other = (name_of(each, 0) for each in rows)
    assert one == "TP4 PP2 EP2 ETP4 DP2 MBS1 allgather"
    assert other == "TP4 PP2 EP2 ETP4 DP2 MBS1 alltoall"
    assert find(rows[0], "TP4 PP2") == 0
    with pytest.raises(ValueError, match="no layout of this plan is 'TP8'; name one as the plan does, such as TP4 PP2"):
        find(rows[0], "TP8")
    with pytest.raises(ValueError, match="no layout of this plan is ''"):
        find(rows[0], "")


def test_words_that_fit_several_layouts_are_refused():
    layout = layouts_of(load_recipe("grok1-40b"))
    both = layout.take(np.array([0, 0]))
    both.micro_batch[1] = 2
    with pytest.raises(ValueError, match="'TP4' fits 2 layouts; add words until one is left: TP4 PP2 .* MBS1"):
        find(both, "TP4")
    assert find(both, "TP4 MBS2") == 1


def test_recompute_is_in_the_name():
    recipe = load_recipe("grok1-40b", ["training.recompute=full"])
    assert name_of(layouts_of(recipe), 0).endswith("allgather recompute:full")
    block = load_recipe(
        "grok1-40b",
        ["training.recompute=full", "training.recompute_method=block", "training.recompute_layers=2"],
    )
    assert name_of(layouts_of(block), 0).endswith("recompute:full,block,2")
    some = load_recipe("grok1-40b", ["training.recompute=selective", 'training.recompute_modules=["layernorm","moe"]'])
    assert name_of(layouts_of(some), 0).endswith("recompute:layernorm,moe")
