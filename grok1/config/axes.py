"""The axes that a job is split along: their names in a recipe, and the field's letters for them. No torch."""

from __future__ import annotations

from grok1.config.sections import Parallel

AXES = ("world_size", "tensor", "context", "pipeline", "expert", "expert_tensor")  # keys of `parallel` that count ranks

_LETTERS = {
    "tensor": "TP",
    "context": "CP",
    "pipeline": "PP",
    "virtual_pipeline": "VPP",
    "expert": "EP",
    "expert_tensor": "ETP",
    "data": "DP",
}
SHOWN_ABOVE_ONE = ("context", "virtual_pipeline")  # what most layouts do not have


def axes_of(parallel: Parallel, left_out: str = "") -> dict[str, int]:
    """Ranks and every axis by name, as results are written."""
    sizes = {axis: int(getattr(parallel, axis)) for axis in ("world_size", *_LETTERS) if axis != left_out}
    return {axis: size for axis, size in sizes.items() if size > 1 or axis not in SHOWN_ABOVE_ONE}


def axes_text(parallel: Parallel, left_out: str = "") -> str:
    """As in `TP2 CP2 PP2 EP2 ETP2 DP2`."""
    return " ".join(f"{_LETTERS[axis]}{size}" for axis, size in axes_of(parallel, left_out).items() if axis in _LETTERS)
