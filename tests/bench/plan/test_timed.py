"""Layouts of a recipe with their times: counted work, ranked, played, shown and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.plan.certainty import situation_of_layout
from bench.plan.device import load_device
from bench.plan.explain import ranking
from bench.plan.grok1_work import work_of
from bench.plan.layouts import Layouts, every_stage, layouts_of
from bench.plan.measured import Measured
from bench.plan.played import predict_played
from bench.plan.predict import TERMS, predict
from bench.plan.timed import time_layouts, write_timed
from grok1.config.load import load_recipe

A2, H100 = load_device("ascend-a2-376t"), load_device("h100-sxm")


def layouts(**columns: list[int]) -> Layouts:
    """The layout of grok1-40b, a row for each value of these columns."""
    own = layouts_of(load_recipe("grok1-40b", ["parallel.dispatcher=alltoall"]))
    rows = own.take(np.zeros(len(next(iter(columns.values()))), np.int64))
    for name, values in columns.items():
        getattr(rows, name)[:] = values
    return rows


def test_a_step_has_all_the_recipe_s_flops_and_more_where_they_are_computed_again() -> None:
    for settings, at_least in (([], 1.0), (["training.recompute=full"], 1.3)):
        recipe = load_recipe("grok1-40b", settings)
        work = work_of(layouts_of(recipe))
        of_products = [2.0 * one.rows * one.columns * one.depth * one.calls for one in work.products]
        each = np.sum([*of_products, *(one.flops for one in work.attention)], axis=0)
        total = float((each * work.micro_batches * work.world_size / work.pipeline).sum())
        assert total / recipe.flops_per_step() == pytest.approx(at_least, abs=0.05)


def test_one_rank_of_a_recipe_has_no_exchange() -> None:
    alone = [f"parallel.{axis}=1" for axis in ("world_size", "tensor", "pipeline", "expert", "expert_tensor")]
    terms = predict(work_of(layouts_of(load_recipe("grok1-nano", [*alone, "training.dtype=bf16"]))), H100).terms
    assert all(terms[name][0] == 0 for name in ("tensor", "expert", "context", "pipeline", "data", "bubble"))
    assert terms["products"][0] > 0


def test_an_expert_group_that_crosses_nodes_takes_longer() -> None:
    found = time_layouts(layouts(expert=[8, 8], expert_tensor=[1, 1], tensor=[1, 1], pipeline=[1, 2]), A2)
    crossing = time_layouts(layouts(expert=[4], expert_tensor=[4], tensor=[4], pipeline=[1]), A2)
    assert crossing.prediction.terms["expert"][0] > 2 * found.prediction.terms["expert"][0]


def test_replicas_alone_share_the_work() -> None:
    """Twice the ranks in replicas of everything: half the micro-batches, all else alike."""
    one = work_of(layouts(world_size=[16]))
    two = work_of(layouts(world_size=[32]))
    first, second = predict(one, H100).terms, predict(two, H100).terms
    for name in ("products", "attention", "memory", "tensor", "expert"):
        np.testing.assert_allclose(second[name], first[name] / 2)


def test_the_fastest_are_played_and_ranked_again() -> None:
    found = time_layouts(layouts(micro_batch=[1, 2, 4, 1], pipeline=[2, 2, 1, 4], expert=[2, 2, 2, 1]), H100)
    rows = found.fastest(3)
    assert (np.diff(found.prediction.step_seconds[rows]) >= 0).all()
    assert set(found.fastest(9, among=np.array([3, 1]))) == {1, 3}
    shown = found.played(rows)
    assert (np.diff(shown.prediction.step_seconds) >= 0).all()
    assert set(shown.names()) == {found.names()[row] for row in rows}
    for row in range(3):
        alone = predict_played(work_of(shown.layouts.take(np.array([row]))), H100)
        assert alone.step_seconds[0] == pytest.approx(shown.prediction.step_seconds[row])


def test_pieces_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = layouts(micro_batch=[1, 2, 4, 1, 2], pipeline=[2, 2, 1, 4, 1], expert=[2, 2, 2, 1, 2])
    whole = time_layouts(rows, H100)
    monkeypatch.setattr("bench.plan.timed._LAYOUTS_AT_ONCE", 2)
    pieces = time_layouts(rows, H100)
    np.testing.assert_array_equal(pieces.prediction.step_seconds, whole.prediction.step_seconds)
    np.testing.assert_array_equal(pieces.speed.mfu, whole.speed.mfu)


def test_each_layout_that_is_shown_has_an_interval_around_its_time() -> None:
    shown = time_layouts(layouts(micro_batch=[1, 2]), H100)
    for seconds, interval in zip(shown.prediction.step_seconds, shown.intervals() or [], strict=True):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < seconds < interval.high
    assert "interval" in ranking(shown.ranked())
    text = shown.explained(0)
    assert "90% interval from" in text
    assert "near: " in text


def test_published_rows_do_not_speak_for_a_device_that_was_measured() -> None:
    mine = H100.model_copy(update={"measured": Measured(source="here")})
    shown = time_layouts(layouts(micro_batch=[1, 2]), mine)
    assert shown.intervals() is None
    assert "interval" not in ranking(shown.ranked())
    assert "interval" not in shown.explained(0)


def test_the_situation_is_the_layout_s() -> None:
    rows = layouts(tensor=[4, 1], expert=[2, 8], expert_tensor=[4, 1], pipeline=[2, 1])
    assert situation_of_layout(rows, 0, A2).kinds == {"TP", "PP", "EP", "ETP"}
    assert situation_of_layout(rows, 1, A2).kinds == {"EP"}
    assert situation_of_layout(rows, 1, A2).experts == "coarse experts"


def test_what_is_shown_is_written(tmp_path: Path) -> None:
    shown = time_layouts(layouts(micro_batch=[2, 1]), H100).played(np.array([0, 1]))
    write_timed(tmp_path / "plan.json", shown, 700, [3, 4])
    read = json.loads((tmp_path / "plan.json").read_text())
    assert (read["layouts"], read["device"], read["level"]) == (700, "h100-sxm", 0.9)
    for row, name, seconds in zip(read["rows"], shown.names(), shown.prediction.step_seconds, strict=True):
        assert row["layout"] == name
        assert row["step_seconds"] == pytest.approx(seconds)
        assert sum(row["terms"].values()) == pytest.approx(seconds)
        assert set(row["terms"]) == set(TERMS)
    assert [row["need_bytes"] for row in read["rows"]] == [3, 4]


def test_a_work_has_the_stages_that_differ() -> None:
    rows = layouts(pipeline=[8], tensor=[2], expert=[1], expert_tensor=[2])
    assert work_of(rows).stage.tolist() == [0, 1, 7]
    assert len(every_stage(rows)) == 8
