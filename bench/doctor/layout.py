"""The recipe's layout, cut to the processors at hand, and the small jobs that the checks run in it. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from grok1.config.axes import AXES, axes_text
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.sections import Kernels, Parallel

STEPS = 10
PLAIN = Kernels()  # megatron's own parts
_EVEN_STAGES = {"virtual_pipeline": 1, "first_stage_layers": 0, "last_stage_layers": 0}


def cut_layout(recipe: Recipe, processors: int) -> Parallel:
    """The layout of the recipe on at most `processors` ranks, a power of two, with as many kinds of groups as fit.

    Each axis is split as often as in the recipe or less. Of equal choices, the one that splits matrices most. Stages
    are even and interleave nothing: the jobs have a layer a stage.
    """
    own = recipe.parallel.model_copy(update=_EVEN_STAGES)
    ranks = 1 << (min(processors, own.world_size).bit_length() - 1)
    if ranks == own.world_size:
        return own
    return max(_candidates(recipe, own, ranks), key=lambda each: (_kinds(each, own), each.tensor, each.pipeline))


def _candidates(recipe: Recipe, own: Parallel, ranks: int) -> Iterator[Parallel]:
    splits = [_divisors(getattr(own, axis)) for axis in AXES[1:]]
    for values in itertools.product(*splits):
        sizes = dict(zip(AXES[1:], values, strict=True))
        try:
            found = own.model_copy(update={"world_size": ranks, **sizes})
            nano(recipe, Parallel.model_validate(found.model_dump()), "fp32")
        except ValueError:
            continue
        yield found


def _kinds(layout: Parallel, own: Parallel) -> int:
    """How many of the recipe's kinds of groups have more than one rank."""
    axes = (*AXES[1:], "data", "expert_data")
    return sum(getattr(layout, axis) > 1 for axis in axes if getattr(own, axis) > 1)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def short(layout: Parallel) -> str:
    """As in `8 ranks, TP2 PP2 EP2 ETP2 DP2`."""
    return f"{layout.world_size} rank{'s' * (layout.world_size > 1)}, {axes_text(layout)}"


# ---- jobs ----------------------------------------------------------------------------------------------


def nano(recipe: Recipe, layout: Parallel, dtype: str) -> Recipe:
    """grok1-nano in that layout, with the recipe's kernels and dispatcher."""
    return load_recipe("grok1-nano", [*_in_layout(layout), *_batch(layout, 4), *_kernels(recipe, dtype)])


def reference_nano(layout: Parallel) -> Recipe:
    """The same ten steps on one rank, in fp32, with megatron's own parts."""
    return load_recipe("grok1-nano", [*ONE_RANK, *_batch(layout, 4), *_words("kernels", PLAIN.model_dump())])


def one_layer(recipe: Recipe, dtype: str, kernels: Kernels | None = None) -> Recipe:
    """One layer with the recipe's choices and head width, small enough for a CPU, on one rank."""
    model = recipe.model
    sizes = {
        "num_layers": 1,
        "hidden_size": 512,
        "ffn_hidden_size": 1024,
        "num_attention_heads": 4,
        "num_query_groups": 4 if model.num_query_groups == model.num_attention_heads else 2,
        "head_dim": 128,
        "vocab_size": 512,
    }
    chosen = model.model_dump() | sizes
    words = [*ONE_RANK, *_words("model", chosen), "training.sequence_length=256", "training.global_batch=1"]
    parts = _words("kernels", kernels.model_dump()) if kernels else _kernels(recipe, dtype)
    return load_recipe("grok1-nano", [*words, *parts, f"training.dtype={dtype}"])


def memory_job(recipe: Recipe, layout: Parallel) -> Recipe:
    """A model of some gigabytes a rank, of which the ledger's tensors are nearly all that is allocated."""
    sizes = {
        "num_layers": max(2, layout.pipeline),
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 16,
        "num_query_groups": 8,
        "head_dim": 128,
        "vocab_size": 32768,
    }
    words = [*_words("model", sizes), *_in_layout(layout), *_batch(layout, 2), *_kernels(recipe, "bf16")]
    return load_recipe("grok1-nano", [*words, "training.sequence_length=2048", 'name="doctor-memory"'])


def _in_layout(layout: Parallel) -> list[str]:
    return _words("parallel", layout.model_dump())


def _batch(layout: Parallel, micro_batches: int) -> list[str]:
    return [f"training.global_batch={math.lcm(micro_batches, layout.data)}"]


def _kernels(recipe: Recipe, dtype: str) -> Sequence[str]:
    """The recipe's kernels; grouped experts multiply bf16 only, so megatron's own stand in for them in fp32.

    MC2 is left out: some of these layouts have no tensor ranks, and it is for NPUs alone.
    """
    kernels = recipe.kernels.model_dump()
    if kernels["linear"] == "mc2":
        kernels["linear"] = "megatron"
    if dtype == "fp32" and kernels["experts"] == "grouped":
        kernels["experts"] = "sequential"
    return [*_words("kernels", kernels), f"training.dtype={dtype}", f"parallel.dispatcher={recipe.parallel.dispatcher}"]


def _words(section: str, values: Mapping[str, object]) -> list[str]:
    return [f"{section}.{key}={str(value).lower()}" for key, value in values.items()]
