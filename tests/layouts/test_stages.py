"""Interleaved and uneven pipelines, and the other rank order, train as one rank does."""

from __future__ import annotations

from typing import Any

from grok1.config.load import build_recipe
from tests.layouts.plan import Trial, Words, layout_fields
from tests.layouts.test_layouts import one_then_all, run_trials, wrong

STEPS = 10
DEEP, DEEP_STEPS = 7, 2  # from so many layers on, which take a minute for ten steps
AFTER_STEPS = 1e-5  # relative; what differs in a step's last bits grows with the steps
# (ranks, sizes, further keys of `parallel`, layers, micro-batches, other sections, stock)
TRIALS: dict[int, list[Any]] = {
    2: [
        ({"pipeline": 2, "virtual_pipeline": 2}, 4, 4, {}, True),
        ({"pipeline": 2, "virtual_pipeline": 2}, 4, 2, {"model": {"tie_embeddings": True}}, False),
        ({"pipeline": 2, "virtual_pipeline": 3}, 6, 6, {"kernels": {"gradient_reduction": "overlapped"}}, True),
        ({"pipeline": 2, "first_stage_layers": 1}, 3, 4, {}, True),
        ({"pipeline": 2, "last_stage_layers": 1}, 3, 4, {"model": {"tie_embeddings": True}}, False),
        ({"pipeline": 2, "virtual_pipeline": 2, "last_stage_layers": 2}, 6, 4, {}, False),
    ],
    4: [
        ({"pipeline": 2, "virtual_pipeline": 2, "expert": 2}, 4, 4, {}, False),
        (
            {"pipeline": 2, "virtual_pipeline": 2, "tensor": 2, "expert": 2},
            4,
            4,
            {"model": {"tie_embeddings": True}},
            True,
        ),
        (
            {"pipeline": 2, "virtual_pipeline": 2, "expert": 2},
            4,
            2,
            {"kernels": {"gradient_reduction": "overlapped"}},
            False,
        ),
        ({"pipeline": 4, "first_stage_layers": 1}, 7, 3, {"model": {"tie_embeddings": True}}, True),
        ({"pipeline": 4, "virtual_pipeline": 2, "last_stage_layers": 2}, 14, 4, {}, True),
        ({"pipeline": 4, "virtual_pipeline": 2, "first_stage_layers": 2, "last_stage_layers": 2}, 12, 8, {}, False),
        ({"pipeline": 2, "tensor": 2, "expert": 2, "order": "tp-cp-ep-pp-dp"}, 2, 2, {}, True),
        ({"pipeline": 2, "tensor": 2, "expert_tensor": 2, "order": "tp-cp-ep-pp-dp"}, 2, 2, {}, False),
        ({"pipeline": 2, "virtual_pipeline": 2, "order": "tp-cp-ep-pp-dp"}, 4, 4, {}, False),
    ],
}


def trial(world_size: int, parallel: Words, layers: int, micro_batches: int, sections: Words, stock: bool) -> Trial:
    sizes = {"pipeline": 1, "tensor": 1, "expert": 1, "expert_tensor": 1} | parallel
    recipe = layout_fields(world_size, sizes, two_experts=False)
    replicas = world_size // (sizes["tensor"] * sizes["pipeline"])
    recipe["model"]["num_layers"] = layers
    recipe["training"]["global_batch"] = micro_batches * replicas
    for name, values in sections.items():
        recipe[name] |= values
    return Trial(build_recipe("layout", recipe), stock, DEEP_STEPS if layers >= DEEP else STEPS)


@one_then_all(TRIALS)
def test_stages_train_as_one_rank_does(world_size: int, most: int | None) -> None:
    trials = [trial(world_size, *each) for each in TRIALS[world_size][:most]]
    found = run_trials(trials)
    assert [each.trial for each in found] == [each.name for each in trials]
    assert not wrong(found, AFTER_STEPS)
