"""Times that a recorded run calibrates: all move by its factor, and the run itself is met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.plan.anchor import seconds_of_record
from bench.plan.device import load_device
from bench.plan.layouts import layouts_of
from bench.plan.timed import Timed, anchor_of_file, time_layouts
from bench.records.lone_rank import LoneRank
from bench.records.record import RecipeUsed, Record
from bench.synthetic import build_synthetic_record
from grok1.config.load import load_recipe

NPU = load_device("ascend-a2-376t")
RECIPE = load_recipe("grok1-40b")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A run of grok1-40b, whose layout is the synthetic record's."""
    run = build_synthetic_record(steps=12)
    assert run.layout.world_size == RECIPE.parallel.world_size
    used = RecipeUsed(name=RECIPE.name, hash=RECIPE.hash(), resolved=RECIPE.resolved())
    path = tmp_path / "record.json"
    run.model_copy(update={"recipe": used}).write(path)
    return path


def timed() -> Timed:
    return time_layouts(layouts_of(RECIPE), NPU)


def test_the_anchor_s_own_run_is_met(record: Path) -> None:
    anchor = anchor_of_file(record, NPU)
    own = timed().anchored(anchor).played(np.array([0]))
    assert own.prediction.step_seconds[0] == pytest.approx(anchor.measured_seconds)
    assert sum(term[0] for term in own.prediction.terms.values()) == pytest.approx(anchor.measured_seconds)
    (interval,) = own.intervals() or []
    assert interval.seconds == pytest.approx(anchor.measured_seconds)
    assert interval.nearest[0] == anchor.name


def test_a_record_without_its_recipe_is_no_anchor(record: Path) -> None:
    run = Record.read(record)
    changes: tuple[dict[str, Any], ...] = ({"resolved": {}}, {"hash": "0" * len(run.recipe.hash)})
    for used in changes:
        run.model_copy(update={"recipe": run.recipe.model_copy(update=used)}).write(record)
        with pytest.raises(ValueError, match="record.json: holds no recipe of this version, which an anchor needs"):
            anchor_of_file(record, NPU)


def test_all_times_and_speeds_move_by_one_factor(record: Path) -> None:
    anchor = anchor_of_file(record, NPU)
    before, after = timed(), timed().anchored(anchor)
    assert after.prediction.step_seconds == pytest.approx(before.prediction.step_seconds * anchor.factor)
    assert after.speed.mfu == pytest.approx(before.speed.mfu / anchor.factor)
    assert after.anchored(anchor).prediction.step_seconds == pytest.approx(after.prediction.step_seconds)
    assert after.take(np.array([0])).anchor == anchor


def test_the_null_model_has_the_same_information(record: Path) -> None:
    assert "median MFU of the chip's published rows" in timed().basis()
    said = timed().anchored(anchor_of_file(record, NPU)).basis()
    assert "the anchor's MFU" in said
    assert "anchored by record" in said
    assert "anchored by record" in timed().anchored(anchor_of_file(record, NPU)).explained(0)


def test_a_run_that_is_no_measure_of_the_plan_is_refused(record: Path) -> None:
    run = Record.read(record)
    cases: dict[str, dict[str, Any]] = {
        "ran on 'NVIDIA H100 80GB HBM3', and the profile is ascend-a2-376t": {
            "device": run.device.model_copy(update={"name": "NVIDIA H100 80GB HBM3"})
        },
        "take that of its device": {"device": run.device.model_copy(update={"kind": "cpu", "name": "a processor"})},
        "50 % longer on purpose": {"planted_percent": 50.0},
    }
    for said, change in cases.items():
        record.write_text(run.model_copy(update=change).model_dump_json(by_alias=True), encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            anchor_of_file(record, NPU)
    with pytest.raises(ValueError, match="is of one rank alone"):
        seconds_of_record(run.model_copy(update={"lone_rank": LoneRank(rank=0)}))


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="Field required"):
        anchor_of_file(path, NPU)
