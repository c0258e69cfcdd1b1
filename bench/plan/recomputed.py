"""Layers whose forward runs again in the backward, part by part, as `training.recompute` says. No torch."""

from __future__ import annotations

import numpy as np

from bench.plan.layouts import Ints, Places

# components, as the ledger names them, that run again with each of training.recompute_modules
COMPONENTS = {
    "core_attn": ("attention core",),
    "layernorm": ("norms",),
    "moe": ("router", "dispatch", "experts"),
    "moe_act": (),  # the activation alone, within the experts
}


def layers_again(places: Places, component: str) -> Ints:
    """Layers of a place that compute the component again: all, the first of each chunk, or none."""
    of, layers = places.of, places.layers
    found = np.zeros_like(layers)
    for number, choice in enumerate(of.recomputes):
        if choice.kind == "full":
            is_block = choice.method == "block"
            again = np.minimum(layers, choice.layers * of.virtual_pipeline) if is_block else layers
        else:
            again = layers * any(component in COMPONENTS[module] for module in choice.modules)
        found = np.where((of.recompute == number) & (choice.kind != "none"), again, found)
    return np.asarray(found)
