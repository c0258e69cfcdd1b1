"""What a rank does: a few steps of one recipe with each choice of recompute, and what ran again."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from grok1.config.recipe import Recipe
from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.assembly import build_stepper
from tests.layouts.entries import RandomTokens

STEPS = 2
# the parts of a layer that may be computed again, by the end of their path
PARTS = (
    "input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm", "core_attention",
    "linear_qkv", "router", "experts",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What the steps computed, to the bit, and how often each part of the first layer ran in the last step."""

    figures: list[tuple[float, ...]]
    weights: str
    calls: dict[str, int]


def train_each(recipes: list[Recipe], where: Rendezvous, _emit: Any) -> list[Trained]:
    """One after the other, on one rank."""
    return [_train(recipe, replace(where, url=f"{where.url}-{place}")) for place, recipe in enumerate(recipes)]


def _train(recipe: Recipe, where: Rendezvous) -> Trained:
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        stepper = build_stepper(recipe, ranks, RandomTokens(recipe, ranks))
        calls: Counter[str] = Counter()
        for name, module in stepper.model.named_modules():
            if ".layers.0." in name and name.endswith(PARTS):
                module.register_forward_hook(functools.partial(_count, calls, name.rpartition(".")[2]))
        figures: list[tuple[float, ...]] = []
        for step in range(STEPS):
            calls.clear()
            found = stepper.run(step).metrics
            figures.append((found.loss, found.aux_loss, found.z_loss or 0.0, found.grad_norm))
        digest = hashlib.sha256()
        for weight in stepper.model.parameters():
            digest.update(weight.detach().view(torch.uint8).numpy().tobytes())
        return Trained(figures, digest.hexdigest(), dict(calls))


def _count(calls: Counter[str], part: str, *_: object) -> None:
    calls[part] += 1
