"""Intervals of a recipe's layouts, the null model beside, and a recorded run as an anchor."""

from __future__ import annotations

import numpy as np
import pytest

from bench.plan.calibration_file import read_calibration
from bench.plan.certainty import Certainty, anchor_of_record, architecture_of_recipe, situation_of_layout
from bench.plan.device import load_device
from bench.plan.layouts import layouts_of
from bench.plan.published import read_published
from bench.plan.situations import situation_of
from bench.synthetic import build_synthetic_record
from grok1.config.load import load_recipe

RECIPE = load_recipe("grok1-40b")
LAYOUTS = layouts_of(RECIPE)
NPU = load_device("ascend-a2-376t")


def test_a_layout_has_an_interval_and_says_what_was_extrapolated() -> None:
    certainty = Certainty(NPU, read_calibration())
    (interval,) = certainty.intervals(LAYOUTS, np.array([30.0]), [0])
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 30 < interval.high
    assert any("no row of this program" in each for each in interval.sentences)
    assert "grok1_40b_tp4_ep2" in interval.nearest[0]


def test_a_profile_of_a_shipped_name_with_other_figures_is_another_chip() -> None:
    changed = NPU.with_efficiency(products=0.3)
    (own,), (shipped,) = (Certainty(each, read_calibration()).intervals(LAYOUTS, np.array([30.0]), [0])
                          for each in (changed, NPU))  # fmt: skip
    assert "no row of ascend-a2-376t with figures of your own (x2)" in "".join(own.widened)
    assert own.low is not None
    assert shipped.low is not None
    assert own.low < shipped.low
    assert Certainty(NPU, read_calibration()).null_step_seconds(RECIPE, 16) is not None
    assert Certainty(changed, read_calibration()).null_step_seconds(RECIPE, 16) is None


def test_a_recipe_s_model_is_of_the_published_test_s_family() -> None:
    test = next(row for row in read_published().rows if row.model.startswith("grok1") and row.is_time)
    assert architecture_of_recipe(RECIPE).family == test.architecture.family
    published, ours = situation_of(test, NPU.name), situation_of_layout(LAYOUTS, 0, NPU)
    assert len(published.sizes) == len(ours.sizes)
    assert ours.kinds == {"TP", "PP", "EP", "ETP"}
    assert (ours.experts, ours.chip) == ("coarse experts", published.chip)


def test_the_null_model_is_the_mfu_of_the_chip_s_rows() -> None:
    calibration = read_calibration()
    fit = calibration.fit_of(NPU.name, False)
    assert fit is not None
    seconds = Certainty(NPU, calibration).null_step_seconds(RECIPE, 16)
    assert seconds == pytest.approx(RECIPE.flops_per_step() / (16 * 353.9e12 * fit.null_mfu), rel=0.01)
    unknown = NPU.model_copy(update={"name": "a new chip"})
    assert Certainty(unknown, calibration).null_step_seconds(RECIPE, 16) is None


def test_a_job_in_32_bits_has_neither_the_interval_nor_the_null_model_of_16() -> None:
    """Not of a profile of the user's own either, which is named as a shipped one."""
    recipe = load_recipe("grok1-40b", ["training.dtype=fp32"])
    peak = NPU.peak.model_copy(update={"fp32": NPU.peak.vector})
    certainty = Certainty(NPU.model_copy(update={"peak": peak}), read_calibration())
    (interval,) = certainty.intervals(layouts_of(recipe), np.array([30.0]), [0])
    assert interval.low is None
    assert interval.high is None
    assert "products in 32 bits" in interval.sentences[0]
    assert certainty.null_step_seconds(recipe, 16) is None


def test_a_record_anchors_times_and_the_null_model() -> None:
    record = build_synthetic_record(steps=12)
    recipe = load_recipe("grok1-40b", [f"parallel.world_size={record.layout.world_size}"])
    anchor = anchor_of_record(record, recipe, 20.0, NPU)
    certainty = Certainty(NPU, read_calibration(), anchor)
    (interval,) = certainty.intervals(layouts_of(recipe), np.array([20.0]), [0])
    assert interval.seconds == pytest.approx(anchor.measured_seconds)
    null = certainty.null_step_seconds(recipe, recipe.parallel.world_size)
    flops = recipe.flops_per_step() / record.work.model_flops_per_step
    assert null == pytest.approx(anchor.measured_seconds * flops)


def test_a_record_of_another_job_is_refused() -> None:
    record = build_synthetic_record(steps=12)
    recipe = load_recipe("grok1-40b", [f"parallel.world_size={2 * record.layout.world_size}"])
    with pytest.raises(ValueError, match="give the recipe that ran"):
        anchor_of_record(record, recipe, 20.0, NPU)
