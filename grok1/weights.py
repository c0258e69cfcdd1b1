"""Which part of which whole weight each local parameter holds, and initial values that no layout changes.

A weight is named and cut as megatron cuts it, so that its values depend on (seed, name, row) alone: sixteen
ranks and one rank start from the same model. Rows are drawn in blocks, so no rank ever holds a whole expert.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grok1.config import Recipe
from grok1.parallel import Ranks

_ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class Part:
    """Rows [row, row + rows) and columns [column, column + columns) of the whole matrix `name`, `width` wide."""

    name: str
    row: int
    rows: int
    column: int
    columns: int
    width: int


@dataclass(frozen=True)
class LocalWeight:
    """A local parameter and the parts it consists of, stacked by rows; no parts means a norm, whose start is 1."""

    parameter: torch.nn.Parameter
    parts: tuple[Part, ...]


def local_weights(model: torch.nn.Module, recipe: Recipe, ranks: Ranks) -> Iterator[LocalWeight]:
    """Every parameter of this rank's part of the model, with where it lies in the whole."""
    layers_per_stage = recipe.model.num_layers // recipe.parallel.pipeline
    experts_per_rank = recipe.model.num_experts // recipe.parallel.expert
    for local_name, parameter in model.named_parameters():
        name = local_name.removeprefix("module.").removeprefix("module.")
        name = _shifted(name, r"decoder\.layers\.(\d+)\.", layers_per_stage * ranks.pipeline)
        name = _shifted(name, r"local_experts\.(\d+)\.", experts_per_rank * ranks.expert)
        yield LocalWeight(parameter, _parts(name, parameter, recipe, ranks))


def initialise(model: torch.nn.Module, recipe: Recipe, ranks: Ranks) -> None:
    """Fill every matrix from N(0, init_std), every norm with 1."""
    with torch.no_grad():
        for weight in local_weights(model, recipe, ranks):
            if not weight.parts:
                weight.parameter.fill_(1.0)
                continue
            start = 0
            for part in weight.parts:
                _fill(
                    weight.parameter[start : start + part.rows],
                    part,
                    recipe.training.seed,
                    recipe.model.init_std,
                )
                start += part.rows


def _shifted(name: str, pattern: str, offset: int) -> str:
    """`name` with the first number that `pattern` catches raised by `offset`: a local index becomes a global one."""
    match = re.search(pattern, name)
    if match is None:
        return name
    return f"{name[: match.start(1)]}{int(match.group(1)) + offset}{name[match.end(1) :]}"


def _parts(name: str, parameter: torch.nn.Parameter, recipe: Recipe, ranks: Ranks) -> tuple[Part, ...]:
    if parameter.dim() == 1:
        return ()
    rows, columns = parameter.shape
    if name.endswith("router.weight"):
        return (Part(name, 0, rows, 0, columns, columns),)
    if name.endswith("linear_fc1.weight"):  # this rank's gate rows above its value rows
        half = rows // 2
        row = half * ranks.expert_tensor
        return tuple(Part(f"{name}.{branch}", row, half, 0, columns, columns) for branch in ("gate", "value"))
    if name.endswith("linear_fc2.weight"):
        width = columns * recipe.parallel.expert_tensor
        return (Part(name, 0, rows, columns * ranks.expert_tensor, columns, width),)
    if name.endswith("linear_proj.weight"):
        return (Part(name, 0, rows, columns * ranks.tensor, columns, columns * recipe.parallel.tensor),)
    if name.endswith(("linear_qkv.weight", "word_embeddings.weight", "output_layer.weight")):
        if recipe.model.tie_embeddings:
            name = name.replace("output_layer.weight", "embedding.word_embeddings.weight")
        return (Part(name, rows * ranks.tensor, rows, 0, columns, columns),)
    raise AssertionError(f"no rule says how {name} is cut")


def _fill(target: Tensor, part: Part, seed: int, std: float) -> None:
    """Draw the part's rows; whole blocks of whole rows are drawn and cut, so that the cut does not matter."""
    first, last = part.row // _ROWS_PER_BLOCK, (part.row + part.rows - 1) // _ROWS_PER_BLOCK
    for block in range(first, last + 1):
        key = hashlib.sha256(f"{seed}/{part.name}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        values = torch.empty(_ROWS_PER_BLOCK, part.width).normal_(0.0, std, generator=generator)
        start, stop = (
            max(part.row, block * _ROWS_PER_BLOCK),
            min(part.row + part.rows, (block + 1) * _ROWS_PER_BLOCK),
        )
        offset = block * _ROWS_PER_BLOCK
        cut = values[start - offset : stop - offset, part.column : part.column + part.columns]
        target[start - part.row : stop - part.row].copy_(cut)
