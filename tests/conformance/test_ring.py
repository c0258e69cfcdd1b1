"""What the planner counts of a ring of context ranks is what MindSpeed's own functions run."""

from __future__ import annotations

import json

import pytest

from bench.plan import published_work
from tests.conformance.conftest import Checkouts

_SENDS = {"forward": 2, "backward": 4}  # keys and values there and back; and their gradients


def test_a_step_of_a_ring_is_what_mindspeed_runs(checkouts: Checkouts) -> None:
    found = json.loads(checkouts.run("npu", "-m", "conformance_run.ring").stdout.splitlines()[-1])
    launches, size = {}, {}
    for phase, steps in found.items():
        launches[phase] = sum(step["launches"] for step in steps) / 2 + _SENDS[phase]
        size[phase] = sum(step["bytes"] for step in steps) / 2
    assert launches["forward"] == pytest.approx(published_work._MERGE_LAUNCHES, abs=0.5)
    assert size["forward"] == pytest.approx(published_work._MERGE_BYTES, abs=0.5)
    assert launches["backward"] == published_work._GRADIENT_MERGE_LAUNCHES
    assert size["backward"] == sum(published_work._GRADIENT_MERGE_BYTES)  # with as many key heads as heads
