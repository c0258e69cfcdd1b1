"""Which shards of which whole weights each rank holds; initial values and published weights in any layout.

Shards are those that megatron cuts, under the whole weight's name. Initial values depend on (seed, name, row) alone, so
sixteen ranks and one rank start from the same model. Rows are drawn in blocks, so no rank ever holds a whole expert.
`published_slices` gives the same shards in the published names, for weights that come from elsewhere or go there.
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

from grok1.config.recipe import Recipe
from grok1.config.sections import Model
from grok1.config.stages import chunk_layers
from grok1.distributed.groups import Ranks
from grok1.weights.chunks import Chunks, chunks_of
from grok1.weights.names import published_name, published_shapes

_ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class MatrixShard:
    """Rows [row, row + rows) and columns [column, column + columns) of the whole matrix `name`, `width` wide."""

    name: str
    row: int
    rows: int
    column: int
    columns: int
    width: int


@dataclass(frozen=True)
class LocalWeight:
    """A local weight and the shards it consists of, stacked by rows. A norm has no shards and starts at 1.

    `matrix` gives the weight's rows as a view of the parameter, or of a tensor of the same shape. That is all of it,
    except for grouped experts: megatron keeps all of a rank's experts in one parameter, transposed.
    """

    name: str
    parameter: torch.nn.Parameter
    matrix: Callable[[Tensor], Tensor]
    shards: tuple[MatrixShard, ...]
    is_copy: bool  # True on all but one of the ranks that hold this weight


@dataclass(frozen=True)
class PublishedSlice:
    """Rows of one published weight (of a matrix, some of their columns), and the local rows that hold them."""

    key: str
    local_row: int
    row: int
    rows: int
    column: int
    columns: int  # 0: a vector


def local_weights(model: torch.nn.Module, recipe: Recipe, ranks: Ranks) -> Iterator[LocalWeight]:
    """Every weight on this rank, with its place in the whole model."""
    for number, chunk in enumerate(chunks_of(model)):
        yield from _chunk_weights(chunk, recipe, ranks, number)


def _chunk_weights(chunk: torch.nn.Module, recipe: Recipe, ranks: Ranks, number: int) -> Iterator[LocalWeight]:
    first_layer = chunk_layers(recipe.model.num_layers, recipe.parallel, ranks.pipeline, number).start
    experts_per_rank = recipe.model.num_experts // recipe.parallel.expert
    for local_name, parameter in chunk.named_parameters():
        stripped = local_name.removeprefix("module.").removeprefix("module.")
        for name, matrix in _matrices(stripped, experts_per_rank):
            name = _with_global_index(name, r"decoder\.layers\.(\d+)\.", first_layer)
            name = _with_global_index(name, r"local_experts\.(\d+)\.", experts_per_rank * ranks.expert)
            shards = _matrix_shards(name, matrix(parameter), recipe, ranks)
            yield LocalWeight(name, parameter, matrix, shards, _is_copy(name, bool(shards), recipe, ranks))


def _matrices(name: str, num_experts: int) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """(name, view) of each weight in a parameter; grouped experts under the names of sequential ones."""
    engine = re.fullmatch(r"(.+\.experts)\.(linear_fc[12])\.weight(\d+)", name)
    if engine is not None:  # Transformer Engine's: a parameter each, not transposed
        layer, matrix_name, index = engine.groups()
        yield f"{layer}.local_experts.{index}.{matrix_name}.weight", lambda whole: whole
        return
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
    return ranks.data > 0 or ranks.context > 0 or (ranks.tensor > 0 and not is_split)


def initialise(chunk: torch.nn.Module, recipe: Recipe, ranks: Ranks, number: int = 0) -> None:
    """Fill every matrix of a chunk from N(0, init_std), every norm with 1."""
    with torch.no_grad():
        for weight in _chunk_weights(chunk, recipe, ranks, number):
            if not weight.shards:
                weight.parameter.fill_(1.0)
                continue
            start = 0
            for shard in weight.shards:
                rows = weight.matrix(weight.parameter)[start : start + shard.rows]
                _draw(rows, shard, recipe.training.seed, recipe.model.init_std)
                start += shard.rows


def published_slices(weight: LocalWeight, model: Model) -> Iterator[PublishedSlice]:
    """What a local weight holds, in the names and the orientation of the published weights."""
    if not weight.shards:
        yield PublishedSlice(published_name(weight.name), 0, 0, weight.parameter.shape[0], 0, 0)
    local = 0
    for shard in weight.shards:
        for name, offset, row, rows in _published_rows(shard, model):
            yield PublishedSlice(published_name(name), local + offset, row, rows, shard.column, shard.columns)
        local += shard.rows


def _published_rows(shard: MatrixShard, model: Model) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset in the shard, row, rows) of each run of rows; megatron interleaves query, key, value by group."""
    if not shard.name.endswith("linear_qkv.weight"):
        yield shard.name, 0, shard.row, shard.rows
        return
    size = model.head_dim
    queries = model.num_attention_heads // model.num_query_groups * size
    branches = (("query", 0, queries), ("key", queries, size), ("value", queries + size, size))
    for group in range(model.num_query_groups):
        for branch, start, rows in branches:
            first = group * (queries + 2 * size) + start
            low, high = max(first, shard.row), min(first + rows, shard.row + shard.rows)
            if low < high:
                yield f"{shard.name}.{branch}", low - shard.row, group * rows + low - first, high - low


