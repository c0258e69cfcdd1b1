"""Choices about recompute, capacity, routing and gathering of weights that do not fit are refused before launch."""

from __future__ import annotations

import pytest

from grok1.config.levers import expert_capacity
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.refusals import RecipeError

MEGATRONS_DISPATCH = "kernels.dispatch=megatron"
BLOCK = ("training.recompute=full", "training.recompute_method=block")
SELECTIVE = "training.recompute=selective"
BF16_GRADIENTS = ("training.dtype=bf16", "training.reuse_fp32_parameters=true")
OVERLAPPED = ("kernels.gradient_reduction=overlapped", "kernels.param_gather=overlapped")

# changes, then what the one line names: both values and the remedy
REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a method of nothing": (
        ("training.recompute_method=block",),
        ("recompute_method block", "recompute none", "set training.recompute=full"),
    ),
    "layers of selective": (
        (SELECTIVE, "training.recompute_layers=2"),
        ("recompute_layers 2", "recompute selective", "set training.recompute=full"),
    ),
    "modules of full": (
        ("training.recompute=full", 'training.recompute_modules=["moe"]'),
        ("recompute_modules ['moe']", "recompute full", "set training.recompute=selective"),
    ),
    "layers that do not divide": (
        ("training.recompute=full", "training.recompute_layers=3", "model.num_layers=4", "parallel.pipeline=1"),
        ("recompute_layers 3", "recompute_method uniform", "4 layers", "divides them"),
    ),
    "more layers than a stage has": (
        (*BLOCK, "training.recompute_layers=5", "model.num_layers=4"),
        ("recompute_layers 5", "recompute_method block", "is at most that"),
    ),
    "no module": (
        (SELECTIVE, "training.recompute_modules=[]"),
        ("recompute_modules []", "set training.recompute=none"),
    ),
    "a module twice": (
        (SELECTIVE, 'training.recompute_modules=["moe", "moe"]'),
        ("['moe', 'moe']", "name each module once"),
    ),
    "the activation of fused experts": (
        (SELECTIVE, 'training.recompute_modules=["moe_act"]', "kernels.experts=fused"),
        ("moe_act", "kernels.experts fused", "leave moe_act out"),
    ),
    "the activation of sequential experts": (
        (SELECTIVE, 'training.recompute_modules=["moe_act"]', "kernels.experts=sequential"),
        ("moe_act", "kernels.experts sequential", "kernels.experts=grouped"),
    ),
    "the activation with all else": (
        (SELECTIVE, 'training.recompute_modules=["moe_act", "moe"]'),
        ("moe_act with moe", "leave moe_act out"),
    ),
    "Transformer Engine's attention": (
        (SELECTIVE, "kernels.attention=te", "model.attention_logit_cap=0.0"),
        ("core_attn", "kernels.attention te", "set kernels.attention=torch"),
    ),
    "a policy of nothing": (
        ("training.expert_drop_policy=position",),
        ("expert_drop_policy position", "expert_capacity_factor 0", "leave expert_drop_policy out"),
    ),
    "padding to nothing": (("training.pad_to_capacity=true",), ("pad_to_capacity True", "expert_capacity_factor 0")),
    "more capacity than tokens": (
        (MEGATRONS_DISPATCH, "training.expert_capacity_factor=4.1"),
        ("expert_capacity_factor 4.1", "of the 32 tokens", "at most 4", "or 0"),
    ),
    "capacity of merged dispatch": (
        ("kernels.dispatch=merged", "training.expert_capacity_factor=1.0"),
        ("kernels.dispatch merged", "expert_capacity_factor 1", "set kernels.dispatch=megatron"),
    ),
    "capacity of Transformer Engine's dispatch": (
        ("kernels.dispatch=te", "training.expert_capacity_factor=1.0"),
        ("kernels.dispatch te", "expert_capacity_factor 1", "set kernels.dispatch=megatron"),
    ),
    "gathering without reduction": (
        ("kernels.param_gather=overlapped", "kernels.gradient_reduction=at_end"),
        ("param_gather overlapped", "gradient_reduction at_end", "set kernels.gradient_reduction=overlapped"),
    ),
    "gathering half of the weights": (
        (*OVERLAPPED, *BF16_GRADIENTS),
        ("param_gather overlapped", "reuse_fp32_parameters true", "set kernels.param_gather=at_end"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_with_both_choices_and_the_remedy(case: str) -> None:
    changes, told = REFUSED[case]
    with pytest.raises(RecipeError) as refusal:
        load_recipe("grok1-nano", [*ONE_RANK, "training.sequence_length=32", *changes])
    message = str(refusal.value)
    assert "\n" not in message
    assert all(part in message for part in told), message


@pytest.mark.parametrize(
    "changes",
    [
        (SELECTIVE, 'training.recompute_modules=["core_attn", "layernorm", "moe"]'),
        (SELECTIVE, 'training.recompute_modules=["moe_act"]', "kernels.experts=grouped", "training.dtype=bf16"),
        (*BLOCK, "training.recompute_layers=1"),
        (MEGATRONS_DISPATCH, "training.expert_capacity_factor=4.0", "training.pad_to_capacity=true"),
        ("training.routing=random", "model.z_loss_coefficient=0.001"),
        ("training.routing=random", "parallel.context=2", "parallel.world_size=2"),
        OVERLAPPED,
    ],
)
def test_what_fits_is_accepted(changes: tuple[str, ...]) -> None:
    load_recipe("grok1-nano", [*ONE_RANK, "model.activation=swiglu", *changes])


def test_the_capacity_is_an_experts_share_of_what_one_rank_routes_at_once() -> None:
    """64 tokens a sequence, two sequences, two tensor ranks: 64 tokens, 128 pairs; of 8 experts 16 each, times 1.3."""

    def capacity(*changes: str) -> int | None:
        sizes = [
            "training.sequence_length=64",
            "training.micro_batch=2",
            "parallel.tensor=2",
            "parallel.expert_tensor=2",
        ]
        world = ["parallel.world_size=2", "parallel.pipeline=1", "parallel.expert=1", MEGATRONS_DISPATCH]
        recipe = load_recipe("grok1-nano", [*sizes, *world, *changes])
        return expert_capacity(recipe.model, recipe.parallel, recipe.training)

    assert capacity("training.expert_capacity_factor=1.3") == 21  # 20.8
    assert capacity() is None
