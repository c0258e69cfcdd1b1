"""Every layout that a recipe accepts on so many ranks, as columns. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Ints, Layouts, Recompute, layouts_of
from bench.plan.rules import MODULES, Columns, is_sound, layers_of_chunks, legal
from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe

SPLITS = ("tensor", "pipeline", "expert", "expert_tensor", "micro_batch")  # what every planner varies
EVERY_AXIS = (*SPLITS, "context", "virtual_pipeline", "dispatcher", "order", "recompute")
_MOST_RANKS = 1 << 16  # of parallel.world_size
_LOOKED_AROUND = 256  # world sizes to either side, where one has no layout


def legal_layouts(
    recipe: Recipe,
    world_size: int | None = None,
    axes: Sequence[str] = SPLITS,
    recomputes: Sequence[Recompute] | None = None,
) -> Layouts:
    """All layouts over these axes, by default of as many ranks as the recipe has; other axes are as the recipe's.

    `context` is with both its exchanges. Of layouts that are the same but by name there is one: without a context there
    is no exchange, without a pipeline or replicas no other order. Of full recompute there is each layer for itself, all
    of a chunk's at once, and a chunk's first layer alone; of selective, all sets of modules that do something.

    Args:
        recomputes: what the axis `recompute` offers in place of that.

    Raises:
        ValueError: no layout is legal on so many ranks, with the nearest world sizes that have one.
    """
    ranks = recipe.parallel.world_size if world_size is None else world_size
    if not 1 <= ranks <= _MOST_RANKS:
        raise ValueError(f"world size {ranks} is not between 1 and {_MOST_RANKS}; give the number of the job's ranks")
    unknown = [axis for axis in axes if axis not in EVERY_AXIS]
    if unknown:
        raise ValueError(f"axes {', '.join(unknown)} are none of a layout; choose of {', '.join(EVERY_AXIS)}")
    found = _search(recipe, ranks, axes, recomputes)
    if not len(found):
        raise ValueError(_none(recipe, ranks, axes))
    return found


def recipe_of(layouts: Layouts, row: int) -> Recipe:
    """The recipe in that layout.

    Raises:
        RecipeError: the recipe refuses it.
    """
    fields: dict[str, Any] = layouts.recipe.resolved()
    at = {name: int(getattr(layouts, name)[row]) for name in _COLUMNS}
    recompute, training = layouts.recomputes[int(layouts.recompute[row])], fields["training"]
    training["micro_batch"] = at.pop("micro_batch")
    for key in [key for key in training if key.startswith("recompute")]:
        del training[key]
    training["recompute"] = recompute.kind
    if recompute.kind == "full":
        training |= {"recompute_method": recompute.method, "recompute_layers": recompute.layers}
    if recompute.kind == "selective":
        training["recompute_modules"] = list(recompute.modules)
    names = {"dispatcher": DISPATCHERS, "context_exchange": EXCHANGES, "order": ORDERS}
    fields["parallel"] |= {key: names[key][value] if key in names else value for key, value in at.items()}
    return build_recipe(f"recipe {layouts.recipe.name}", fields)


# ---- searching -----------------------------------------------------------------------------------------


def _search(
    recipe: Recipe, world_size: int, axes: Sequence[str], offered: Sequence[Recompute] | None = None
) -> Layouts:
    """Column by column: each row with each value, of which the rules leave some."""
    own = layouts_of(recipe)
    columns: dict[str, Ints] = {"world_size": np.array([world_size], np.int64)}
    for name in _COLUMNS[1:]:
        is_free = ("context" if name == "context_exchange" else name) in axes
        values = _values(recipe, name, world_size) if is_free else getattr(own, name)
        columns = _joined(recipe, columns, name, values)
        if is_free:
            columns = _taken(columns, _is_another(columns, name))
    is_free = "recompute" in axes
    every = tuple(dict.fromkeys(offered)) if offered is not None else _recomputes(recipe, columns)
    recomputes = every if is_free else own.recomputes
    columns = _joined(recipe, columns, "recompute", np.arange(len(recomputes), dtype=np.int64), recomputes)
    if is_free:
        columns = _taken(columns, _is_another_recompute(recipe, columns, recomputes, is_every=offered is None))
    return Layouts(recipe, recomputes, **columns)


def _values(recipe: Recipe, name: str, world_size: int) -> Ints:
    """What a column may hold, before the rules; the rules' mere divisors, so that few rows are made."""
    model, training = recipe.model, recipe.training
    divided = {
        "tensor": np.gcd(model.num_attention_heads, model.num_query_groups),
        "context": training.sequence_length,
        "pipeline": world_size,
        "expert": model.num_experts,
        "expert_tensor": model.ffn_hidden_size,
        "micro_batch": training.global_batch,
        "virtual_pipeline": 0,
    }
    if name == "virtual_pipeline":
        return np.arange(1, min(model.num_layers, 1024) + 1, dtype=np.int64)
    if name in divided:
        value = int(divided[name])
        candidates = np.arange(1, (value if name == "micro_batch" else min(value, world_size)) + 1, dtype=np.int64)
        return candidates[value % candidates == 0]
    return np.arange(2, dtype=np.int64)