ReadSlice = Callable[[PublishedSlice], Tensor]


def load_published(model: torch.nn.Module, recipe: Recipe, ranks: Ranks, read: ReadSlice) -> None:
    """Fill this rank's parameters, a piece at a time; `read` gives [rows, columns], or [rows] of a vector."""
    with torch.no_grad():
        for weight in local_weights(model, recipe, ranks):
            for piece in published_slices(weight, recipe.model):
                rows = weight.matrix(weight.parameter)[piece.local_row : piece.local_row + piece.rows]
                rows.copy_(read(piece))


def gather_weights(model: Chunks) -> None:
    """Make this rank's weights whole after a step that leaves it to the next step's forward."""
    for chunk in model:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def gather_published(
    model: torch.nn.Module, recipe: Recipe, ranks: Ranks, value: Callable[[torch.nn.Parameter], Tensor]
) -> dict[str, Tensor]:
    """`value` of every parameter, whole and under published names, on rank 0 in float32; empty on the others.

    For comparisons of small models only: rank 0 then holds all of it.
    """
    mine = [
        (piece, whole[piece.local_row : piece.local_row + piece.rows].float().cpu().clone())
        for weight in local_weights(model, recipe, ranks)
        if not weight.is_copy
        for whole in [weight.matrix(value(weight.parameter).detach())]
        for piece in published_slices(weight, recipe.model)
    ]
    gathered: list[list[tuple[PublishedSlice, Tensor]]] | None = [[]] * ranks.world_size if ranks.rank == 0 else None
    dist.gather_object(mine, gathered)
    if gathered is None:
        return {}
    # what no rank sends stays NaN, which a comparison shows
    wholes = {key: torch.full(shape, torch.nan) for key, shape in published_shapes(recipe.model).items()}
    for piece, values in (item for rank in gathered for item in rank):
        rows = wholes[piece.key][piece.row : piece.row + piece.rows]
        (rows[:, piece.column : piece.column + piece.columns] if piece.columns else rows).copy_(values)
    return wholes


def _with_global_index(name: str, pattern: str, offset: int) -> str:
    """`name` with the number that `pattern` captures raised by `offset`: a local index becomes a global one."""
    match = re.search(pattern, name)
    if match is None:
        return name
    return f"{name[: match.start(1)]}{int(match.group(1)) + offset}{name[match.end(1) :]}"


def _matrix_shards(name: str, matrix: Tensor, recipe: Recipe, ranks: Ranks) -> tuple[MatrixShard, ...]:
    if matrix.dim() == 1:
        return ()
    rows, columns = matrix.shape
    if name.endswith("router.weight"):
        return (MatrixShard(name, 0, rows, 0, columns, columns),)
    if name.endswith("linear_fc1.weight"):  # this rank's gate rows above its value rows
        half = rows // 2
        row = half * ranks.expert_tensor
        return tuple(MatrixShard(f"{name}.{branch}", row, half, 0, columns, columns) for branch in ("gate", "value"))
    if name.endswith("linear_fc2.weight"):
        width = columns * recipe.parallel.expert_tensor
        return (MatrixShard(name, 0, rows, columns * ranks.expert_tensor, columns, width),)
    if name.endswith("linear_proj.weight"):
        return (MatrixShard(name, 0, rows, columns * ranks.tensor, columns, columns * recipe.parallel.tensor),)
    if name.endswith(("linear_qkv.weight", "word_embeddings.weight", "output_layer.weight")):
        if recipe.model.tie_embeddings:
            name = name.replace("output_layer.weight", "embedding.word_embeddings.weight")
        return (MatrixShard(name, rows * ranks.tensor, rows, 0, columns, columns),)
    raise AssertionError(f"no rule says how {name} is sharded")


def _draw(target: Tensor, shard: MatrixShard, seed: int, std: float) -> None:
    """Draw the shard's rows. Whole blocks of whole rows are drawn first, so that no cut changes a value."""
    first, last = shard.row // _ROWS_PER_BLOCK, (shard.row + shard.rows - 1) // _ROWS_PER_BLOCK
    for block in range(first, last + 1):
        key = hashlib.sha256(f"{seed}/{shard.name}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        values = torch.empty(_ROWS_PER_BLOCK, shard.width).normal_(0.0, std, generator=generator)
        start, stop = (
            max(shard.row, block * _ROWS_PER_BLOCK),
            min(shard.row + shard.rows, (block + 1) * _ROWS_PER_BLOCK),
        )
        offset = block * _ROWS_PER_BLOCK
        cut = values[start - offset : stop - offset, shard.column : shard.column + shard.columns]
        target[start - shard.row : stop - shard.row].copy_(cut)
