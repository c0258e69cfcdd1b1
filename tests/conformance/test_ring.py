"""What the planner counts of a ring of context ranks is what MindSpeed's own functions run."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from bench.plan import published_work
from tests.conformance.conftest import Checkouts

_SENDS = 2  # keys and values there and back; backward their gradients too


def test_a_step_of_a_ring_is_what_mindspeed_runs(checkouts: Checkouts) -> None:
    found = json.loads(checkouts.run("npu", "-m", "conformance_run.ring").stdout.splitlines()[-1])
    launches = {kind: fmean(step["launches"] for step in steps) for kind, steps in found.items()}
    size = {kind: fmean(step["bytes"] for step in steps) for kind, steps in found.items()}
    for is_causal, mask in enumerate(("general", "causal")):
        for is_fused, kind in enumerate((f"forward, {mask}", f"forward, {mask}, fused")):
            assert launches[kind] + _SENDS == published_work._MERGE_LAUNCHES[is_causal, is_fused]
            assert size[kind] == pytest.approx(published_work._MERGE_BYTES[is_causal, is_fused], abs=0.5)
    assert launches["backward, causal"] + 2 * _SENDS == published_work._GRADIENT_MERGE_LAUNCHES
    assert size["backward, causal"] == sum(published_work._GRADIENT_MERGE_BYTES[1])  # with as many key heads as heads
