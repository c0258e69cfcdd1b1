"""A fit finds what was planted, keeps to its prior where rows say nothing, and is the same each time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.fit import Prior, fit
from bench.plan.layouts import Floats

WORK = np.random.default_rng(3).lognormal(0, 1, (40, 2))  # what 40 jobs spend on two resources at full efficiency
PRIORS = {"products": Prior(0.6, 0.5), "memory": Prior(0.6, 0.5), "unused": Prior(7.0, 0.2)}


def seconds(values: Mapping[str, float]) -> Floats:
    return np.asarray(WORK[:, 0] / values["products"] + WORK[:, 1] / values["memory"])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 0.95), st.floats(0.3, 0.95))
def test_planted_efficiencies_are_recovered(products: float, memory: float) -> None:
    found = fit(seconds, seconds({"products": products, "memory": memory}), PRIORS)
    assert found.values["products"] == pytest.approx(products, rel=0.01)
    assert found.values["memory"] == pytest.approx(memory, rel=0.01)
    assert found.median < 0.002
    assert found.p90 < 0.01


def test_what_rows_do_not_tell_stays_at_its_prior() -> None:
    found = fit(seconds, seconds({"products": 0.5, "memory": 0.5}), PRIORS)
    assert found.values["unused"] == pytest.approx(7.0, rel=1e-6)
    assert found.told["unused"] == pytest.approx(0, abs=1e-9)
    assert found.told["products"] > 0.8


def test_a_few_wrong_rows_do_not_move_it() -> None:
    measured = seconds({"products": 0.5, "memory": 0.7})
    measured[:4] *= 2
    found = fit(seconds, measured, PRIORS)
    assert found.values["products"] == pytest.approx(0.5, rel=0.03)
    assert found.log_ratios[0] == pytest.approx(np.log(2), abs=0.05)


def test_it_is_the_same_each_time() -> None:
    measured = seconds({"products": 0.4, "memory": 0.7})
    assert fit(seconds, measured, PRIORS) == fit(seconds, measured, PRIORS)


@pytest.mark.parametrize("measured", [[], [0.0], [-1.0], [float("nan")]])
def test_impossible_rows_are_refused(measured: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        fit(seconds, measured, PRIORS)


def test_a_tight_prior_is_kept_and_a_wide_one_moves() -> None:
    """One row cannot tell two efficiencies apart: the priors do."""
    tight = {"products": Prior(0.6, 0.001), "memory": Prior(0.6, 1.0)}

    def first(values: Mapping[str, float]) -> Floats:
        return seconds(values)[:1]

    found = fit(first, first({"products": 0.4, "memory": 0.6}), tight)
    assert found.values["products"] == pytest.approx(0.6, rel=0.01)
    assert found.values["memory"] < 0.55
