"""All layouts that a recipe may have on so many ranks, by the recipe's own rules computed for all at once. No torch.

The rules are those of grok1.config (sections, recipe, stages, levers), which refuse one recipe at a time with a reason;
a test holds the two to each other. A layout is kept where every rule that one of its columns decides holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Ints, Layouts, Recompute, every_stage, layouts_of
from grok1.config.recipe import Recipe

AXES = (
    "tensor",
    "context",
    "context_exchange",
    "pipeline",
    "virtual_pipeline",
    "expert",
    "expert_tensor",
    "micro_batch",
    "dispatcher",
    "order",
    "recompute",
)
# what a job would try, from what computes least again; a recipe's own comes first
RECOMPUTES = (
    Recompute(),
    Recompute("selective", modules=("core_attn",)),
    Recompute("selective", modules=("layernorm", "moe")),
    Recompute("full"),
)
_FARTHEST = 4096  # worlds that are looked at for one that has a layout
Flags = npt.NDArray[np.bool_]


def legal_layouts(recipe: Recipe, world_size: int, axes: Iterable[str] = AXES) -> Layouts:
    """Every layout of the recipe on so many ranks in which these axes vary; the others stay as they are.

    Raises:
        ValueError: an axis has another name, or there is no such layout.
    """
    varied = set(axes)
    unknown = varied - set(AXES)
    if unknown:
        raise ValueError(f"--axes {', '.join(sorted(unknown))}: a layout has {', '.join(AXES)}")
    found = _found(recipe, world_size, varied)
    if not len(found):
        raise ValueError(f"{recipe.name} has no layout on {world_size} ranks; {_nearest(recipe, world_size, varied)}")
    return found


def _nearest(recipe: Recipe, world_size: int, varied: set[str]) -> str:
    """The nearest world that has one, in words."""
    for away in range(1, _FARTHEST):
        for other in (world_size - away, world_size + away):
            if other > 0 and len(_found(recipe, other, varied)):
                return f"the nearest number that has one is {other}"
    return "change model or batch, or let more axes vary with --axes"


def _found(recipe: Recipe, world_size: int, varied: set[str]) -> Layouts:
    """Layouts that keep every rule; columns grow one by one, and rows that break a rule go as soon as they can."""
    own = layouts_of(recipe)
    recomputes = tuple(dict.fromkeys((*own.recomputes, *(RECOMPUTES if "recompute" in varied else ()))))
    rows = replace(own, recomputes=recomputes, world_size=np.array([world_size], np.int64))
    for name, rule in _RULES.items():
        values = _values(recipe, world_size, name, recomputes) if name in varied else None
        if values is not None:
            rows = _crossed(rows, name, values)
        rows = rows.take(rule(rows))
    return rows


def _crossed(rows: Layouts, name: str, values: Ints) -> Layouts:
    """Each row with each value of a column."""
    repeated = rows.take(np.repeat(np.arange(len(rows)), len(values)))
    column: dict[str, Any] = {name: np.tile(values, len(rows))}
    return replace(repeated, **column)


def _values(recipe: Recipe, world_size: int, name: str, recomputes: tuple[Recompute, ...]) -> Ints:
    """What a column may hold at all."""
    model = recipe.model
    choices = {
        "context_exchange": len(EXCHANGES),
        "dispatcher": len(DISPATCHERS),
        "order": len(ORDERS),
        "recompute": len(recomputes),
    }
    if name in choices:
        return np.arange(choices[name], dtype=np.int64)
    of = {
        "tensor": np.gcd(model.num_query_groups, world_size),
        "context": world_size,
        "pipeline": world_size,
        "virtual_pipeline": 0,
        "expert": np.gcd(model.num_experts, world_size),
        "expert_tensor": np.gcd(model.ffn_hidden_size, world_size),
        "micro_batch": recipe.training.global_batch,
    }[name]
    if name == "virtual_pipeline":
        return np.arange(1, model.num_layers + 1, dtype=np.int64)
    candidates = np.arange(1, min(int(of), 1 << 20) + 1, dtype=np.int64)
    candidates = candidates[of % candidates == 0]
    return candidates[candidates <= model.num_layers] if name == "pipeline" else candidates


# ---- the rules, each where the last column that it asks for is known -------------------------------------


def _tensor(rows: Layouts) -> Flags:
    model, training, tensor = rows.recipe.model, rows.recipe.training, rows.tensor
    fits = _divide(tensor, model.num_attention_heads, model.num_query_groups, model.vocab_size)
    if rows.recipe.parallel.sequence_parallel:
        fits &= training.sequence_length % tensor == 0
    else:
        fits &= tensor == 1
    return fits & ((tensor > 1) | (rows.recipe.kernels.linear != "mc2"))


def _context(rows: Layouts) -> Flags:
    length, context = rows.recipe.training.sequence_length, rows.context
    cut = (length % (2 * context) == 0) & (length % (rows.tensor * context) == 0)
    return (context == 1) | (cut & (rows.recipe.kernels.attention != "te"))


def _context_exchange(rows: Layouts) -> Flags:
    heads = rows.recipe.model.num_query_groups // rows.tensor
    spreads = (rows.context == 1) | ~rows.column_of("a2a", "context_exchange") | (heads % rows.context == 0)
    # without a context both are one layout: the recipe's own
    return spreads & ((rows.context > 1) | (rows.context_exchange == layouts_of(rows.recipe).context_exchange[0]))


def _pipeline(rows: Layouts) -> Flags:
    parallel, layers = rows.recipe.parallel, rows.recipe.model.num_layers
    first, last = parallel.first_stage_layers, parallel.last_stage_layers
    others, rest = rows.pipeline - bool(first) - bool(last), layers - first - last
    spreads = (rest >= others) & np.where(others > 0, rest % np.maximum(1, others) == 0, rest == 0)
    spreads &= (rows.pipeline > 1) | (not first and not last)
    return spreads & (rows.world_size % (rows.tensor * rows.context * rows.pipeline) == 0)


def _virtual_pipeline(rows: Layouts) -> Flags:
    places = every_stage(rows)
    broken = np.zeros(len(rows), np.int64)
    np.add.at(broken, places.layout, places.layers % places.of.virtual_pipeline > 0)
    return (rows.virtual_pipeline == 1) | ((rows.pipeline > 1) & (broken == 0))


def _expert(rows: Layouts) -> Flags:
    return _divide(rows.expert, rows.recipe.model.num_experts)


def _expert_tensor(rows: Layouts) -> Flags:
    fits = _divide(rows.expert_tensor, rows.recipe.model.ffn_hidden_size)
    fits &= rows.world_size % (rows.expert_tensor * rows.expert * rows.pipeline) == 0
    return fits & ~((rows.tensor > 1) & (rows.expert_tensor == 1) & (rows.expert == 1))


def _micro_batch(rows: Layouts) -> Flags:
    fits = rows.recipe.training.global_batch % (rows.micro_batch * rows.data) == 0
    return fits & ((rows.virtual_pipeline == 1) | (rows.micro_batches % rows.pipeline == 0)) & _has_capacity(rows)


def _has_capacity(rows: Layouts) -> Flags:
    """An expert's capacity is no more than the tokens that are there."""
    model, training = rows.recipe.model, rows.recipe.training
    if not training.expert_capacity_factor:
        return np.ones(len(rows), np.bool_)
    tokens = rows.tokens // rows.tensor
    pairs = tokens * model.experts_per_token
    return np.asarray(np.ceil(pairs / model.num_experts * training.expert_capacity_factor) <= tokens)


