"""One layer: the same weights and tokens on the device and on the CPU, forward and backward.

Initial weights depend on their names alone, and are made on the CPU, so both sides have the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.doctor.findings import Finding, failed, passed
from grok1.config.recipe import Recipe
from grok1.distributed.rendezvous import Rendezvous

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float32]

# relative error of a token's vector: what rounding makes of it, with room for another order of summing
TOLERANCE = {"fp32": 1e-4, "bf16": 4e-2}
# a rounded router sends a token elsewhere where two experts are nearly alike; then the whole token differs
TOKENS_THAT_MAY_DIFFER = {"fp32": 0.0, "bf16": 0.05}


@dataclass(frozen=True)
class LayerResult:
    """Output of the layer and gradient of its input, each [tokens, hidden]."""

    output: Array
    gradient: Array


def run_rank(recipe: Recipe, where: Rendezvous, _emit: Callable[[object], None]) -> LayerResult:
    """The first layer of the recipe's model on this rank's device, with fixed tokens."""
    import torch

    from grok1.distributed.groups import joined
    from grok1.model.model import build_model, unwrapped

    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        [model] = build_model(recipe, ranks)
        kept: dict[str, Tensor] = {}

        def keep(_layer: object, given: tuple[Any, ...], named: dict[str, Any], outcome: tuple[Any, ...]) -> None:
            hidden = given[0] if given else named["hidden_states"]
            hidden.register_hook(lambda gradient: kept.update(gradient=gradient))
            kept["output"] = outcome[0]

        unwrapped(model).decoder.layers[0].register_forward_hook(keep, with_kwargs=True)
        length = recipe.training.sequence_length
        positions = torch.arange(length).expand(1, -1)
        tokens = (positions * 7919 + 13) % recipe.model.vocab_size  # fixed, and all different
        here = torch.cuda.current_device()
        tokens, positions = tokens.to(here), positions.to(here)
        model(tokens, positions, None, labels=tokens).float().mean().backward()
        return LayerResult(_as_array(kept["output"]), _as_array(kept["gradient"]))


def _as_array(values: Tensor) -> Array:
    found: Array = values.detach().float().cpu().numpy()
    return found.reshape(-1, found.shape[-1])


# ---- verdicts ------------------------------------------------------------------------------------------


def judge(dtype: str, ours: LayerResult, expected: LayerResult) -> Finding:
    """Holds the worst token, but for those that the router may send elsewhere, against the tolerance."""
    check = f"layer {dtype}"
    errors = {name: _errors(getattr(ours, name), getattr(expected, name)) for name in ("output", "gradient")}
    keep = 1.0 - TOKENS_THAT_MAY_DIFFER[dtype]
    worst = {name: float(np.quantile(each, keep, method="higher")) for name, each in errors.items()}
    said = f"output within {worst['output']:.1e} of the CPU's, gradient within {worst['gradient']:.1e}"
    figures = {f"{name}_relative_error": value for name, value in worst.items()}
    if max(worst.values()) <= TOLERANCE[dtype]:
        return passed(check, said, figures)
    count = {name: int((each > TOLERANCE[dtype]).sum()) for name, each in errors.items()}
    said += f"; {TOLERANCE[dtype]:g} is allowed; {max(count.values())} of {len(errors['output'])} tokens are outside"
    remedy = (
        "a kernel of this device computes something else: set [kernels] to megatron's own one by one "
        "(--set kernels.experts=sequential, dispatch=megatron, ...) until it passes, and report the one that does not"
    )
    return failed(check, said, remedy, figures)


def _errors(ours: Array, expected: Array) -> npt.NDArray[np.float64]:
    """Relative error of each token's vector; infinite where ours is not finite, or there is a token too few."""
    if ours.shape != expected.shape:
        return np.full(len(expected), np.inf)
    difference = np.linalg.norm(ours.astype(np.float64) - expected, axis=1)
    # a token whose gradient vanishes has no scale of its own
    lengths = np.linalg.norm(expected.astype(np.float64), axis=1)
    scale = np.maximum(lengths, 0.01 * lengths.mean())
    errors = difference / np.where(scale > 0, scale, 1.0)
    return np.where(np.isfinite(errors), errors, np.inf)
