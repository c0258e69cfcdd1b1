"""The shipped recipes that pull every lever at once train as one rank does, for ten steps."""

from __future__ import annotations

import pytest

from grok1.config.load import load_recipe
from tests.layouts.plan import Trial
from tests.layouts.test_layouts import run_trials, wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["grok1-levers-8", "grok1-levers-16"])
def test_every_lever_at_once_trains_as_one_rank_does(name: str) -> None:
    trial = Trial(load_recipe(name), stock=False, steps=10)
    found = run_trials([trial])
    assert [each.trial for each in found] == [trial.name]
    assert not wrong(found)
