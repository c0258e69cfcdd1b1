"""The layers that the planner takes a published job to run again are those that MindSpeed's own function does."""

from __future__ import annotations

import json
from dataclasses import replace

from bench.plan.published import read_published
from bench.plan.published_places import published_places
from tests.conformance.conftest import Checkouts


def test_recomputed_layers_count_in_each_chunk_or_in_the_stage(checkouts: Checkouts) -> None:
    found = json.loads(checkouts.run("npu", "-m", "conformance_run.recomputed").stdout.splitlines()[-1])
    row = next(each for each in read_published().rows if each.pipeline > 1 and not each.is_layer_alone)
    flags = {"recompute-granularity": "full", "recompute-method": "block"}
    for told, per_stage, layers in found:
        own = {**flags, "recompute-num-layers": str(told)}
        if per_stage:
            own["enable-recompute-layers-per-pp-rank"] = ""
        job = replace(row, virtual_pipeline=4, layers=8 * row.pipeline, flags=own)
        assert set(published_places([job]).recomputed.tolist()) == {layers}, (told, per_stage)
    assert [layers for *_, layers in found] == [4, 1, 8, 3, 8, 5]
