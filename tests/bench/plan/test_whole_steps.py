"""Plans by a profile that was calibrated here are anchored by whole steps, and say so where none was run."""

from __future__ import annotations

import numpy as np
import pytest

from bench.plan.device import Device, load_device
from bench.plan.layouts import layouts_of
from bench.plan.measured import Measured, WholeSteps
from bench.plan.predict import predict
from bench.plan.timed import time_layouts
from bench.plan.whole_steps import UNPLANNED, step_factors, whole_steps
from grok1.config.load import load_recipe
from tests.bench.plan.made_work import work_of_stages

H100 = load_device("h100-sxm")


def calibrated(*rows: tuple[int, float], cores: int = 2) -> Device:
    steps = [WholeSteps(job_ranks=ranks, factor=factor) for ranks, factor in rows]
    return H100.model_copy(update={"cores": cores, "measured": Measured(source="here", whole_steps=steps)})


def test_a_factor_is_of_the_number_of_ranks_and_lies_between_those_that_ran() -> None:
    device = calibrated((4, 2.0), (1, 1.25), (16, 2.0))
    ranks = np.array([1, 2, 4, 8, 16, 64])
    assert step_factors(device, ranks) == pytest.approx([1.25, 2.5**0.5, 2.0, 2.0, 2.0, 2.0])
    assert step_factors(H100, ranks) == pytest.approx(np.ones(6))


def test_rows_are_geometric_means_of_what_ran_over_what_was_planned() -> None:
    rows = whole_steps([2, 1, 2], [1.0, 3.0, 4.0], [1.0, 2.0, 1.0])
    assert [(each.job_ranks, each.factor) for each in rows] == [(1, 1.5), (2, pytest.approx(2.0))]


def test_all_terms_of_a_step_are_multiplied() -> None:
    work = work_of_stages([900, 300], pipeline=2)
    before, after = (predict(work, calibrated(*rows)) for rows in ((), ((int(work.world_size[0]), 1.5),)))
    assert after.step_seconds == pytest.approx(1.5 * before.step_seconds)
    assert sum(after.terms.values()) == pytest.approx(after.step_seconds)


def test_a_profile_without_whole_steps_says_that_it_is_too_fast() -> None:
    layouts = layouts_of(load_recipe("grok1-tiny", ["training.dtype=bf16"]))
    assert UNPLANNED in time_layouts(layouts, calibrated()).basis()
    for device in (calibrated((16, 2.0)), H100):
        assert UNPLANNED not in time_layouts(layouts, device).basis()
