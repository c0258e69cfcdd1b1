"""Recompute, capacity, z-loss, drawn routes and overlapped gathering of weights: each trains as one rank does.

One rank has none of the recompute and none of our kernels, and megatron's objects as an accelerator has them.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from grok1.config.load import build_recipe
from tests.layouts.entries import Errors
from tests.layouts.plan import Trial, Words, layout_fields
from tests.layouts.test_layouts import one_then_all, run_trials, wrong

STEPS = 10
TP2: Words = {"tensor": 2, "expert_tensor": 2}
EP2: Words = {"expert": 2}
TP2_EP2: Words = {"tensor": 2, "expert": 2}
PP2: Words = {"pipeline": 2}
FUSED: Words = {"kernels": {"experts": "fused", "dispatch": "merged"}}
GATHERED: Words = {"kernels": {"gradient_reduction": "overlapped", "param_gather": "overlapped"}}
GATHERED_FUSED: Words = {"kernels": {**FUSED["kernels"], **GATHERED["kernels"]}}
Z_LOSS: Words = {"model": {"z_loss_coefficient": 0.1}}
CAP: Words = {"model": {"attention_logit_cap": 30.0}}


def training(**values: Any) -> Words:
    return {"training": values}


def selective(*modules: str) -> Words:
    return training(recompute="selective", recompute_modules=list(modules))


def capacity(**values: Any) -> Words:
    return training(expert_capacity_factor=1.0, sequence_length=64, **values)


def trial(world_size: int, sizes: Words, *settings: Words, is_stock: bool = False) -> Trial:
    fields = layout_fields(world_size, {"pipeline": 1, "tensor": 1, "expert": 1, "expert_tensor": 1, **sizes}, True)
    for section, values in copy.deepcopy([each for setting in settings for each in setting.items()]):
        fields[section] |= values
    return Trial(build_recipe("layout", fields), is_stock, STEPS)


ALL = ("core_attn", "layernorm", "moe")
TRIALS = {
    2: {
        "selective, tensor": trial(2, TP2, selective(*ALL)),
        "selective, fused experts": trial(2, EP2, selective(*ALL), FUSED),
        "selective core attention with a cap": trial(2, TP2, selective("core_attn"), CAP),
        "the first layer recomputed": trial(2, EP2, training(recompute="full", recompute_method="block")),
        "two layers recomputed at once": trial(2, EP2, training(recompute="full", recompute_layers=2), FUSED),
        "z-loss, tensor": trial(2, TP2, Z_LOSS),
        "z-loss, expert, recompute": trial(2, EP2, Z_LOSS, training(recompute="full")),
        "z-loss, pipeline": trial(2, PP2, Z_LOSS),
        "random, expert, recompute": trial(2, EP2, training(routing="random", recompute="full")),
        "random, tensor": trial(2, TP2, training(routing="random"), FUSED),
        "random, two sequences at once": trial(2, TP2, training(routing="random", micro_batch=2)),
        "weights gathered, fused": trial(2, EP2, GATHERED_FUSED),
        "weights gathered, stock": trial(2, EP2, GATHERED, training(recompute="full"), is_stock=True),
        "weights gathered, replicas": trial(2, {}, GATHERED),
    },
    4: {
        "z-loss, tensor x expert": trial(4, TP2_EP2, Z_LOSS),
        "selective, fused, tensor x expert": trial(4, TP2_EP2, selective(*ALL), FUSED),
        "weights gathered, expert replicas": trial(4, EP2, GATHERED),
        # whose layers read weights of modules that are not called: only they can wait for them
        "weights gathered, replicas of fused experts": trial(4, EP2, GATHERED_FUSED),
        "random, tensor x expert, selective": trial(4, TP2_EP2, training(routing="random"), selective("moe")),
    },
}
# each replica drops of its own micro-batch, and so does one rank, whose micro-batches are the same
DROPPING = {
    "least likely": trial(2, EP2, capacity()),
    "least likely, fused experts": trial(2, EP2, capacity(), {"kernels": {"experts": "fused"}}),
    "last": trial(2, EP2, capacity(expert_drop_policy="position"), {"parallel": {"dispatcher": "allgather"}}),
    "padded": trial(2, EP2, capacity(pad_to_capacity=True), selective("moe")),
    "padded, allgather": trial(
        2, EP2, capacity(pad_to_capacity=True, expert_drop_policy="position"), {"parallel": {"dispatcher": "allgather"}}
    ),
}


@one_then_all(TRIALS)
def test_levers_train_as_one_rank_does(world_size: int, most: int | None) -> None:
    trials = dict(itertools.islice(TRIALS[world_size].items(), most))
    found = run_trials(list(trials.values()))
    assert not wrong(found), {name: each for name, each in zip(trials, found, strict=True) if wrong([each])}


@pytest.mark.slow
def test_dropping_replicas_train_as_one_rank_does_and_drop_as_many() -> None:
    found: list[Errors] = run_trials(list(DROPPING.values()))
    assert not wrong(found)
    assert all(len(each.dropped_pairs) == STEPS and min(each.dropped_pairs) > 0 for each in found), found


@pytest.mark.slow
def test_a_capacity_that_holds_all_drops_none_in_a_layout_that_splits_sequences() -> None:
    # both experts of a token among four: twice the mean load is all tokens
    whole = trial(2, TP2, training(expert_capacity_factor=2.0))
    [found] = run_trials([whole])
    assert not wrong([found])
    assert found.dropped_pairs == [0] * STEPS
