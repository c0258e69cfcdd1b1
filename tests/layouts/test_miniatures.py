"""The shipped recipes that pull every lever at once train as one rank does."""

from __future__ import annotations

import pytest

from grok1.config.load import load_recipe
from tests.layouts.plan import Trial
from tests.layouts.test_layouts import LOSSES, NORMS, run_trials, wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["grok1-levers-8", "grok1-levers-16"])
def test_every_lever_at_once_trains_as_one_rank_does(name: str) -> None:
    """Gradients and the first update, then losses and norms of ten steps.

    In ten updates Adam makes much of last bits, where a gradient is next to nothing: weights are then 2e-5 apart.
    """
    recipe = load_recipe(name)
    updated, trained = run_trials([Trial(recipe, stock=False), Trial(recipe, stock=False, steps=10)])
    assert not wrong([updated])
    assert trained.loss <= LOSSES
    assert trained.grad_norm <= NORMS
    assert not trained.differing_replicas
