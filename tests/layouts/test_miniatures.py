"""The shipped recipes that pull every lever at once train as one rank does, for ten steps."""

from __future__ import annotations

import pytest

from grok1.config.load import load_recipe
from tests.layouts.plan import Trial
from tests.layouts.test_layouts import run_trials, wrong

# as in the other trials; with Adam's own, the last bits of a gradient that is next to nothing decide an update
LARGE_EPSILON = "training.adam_epsilon=1e-2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grok1-levers-8", "grok1-levers-16"])
def test_every_lever_at_once_trains_as_one_rank_does(name: str) -> None:
    trial = Trial(load_recipe(name, [LARGE_EPSILON]), stock=False, steps=10)
    found = run_trials([trial])
    assert [each.trial for each in found] == [trial.name]
    assert not wrong(found)