def _dispatcher(rows: Layouts) -> Flags:
    merged = rows.recipe.kernels.dispatch == "merged"
    return rows.column_of("alltoall", "dispatcher") | (not merged)


def _order(rows: Layouts) -> Flags:
    inside = rows.column_of("tp-cp-ep-pp-dp", "order") & (rows.pipeline > 1)
    return ~inside | (rows.data == rows.expert_data)


def _recompute(rows: Layouts) -> Flags:
    """A recipe's own number of layers divides a chunk's, or is at most that."""
    layers = _fewest_layers(rows)
    fits = np.ones(len(rows), np.bool_)
    for number, each in enumerate(rows.recomputes):
        if each.kind == "full":
            whole = (each.layers <= layers) & ((each.method == "block") | _divided_by(rows, each.layers))
            fits &= (rows.recompute != number) | whole
    is_te = rows.recipe.kernels.attention == "te"
    refused = [is_te and "core_attn" in each.modules for each in rows.recomputes]
    return fits & ~np.array(refused)[rows.recompute]


def _fewest_layers(rows: Layouts) -> Ints:
    places = every_stage(rows)
    fewest = np.full(len(rows), rows.recipe.model.num_layers, np.int64)
    np.minimum.at(fewest, places.layout, places.layers // places.of.virtual_pipeline)
    return fewest


def _divided_by(rows: Layouts, number: int) -> Flags:
    """Whether the layers of every chunk are a multiple."""
    places = every_stage(rows)
    broken = np.zeros(len(rows), np.int64)
    np.add.at(broken, places.layout, places.layers // places.of.virtual_pipeline % number > 0)
    return broken == 0


def _divide(column: Ints, *sizes: int) -> Flags:
    fits = np.ones(len(column), np.bool_)
    for size in sizes:
        fits &= size % column == 0
    return fits


_RULES: dict[str, Callable[[Layouts], Flags]] = {
    "tensor": _tensor,
    "context": _context,
    "context_exchange": _context_exchange,
    "pipeline": _pipeline,
    "virtual_pipeline": _virtual_pipeline,
    "expert": _expert,
    "expert_tensor": _expert_tensor,
    "micro_batch": _micro_batch,
    "dispatcher": _dispatcher,
    "order": _order,
    "recompute": _recompute,
}
