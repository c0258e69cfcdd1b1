"""A sample of legal layouts that every closed form of the planner is held to, each counted once by the real ledger.

Models are as small as they can be and still differ: what a count takes follows from layers, micro-batches and local
experts, not from widths. A layout is drawn key by key and kept where the recipe itself accepts it, so the sample does
not depend on the planner's own rules. It is the same each time, and a smaller one is the beginning of a larger one.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.ledger.extension import extension
from bench.ledger.schema import RankLedger
from bench.plan.layouts import Layouts, Places, Recompute, different_stages, layouts_of
from grok1.config.load import ONE_RANK, _apply_override, build_recipe, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError
from grok1.config.stages import stage_layers
from grok1.distributed.launch import rank_context
from tests.bench.plan.sample_entries import counted_places

SAMPLE_SIZE = 200
_SEED = 20
_PROCESSES = 2
_MOST_DRAWS = 100_000
_COUNTED: dict[tuple[str, tuple[int, ...]], list[RankLedger]] = {}  # by recipe and stages
_MOST_WORK = 16  # passes of a layer in a stage's count: longer ones are left out

_COMMON = ("model.num_experts=4", "training.sequence_length=32", "training.global_batch=8", "kernels.experts=fused")
_XAI = (
    "model.attention_logit_cap=30.0",
    "model.activation=geglu",
    "model.tie_embeddings=true",
    "model.router=softmax_then_topk",
)
_PLAIN = (
    "kernels.experts=sequential",
    "kernels.dispatch=megatron",
    "kernels.cross_entropy=megatron",
    "kernels.linear=megatron",
)
_BF16 = ("training.dtype=bf16",)
_THIRDS = ("model.num_query_groups=6", "model.num_experts=6", "model.ffn_hidden_size=384", "model.vocab_size=384")

# what does not change over the layouts of a recipe: its name, then what is unlike grok1-nano
RECIPES: dict[str, tuple[str, ...]] = {
    "plain": (*_COMMON, *_PLAIN, "model.num_layers=2"),
    "plain-bf16": (*_COMMON, *_PLAIN, *_BF16, "model.num_layers=2", "training.router_dtype=model"),
    "plain-xai": (*_COMMON, *_PLAIN, *_XAI, "model.num_layers=2", "training.sequence_length=416"),
    "ours": (*_COMMON, "model.num_layers=2"),
    "ours-bf16": (*_COMMON, *_BF16, "model.num_layers=2", "training.gradient_dtype=bf16", "model.num_experts=8"),
    "ours-xai": (*_COMMON, *_XAI, "model.num_layers=4", "kernels.gradient_reduction=overlapped"),
    "thirds": (*_COMMON, *_PLAIN, *_THIRDS, "model.num_layers=3", "model.experts_per_token=3")
    + (
        "training.sequence_length=144",
        "training.global_batch=12",
        "model.z_loss_coefficient=0.001",
        "kernels.experts=fused",
    ),
    "uneven": (*_COMMON, *_PLAIN, "model.num_layers=3", "parallel.first_stage_layers=1"),
    "uneven-tied": (*_COMMON, *_XAI, "model.num_layers=5", "parallel.last_stage_layers=1")
    + ("training.expert_capacity_factor=1.0", "kernels.dispatch=megatron", "model.attention_logit_cap=0.0"),
    "padded": (*_COMMON, *_PLAIN, *_BF16, "model.num_layers=2", "training.expert_capacity_factor=1.5")
    + ("training.pad_to_capacity=true", "training.reuse_fp32_parameters=true", "model.aux_loss_coefficient=0.0"),
    "dropping": (*_COMMON, "kernels.dispatch=megatron", "model.num_layers=4", "training.expert_capacity_factor=0.75")
    + ("training.expert_drop_policy=position", "training.routing=random", "kernels.gradient_reduction=overlapped")
    + ("kernels.param_gather=overlapped",),
}


@dataclass(frozen=True)
class Counted:
    """Layouts of one recipe, their places, and what the ledger counted at each: a row a place."""

    name: str
    recipes: list[Recipe]  # a row a layout
    layouts: Layouts
    places: Places
    ranks: list[RankLedger]


def sampled_recipes(size: int = SAMPLE_SIZE) -> dict[str, list[Recipe]]:
    """By the name in RECIPES, as many layouts of each; together `size` or a few more."""
    each = -(-size // len(RECIPES))
    return {name: _layouts_of(name, index, each) for index, name in enumerate(RECIPES)}


def counted_sample(size: int = SAMPLE_SIZE) -> list[Counted]:
    """The sample, counted by two processes, layout by layout."""
    chosen = sampled_recipes(size)
    layouts = {name: together(recipes) for name, recipes in chosen.items()}
    places = {name: _places_of(each) for name, each in layouts.items()}
    jobs = [
        (recipe, places[name].stage[places[name].layout == row].tolist())
        for name, recipes in chosen.items()
        for row, recipe in enumerate(recipes)
    ]
    _count(jobs)
    results = (_COUNTED[_key(*job)] for job in jobs)
    return [
        Counted(name, recipes, layouts[name], places[name], [rank for _ in recipes for rank in next(results)])
        for name, recipes in chosen.items()
    ]


def _count(jobs: list[tuple[Recipe, list[int]]]) -> None:
    """Those that are not counted yet: a larger sample begins with all of a smaller one."""
    missing = [job for job in jobs if _key(*job) not in _COUNTED]
    with ProcessPoolExecutor(_PROCESSES, mp_context=rank_context("cpu", "grok1.training.fake_step")) as pool:
        for job, ranks in zip(missing, pool.map(counted_places, missing), strict=True):
            _COUNTED[_key(*job)] = ranks


def _key(recipe: Recipe, stages: list[int]) -> tuple[str, tuple[int, ...]]:
    return recipe.hash(), tuple(stages)


def _places_of(layouts: Layouts) -> Places:
    """All stages that differ, of every fourth layout; of the others one each, in turn the first, second and last."""
    places = different_stages(layouts)
    turn = np.concatenate([np.arange(size) for size in np.bincount(places.layout)])
    size = np.bincount(places.layout)[places.layout]
    chosen = (places.layout % 4 == 0) | (turn == places.layout % size)
    return Places(places.of.take(chosen), places.layout[chosen], places.stage[chosen])


def together(recipes: list[Recipe]) -> Layouts:
    """Recipes that differ in the layout alone, as rows."""
    rows = [layouts_of(recipe) for recipe in recipes]
    recomputes: tuple[Recompute, ...] = tuple(dict.fromkeys(row.recomputes[0] for row in rows))
    names = [name for name in vars(rows[0]) if name not in ("recipe", "recomputes", "recompute")]
    columns: dict[str, Any] = {name: np.concatenate([getattr(row, name) for row in rows]) for name in names}
    positions = np.array([recomputes.index(row.recomputes[0]) for row in rows], np.int64)
    return replace(rows[0], recomputes=recomputes, recompute=positions, **columns)


def _layouts_of(name: str, index: int, size: int) -> list[Recipe]:
    """So many different layouts of a recipe that it accepts, drawn at random."""
    drawn, more = _draws(name, index)
    drawn += itertools.islice(more, max(0, size - len(drawn)))
    return drawn[:size]


@functools.cache
def _draws(name: str, index: int) -> tuple[list[Recipe], Iterator[Recipe]]:
    """What was drawn for samples so far, and what comes next: most draws are refused, which takes time."""
    return [], _drawn_layouts(name, index)


def _drawn_layouts(name: str, index: int) -> Iterator[Recipe]:
    draw, found = random.Random(_SEED + index), set[str]()
    fields = load_recipe("grok1-nano").resolved()
    for override in (*ONE_RANK, *RECIPES[name], f"name={name}"):
        _apply_override(fields, override)  # once: to parse them took most of the time of a draw
    for _ in range(_MOST_DRAWS):
        recipe = _drawn(draw, fields)
        if recipe is None or recipe.hash() in found:
            continue
        if _work(recipe) <= _MOST_WORK * (1 + (recipe.parallel.virtual_pipeline > 1)):
            found.add(recipe.hash())
            yield recipe
    raise AssertionError(f"{name}: {_MOST_DRAWS} draws have {len(found)} layouts; allow more work")


def _work(recipe: Recipe) -> int:
    """Passes of a layer that the longest count runs: forward, backward and recompute of each micro-batch."""
    parallel, experts = recipe.parallel, recipe.model.num_experts // recipe.parallel.expert
    passes = 2 + (recipe.training.recompute != "none") + (recipe.kernels.experts == "sequential" and experts > 2)
    micro_batches = max(extension(recipe, stage).run for stage in range(parallel.pipeline)) + 1
    return max(stage_layers(recipe.model.num_layers, parallel)) * micro_batches * passes


def _drawn(draw: random.Random, fields: dict[str, Any]) -> Recipe | None:
    """None where the recipe refuses what was drawn."""
    own = {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}
    own["parallel"] |= {axis: draw.choice(sizes) for axis, sizes in _AXES.items()}
    own["training"]["micro_batch"] = draw.choice((1, 1, 2, 3, 4))
    try:
        return build_recipe("sample", own, draw.choice(_RECOMPUTES))
    except RecipeError:
        return None


_AXES: dict[str, tuple[Any, ...]] = {
    "world_size": (1, 1, 1, 2, 2, 4, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "tensor": (1, 2, 2, 3, 4),
    "context": (1, 1, 1, 2, 3, 4),
    "context_exchange": ("all_gather", "a2a"),
    "pipeline": (1, 2, 2, 3, 4),
    "virtual_pipeline": (1, 2),
    "expert": (1, 2, 2, 3, 4, 8),
    "expert_tensor": (1, 2, 2, 3, 4),
    "dispatcher": ("alltoall", "alltoall", "allgather"),
    "order": ("tp-cp-ep-dp-pp", "tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"),
}
_RECOMPUTES: list[list[str]] = [
    [],
    [],
    ["training.recompute=full"],
    ["training.recompute=full", "training.recompute_layers=2"],
    ["training.recompute=full", "training.recompute_method=block"],
    ["training.recompute=selective"],
    ["training.recompute=selective", 'training.recompute_modules=["moe"]'],
    ["training.recompute=selective", 'training.recompute_modules=["layernorm"]'],
    ["training.recompute=selective", 'training.recompute_modules=["moe_act"]'],
    ["training.recompute=selective", 'training.recompute_modules=["core_attn","layernorm","moe"]'],
]
