"""Which layouts a recipe accepts: its own checks (grok1.config), computed for many layouts at once. No torch.

A rule is a function of some columns. It is applied as soon as these are known, so a search for layouts never goes on
from what is refused already. Only rules that a layout can break are here; the recipe has passed the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Ints, Recompute
from grok1.config.recipe import Recipe

Mask = npt.NDArray[np.bool_]
Columns = Mapping[str, Ints]
MODULES = ("core_attn", "layernorm", "moe", "moe_act")  # what selective recompute knows
_MOST_LAYERS = 1024  # of training.recompute_layers


@dataclass(frozen=True)
class Rule:
    """Where a layout passes, which depends on these columns alone."""

    of: tuple[str, ...]
    passes: Callable[[Recipe, Columns], Mask]


def legal(recipe: Recipe, columns: Columns, recomputes: Sequence[Recompute], known: Sequence[str] = ()) -> Mask:
    """Where layouts pass every rule whose columns are all there, but for rules of the columns `known` alone.

    Rows of `columns` are layouts, named as in Layouts.
    """
    size = len(next(iter(columns.values())))
    passes = np.ones(size, np.bool_)
    for rule in (*_RULES, *_recompute_rules(recomputes)):
        if set(rule.of) <= set(columns) and not set(rule.of) <= set(known):
            passes &= rule.passes(recipe, columns)
    return passes


# ---- axes ----------------------------------------------------------------------------------------------


def _dense_ranks(_recipe: Recipe, at: Columns) -> Mask:
    return _divides(at["tensor"] * at["context"] * at["pipeline"], at["world_size"])


def _expert_ranks(_recipe: Recipe, at: Columns) -> Mask:
    return _divides(at["expert_tensor"] * at["expert"] * at["pipeline"], at["world_size"])


def _whole_experts(_recipe: Recipe, at: Columns) -> Mask:
    """megatron would sum their outputs over the tensor ranks."""
    return np.asarray((at["tensor"] == 1) | (at["expert_tensor"] > 1) | (at["expert"] > 1))


def _tensor(recipe: Recipe, at: Columns) -> Mask:
    model, tensor = recipe.model, at["tensor"]
    passes = _divides(tensor, model.num_attention_heads) & _divides(tensor, model.num_query_groups)
    passes &= _divides(tensor, model.vocab_size) & _divides(tensor, recipe.training.sequence_length)
    if not recipe.parallel.sequence_parallel:
        passes &= tensor == 1
    if recipe.kernels.linear == "mc2":
        passes &= tensor > 1
    return passes


def _expert(recipe: Recipe, at: Columns) -> Mask:
    return _divides(at["expert"], recipe.model.num_experts)


def _expert_tensor(recipe: Recipe, at: Columns) -> Mask:
    return _divides(at["expert_tensor"], recipe.model.ffn_hidden_size)


def _sequence(recipe: Recipe, at: Columns) -> Mask:
    length, context = recipe.training.sequence_length, at["context"]
    passes = _divides(2 * context, length) & (recipe.kernels.attention != "te")
    if recipe.parallel.sequence_parallel:
        passes &= _divides(at["tensor"] * context, length)
    return np.asarray(passes | (context == 1))


def _heads_exchanged(recipe: Recipe, at: Columns) -> Mask:
    groups = recipe.model.num_query_groups // at["tensor"]
    is_exchanged = (at["context"] > 1) & (at["context_exchange"] == EXCHANGES.index("a2a"))
    return np.asarray((groups % at["context"] == 0) | ~is_exchanged)


def _dispatcher(recipe: Recipe, at: Columns) -> Mask:
    return np.asarray((at["dispatcher"] == DISPATCHERS.index("alltoall")) | (recipe.kernels.dispatch != "merged"))


def _batch(recipe: Recipe, at: Columns) -> Mask:
    return _divides(at["micro_batch"] * _data(at), recipe.training.global_batch)


# ---- stages --------------------------------------------------------------------------------------------


def _stages(recipe: Recipe, at: Columns) -> Mask:
    first, last, stages = recipe.parallel.first_stage_layers, recipe.parallel.last_stage_layers, at["pipeline"]
    if not first and not last:
        return _divides(stages, recipe.model.num_layers)
    others, rest = stages - bool(first) - bool(last), recipe.model.num_layers - first - last
    left_over = np.where(others > 0, rest % np.maximum(1, others), rest)
    return np.asarray((stages > 1) & (rest >= others) & (left_over == 0))


def _chunks(recipe: Recipe, at: Columns) -> Mask:
    chunks = at["virtual_pipeline"]
    passes = at["pipeline"] > 1
    for layers in _sizes_of_stages(recipe, at["pipeline"]):
        passes &= layers % chunks == 0
    return np.asarray(passes | (chunks == 1))


def _interleaved(recipe: Recipe, at: Columns) -> Mask:
    micro_batches = recipe.training.global_batch // (at["micro_batch"] * _data(at))
    return np.asarray((micro_batches % at["pipeline"] == 0) | (at["virtual_pipeline"] == 1))


def _order(_recipe: Recipe, at: Columns) -> Mask:
    is_other = (at["order"] == ORDERS.index("tp-cp-ep-pp-dp")) & (at["pipeline"] > 1)
    alike = at["expert_tensor"] * at["expert"] * at["pipeline"]
    return np.asarray((_data(at) == at["world_size"] // alike) | ~is_other)


def _sizes_of_stages(recipe: Recipe, stages: Ints) -> tuple[Ints, ...]:
    """Layers of the first stage, of the last, and of the others; where there are no others, of the first again."""
    first, last = recipe.parallel.first_stage_layers, recipe.parallel.last_stage_layers
    others = stages - bool(first) - bool(last)
    even = (recipe.model.num_layers - first - last) // np.maximum(1, others)
    ends = tuple(np.full_like(stages, given) if given else even for given in (first, last))
    return *ends, np.where(others > 0, even, ends[0])


def layers_of_chunks(recipe: Recipe, stages: Ints, chunks: Ints) -> tuple[Ints, Ints]:
    """(fewest, most) layers of a chunk, over all stages."""
    sizes = np.stack([layers // chunks for layers in _sizes_of_stages(recipe, stages)])
    return sizes.min(axis=0), sizes.max(axis=0)


# ---- levers --------------------------------------------------------------------------------------------


def _capacity(recipe: Recipe, at: Columns) -> Mask:
    """An expert takes at most all the tokens that a rank routes at once."""
    model, training = recipe.model, recipe.training
    tokens = training.sequence_length * at["micro_batch"] // (at["tensor"] * at["context"])
    pairs = tokens * model.experts_per_token
    return np.asarray(np.ceil(pairs / model.num_experts * training.expert_capacity_factor) <= tokens)


def _recompute_rules(recomputes: Sequence[Recompute]) -> tuple[Rule, ...]:
    def known(recipe: Recipe, at: Columns) -> Mask:
        return np.array([is_sound(each, recipe) for each in recomputes], np.bool_)[at["recompute"]]

    def of_layers(recipe: Recipe, at: Columns) -> Mask:
        is_full, is_uniform, layers = (
            np.array(values)[at["recompute"]]
            for values in (
                [each.kind == "full" for each in recomputes],
                [each.method == "uniform" for each in recomputes],
                [each.layers for each in recomputes],
            )
        )
        passes = np.ones(len(layers), np.bool_)
        for stage in _sizes_of_stages(recipe, at["pipeline"]):
            chunk = stage // at["virtual_pipeline"]
            passes &= (layers <= chunk) & (~is_uniform | (chunk % layers == 0))
        return np.asarray(passes | ~is_full)

    return Rule(("recompute",), known), Rule(("pipeline", "virtual_pipeline", "recompute"), of_layers)


def is_sound(recompute: Recompute, recipe: Recipe) -> bool:
    """Whether the recipe's kernels can do that, whatever the layout."""
    modules, kernels = recompute.modules, recipe.kernels
    if recompute.kind == "full":
        return 1 <= recompute.layers <= _MOST_LAYERS
    if recompute.kind == "none":
        return True
    if not modules or len(set(modules)) < len(modules) or {"moe", "moe_act"} <= set(modules):
        return False
    if "moe_act" in modules and kernels.experts not in ("grouped", "te_grouped"):
        return False
    return not ("core_attn" in modules and kernels.attention == "te")