def _joined(
    recipe: Recipe, columns: dict[str, Ints], name: str, values: Ints, recomputes: Sequence[Recompute] = ()
) -> dict[str, Ints]:
    """Every row with every value that the rules allow beside it."""
    size = len(columns["world_size"])
    rows = np.repeat(np.arange(size), len(values))
    joined = _taken(columns, rows) | {name: np.tile(values, size)}
    return _taken(joined, legal(recipe, joined, recomputes, known=tuple(columns)))


def _taken(columns: Columns, rows: Any) -> dict[str, Ints]:
    return {name: values[rows] for name, values in columns.items()}


def _is_another(at: Columns, name: str) -> Any:
    """Where the value of a column makes the layout another one than its first value does."""
    if name == "context_exchange":
        return (at["context"] > 1) | (at[name] == 0)
    if name == "order":
        is_one = (at["pipeline"] == 1) | (at["world_size"] == at["tensor"] * at["context"] * at["pipeline"])
        return ~is_one | (at[name] == 0)
    return slice(None)


def _recomputes(recipe: Recipe, at: Columns) -> tuple[Recompute, ...]:
    """None, full and selective: of these all sets that the kernels know, of full the sizes of chunks."""
    fewest, _ = layers_of_chunks(recipe, at["pipeline"], at["virtual_pipeline"])
    sizes = [size for size in np.unique(fewest).tolist() if size > 1]
    full = [Recompute("full"), Recompute("full", "block"), *(Recompute("full", layers=size) for size in sizes)]
    sets = [each for size in range(1, len(MODULES) + 1) for each in combinations(MODULES, size)]
    selective = [Recompute("selective", modules=each) for each in sets]
    return Recompute(), *(each for each in (*full, *selective) if is_sound(each, recipe))


def _is_another_recompute(recipe: Recipe, at: Columns, recomputes: Sequence[Recompute], *, is_every: bool) -> Any:
    """Where it is not the same as another: the first layers of a chunk are not all of them.

    Of every choice, a chunk has its layers each for itself, or all at once.
    """
    fewest, most = layers_of_chunks(recipe, at["pipeline"], at["virtual_pipeline"])
    positions = at["recompute"]
    layers = np.array([each.layers for each in recomputes])[positions]
    is_full = np.array([each.kind == "full" for each in recomputes])[positions]
    is_block = np.array([each.method == "block" for each in recomputes])[positions]
    is_uniform = (layers == 1) | (layers == fewest) if is_every else True
    return ~is_full | np.where(is_block, most > layers, is_uniform)


# in the order in which rules prune most; `recompute` follows
_COLUMNS = (
    *("world_size", "pipeline", "tensor", "context", "context_exchange", "expert", "expert_tensor", "micro_batch"),
    *("virtual_pipeline", "dispatcher", "order"),
)


# ---- where there is none -------------------------------------------------------------------------------


def _none(recipe: Recipe, world_size: int, axes: Sequence[str]) -> str:
    below = next(_with_layouts(recipe, range(world_size - 1, max(0, world_size - _LOOKED_AROUND), -1), axes), None)
    above = range(world_size + 1, min(_MOST_RANKS, world_size + _LOOKED_AROUND) + 1)
    nearest = [each for each in (below, next(_with_layouts(recipe, above, axes), None)) if each is not None]
    remedy = (
        f"the nearest world sizes with one are {' and '.join(map(str, nearest))}"
        if nearest
        else "change its batch, its layers or its heads, or let more axes vary"
    )
    return f"recipe {recipe.name} has no legal layout on {world_size} ranks; {remedy}"


def _with_layouts(recipe: Recipe, sizes: Sequence[int], axes: Sequence[str]) -> Iterator[int]:
    splits = [axis for axis in axes if axis in (*SPLITS, "context", "recompute")]
    return (size for size in sizes if len(_search(recipe, size, splits, [Recompute()])))
