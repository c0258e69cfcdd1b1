"""Recompute changes no bit of what is trained, and computes again what it says.

But for norms in fp32: their input's gradient is a sum of three, which is then added up in another order.
"""

from __future__ import annotations

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch
from tests.grok1.model.recompute_entries import Trained
from tests.limits import HANG_SECONDS

NORMS = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")
# what runs twice in a micro-batch
TWICE = {
    "none": (),
    "core_attn": ("core_attention",),
    "layernorm": NORMS,
    "moe": ("router", "experts"),
    "core_attn layernorm moe": ("core_attention", *NORMS, "router", "experts"),
    "uniform": ("core_attention", *NORMS, "router", "experts", "linear_qkv"),
    "block": ("core_attention", *NORMS, "router", "experts", "linear_qkv"),
}
MATHS = {
    "Ascend's in fp32": ("kernels.experts=sequential", "kernels.dispatch=megatron", "kernels.linear=megatron"),
    "xAI's in bf16, fused": (
        *("model.attention_logit_cap=30.0", "training.dtype=bf16", "kernels.experts=fused", "kernels.dispatch=merged"),
        *("kernels.linear=fused", "kernels.gradient_reduction=overlapped"),
    ),
    "drawn routes, z-loss, capacity": (
        *("training.routing=random", "model.z_loss_coefficient=0.1", "kernels.dispatch=megatron"),
        *("training.expert_capacity_factor=1.0", "training.pad_to_capacity=true"),
    ),
}
SMALL = ("training.sequence_length=32", "training.global_batch=2", "model.num_layers=2", "training.warmup_steps=0")


def recompute(choice: str) -> list[str]:
    if choice == "none":
        return []
    if choice in ("uniform", "block"):
        layers = "training.recompute_layers=" + ("2" if choice == "uniform" else "1")
        return ["training.recompute=full", f"training.recompute_method={choice}", layers]
    modules = ", ".join(f'"{module}"' for module in choice.split())
    return ["training.recompute=selective", f"training.recompute_modules=[{modules}]"]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("maths", MATHS)
def test_every_recompute_trains_the_same_bits_and_runs_what_it_says_twice(maths: str) -> None:
    recipes = [load_recipe("grok1-nano", [*ONE_RANK, *SMALL, *MATHS[maths], *recompute(choice)]) for choice in TWICE]
    entry = "tests.grok1.model.recompute_entries:train_each"
    found: list[Trained] = launch(recipes, recipes[0], "cpu", entry=entry, timeout_seconds=HANG_SECONDS)
    plain = found[0]
    micro_batches = recipes[0].num_micro_batches
    for choice, trained in zip(TWICE, found, strict=True):
        if "layernorm" in choice and recipes[0].training.dtype == "fp32":
            assert trained.figures == [pytest.approx(each, rel=1e-6) for each in plain.figures], choice
        else:
            assert (trained.figures, trained.weights) == (plain.figures, plain.weights), choice
        expected = {part: micro_batches * (2 if part in TWICE[choice] else 1) for part in plain.calls}
        assert trained.calls == expected, choice
    assert set(TWICE["uniform"]) <= set(plain.calls)