# ---- helpers -------------------------------------------------------------------------------------------


def _divides(divisor: Ints, value: Ints | int) -> Mask:
    return np.asarray(value % divisor == 0)


def _data(at: Columns) -> Ints:
    """Replicas of the dense weights; at least one, so that what another rule refuses can be computed."""
    return np.maximum(1, at["world_size"] // (at["tensor"] * at["context"] * at["pipeline"]))


_RANKS = ("world_size", "tensor", "context", "pipeline")
_RULES = (
    Rule(("tensor",), _tensor),
    Rule(("expert",), _expert),
    Rule(("expert_tensor",), _expert_tensor),
    Rule(("pipeline",), _stages),
    Rule(("dispatcher",), _dispatcher),
    Rule(_RANKS, _dense_ranks),
    Rule(("world_size", "expert_tensor", "expert", "pipeline"), _expert_ranks),
    Rule(("tensor", "expert", "expert_tensor"), _whole_experts),
    Rule(("tensor", "context"), _sequence),
    Rule(("tensor", "context", "context_exchange"), _heads_exchanged),
    Rule((*_RANKS, "micro_batch"), _batch),
    Rule(("tensor", "context", "micro_batch"), _capacity),
    Rule(("pipeline", "virtual_pipeline"), _chunks),
    Rule((*_RANKS, "micro_batch", "virtual_pipeline"), _interleaved),
    Rule((*_RANKS, "expert", "expert_tensor", "order"), _order),
)
