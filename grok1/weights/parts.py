"""Which part of which whole weight each local parameter holds; initial values and published weights in any layout.

A weight is named and cut as megatron cuts it, so that its initial values depend on (seed, name, row) alone:
sixteen ranks and one rank start from the same model. Rows are drawn in blocks, so no rank ever holds a whole
expert. `slabs` says the same in the published names, for weights that come from elsewhere or go there.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Model, Recipe
from grok1.distributed.groups import Ranks
from grok1.weights.names import published_name, published_shapes

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
    """A local weight and the parts it consists of, stacked by rows; no parts means a norm, whose start is 1.

    `matrix` gives the weight's rows as a view of the parameter, or of a tensor shaped like it: all of it, but for
    grouped experts, which megatron keeps in one parameter, transposed. Of the ranks that hold the same weight, all but
    one hold a `is_copy`.
    """

    name: str
    parameter: torch.nn.Parameter
    matrix: Callable[[Tensor], Tensor]
    parts: tuple[Part, ...]
    is_copy: bool


@dataclass(frozen=True)
class Slab:
    """Rows (and of a matrix, columns) of one published weight, and the local rows that hold them."""

    key: str
    local_row: int
    row: int
    rows: int
    column: int
    columns: int  # 0: a vector


def local_weights(model: torch.nn.Module, recipe: Recipe, ranks: Ranks) -> Iterator[LocalWeight]:
    """Every weight of this rank's part of the model, with where it lies in the whole."""
    layers_per_stage = recipe.model.num_layers // recipe.parallel.pipeline
    experts_per_rank = recipe.model.num_experts // recipe.parallel.expert
    for local_name, parameter in model.named_parameters():
        stripped = local_name.removeprefix("module.").removeprefix("module.")
        for name, matrix in _matrices(stripped, experts_per_rank):
            name = _shifted(name, r"decoder\.layers\.(\d+)\.", layers_per_stage * ranks.pipeline)
            name = _shifted(name, r"local_experts\.(\d+)\.", experts_per_rank * ranks.expert)
            parts = _parts(name, matrix(parameter), recipe, ranks)
            yield LocalWeight(name, parameter, matrix, parts, _is_copy(name, bool(parts), recipe, ranks))


def _matrices(name: str, num_experts: int) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """(name, view) of each weight in a parameter; grouped experts under the names of sequential ones."""
    grouped = re.fullmatch(r"(.+\.experts)\.weight([12])", name)
    if grouped is None:
        yield name, lambda whole: whole
        return
    layer, which = grouped.groups()
    for expert in range(num_experts):
        view = functools.partial(_expert_matrix, which=which, num_experts=num_experts, expert=expert)
        yield f"{layer}.local_experts.{expert}.linear_fc{which}.weight", view


def _expert_matrix(whole: Tensor, which: str, num_experts: int, expert: int) -> Tensor:
    """One expert's rows, as megatron's GroupedMLP.forward reads them but transposed: fc1 [2F, H] or fc2 [H, F]."""
    hidden = whole.shape[0 if which == "1" else 1]
    shape = (num_experts, hidden, -1) if which == "1" else (num_experts, -1, hidden)
    return whole.view(shape)[expert].t()


def _is_copy(name: str, is_matrix: bool, recipe: Recipe, ranks: Ranks) -> bool:
    if ".local_experts." in name:
        return ranks.expert_data > 0
    if name == "output_layer.weight" and recipe.model.tie_embeddings and not ranks.is_first_stage:
        return True
    is_split = is_matrix and not name.endswith("router.weight")
    return ranks.data > 0 or (ranks.tensor > 0 and not is_split)


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
                    weight.matrix(weight.parameter)[start : start + part.rows],
                    part,
                    recipe.training.seed,
                    recipe.model.init_std,
                )
                start += part.rows


def slabs(weight: LocalWeight, model: Model) -> Iterator[Slab]:
    """What a local parameter holds, in the published weights' names and orientation."""
    if not weight.parts:
        yield Slab(published_name(weight.name), 0, 0, weight.parameter.shape[0], 0, 0)
    local = 0
    for part in weight.parts:
        for name, offset, row, rows in _runs(part, model):
            yield Slab(published_name(name), local + offset, row, rows, part.column, part.columns)
        local += part.rows


def _runs(part: Part, model: Model) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset in the part, row, rows); query, key and value rows lie interleaved by group in megatron's."""
    if not part.name.endswith("linear_qkv.weight"):
        yield part.name, 0, part.row, part.rows
        return
    size = model.head_dim
    queries = model.num_attention_heads // model.num_query_groups * size
    branches = (("query", 0, queries), ("key", queries, size), ("value", queries + size, size))
    for group in range(model.num_query_groups):
        for branch, start, rows in branches:
            first = group * (queries + 2 * size) + start
            low, high = max(first, part.row), min(first + rows, part.row + part.rows)
            if low < high:
                yield f"{part.name}.{branch}", low - part.row, group * rows + low - first, high - low


Read = Callable[[Slab], Tensor]


def load_published(model: torch.nn.Module, recipe: Recipe, ranks: Ranks, read: Read) -> None:
    """Fill this rank's parameters, a slab at a time; `read` gives [rows, columns], or [rows] of a vector."""
    with torch.no_grad():
        for weight in local_weights(model, recipe, ranks):
            for slab in slabs(weight, recipe.model):
                rows = weight.matrix(weight.parameter)[slab.local_row : slab.local_row + slab.rows]
                rows.copy_(read(slab))


def gather_published(
    model: torch.nn.Module, recipe: Recipe, ranks: Ranks, value: Callable[[torch.nn.Parameter], Tensor]
) -> dict[str, Tensor]:
    """`value` of every parameter, whole and under published names, on rank 0 in float32; empty on the others.

    For comparisons: rank 0 then holds as much as the whole model.
    """
    mine = [
        (slab, whole[slab.local_row : slab.local_row + slab.rows].float().cpu().clone())
        for weight in local_weights(model, recipe, ranks)
        if not weight.is_copy
        for whole in [weight.matrix(value(weight.parameter).detach())]
        for slab in slabs(weight, recipe.model)
    ]
    gathered: list[list[tuple[Slab, Tensor]]] | None = [[]] * ranks.world_size if ranks.rank == 0 else None
    dist.gather_object(mine, gathered)
    if gathered is None:
        return {}
    # what no rank sends stays NaN, and is seen
    wholes = {key: torch.full(shape, torch.nan) for key, shape in published_shapes(recipe.model).items()}
    for slab, values in (item for rank in gathered for item in rank):
        rows = wholes[slab.key][slab.row : slab.row + slab.rows]
        (rows[:, slab.column : slab.column + slab.columns] if slab.columns else rows).copy_(values)
    return wholes


def _shifted(name: str, pattern: str, offset: int) -> str:
    """`name` with the first number that `pattern` catches raised by `offset`: a local index becomes a global one."""
    match = re.search(pattern, name)
    if match is None:
        return name
    return f"{name[: match.start(1)]}{int(match.group(1)) + offset}{name[match.end(1) :]}"


def _parts(name: str, matrix: Tensor, recipe: Recipe, ranks: Ranks) -> tuple[Part, ...]:
    if matrix.dim() == 1:
        return ()
    rows, columns = matrix.shape
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
