"""Every layout that a recipe accepts on so many ranks, each with the kernels that change what its ranks exchange.

Sizes follow from the layout, so that all divide: a layout is left out only where the recipe itself refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grok1.config.axes import axes_text
from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError
from tests.lines import HAS_GROUPED_EXPERTS

STEPS = 2  # the second's loss and the weights at the end show what the updates did

# refused in fp32, which tells more here: put in afterwards
GROUPED = "grouped" if HAS_GROUPED_EXPERTS else "sequential"
Words = dict[str, Any]

# one of each for every layout: how tokens reach their experts
DISPATCHERS: tuple[Words, ...] = (
    {"parallel": {"dispatcher": "alltoall"}},
    {"parallel": {"dispatcher": "allgather"}},
    {"parallel": {"dispatcher": "alltoall"}, "kernels": {"dispatch": "merged"}},
)
# and of these each layout takes three, in turn; `stock` leaves megatron's objects as an accelerator has them
EXTRAS: tuple[tuple[bool, bool, Words], ...] = (  # (stock, two experts a rank, settings)
    (True, True, {}),
    (False, False, {"kernels": {"experts": "fused", "linear": "fused", "cross_entropy": "fused"}}),
    (True, False, {"model": {"tie_embeddings": True}, "kernels": {"gradient_reduction": "overlapped"}}),
    (False, True, {"kernels": {"experts": "fused", "gradient_reduction": "overlapped"}}),
    (True, False, {"kernels": {"linear": "fused"}, "training": {"recompute": "full"}}),
    (False, True, {"parallel": {"sequence_parallel": False}, "model": {"router": "softmax_then_topk"}}),
    (True, True, {"kernels": {"experts": GROUPED}, "model": {"tie_embeddings": True}}),
)


@dataclass(frozen=True)
class Trial:
    """A recipe in a layout. Those that differ in the layout alone compute the same."""

    recipe: Recipe
    stock: bool
    steps: int = STEPS

    @property
    def name(self) -> str:
        """The layout in the field's letters, and what else is unlike megatron's defaults."""
        parallel, kernels = self.recipe.parallel, self.recipe.kernels
        stages = (parallel.first_stage_layers, parallel.last_stage_layers)
        parts = (
            f"{self.recipe.model.num_layers} layers, ends {stages}" if any(stages) else "",
            parallel.order if parallel.order.endswith("pp-dp") else "",
            "merged" if kernels.dispatch == "merged" else parallel.dispatcher,
            "a2a" if parallel.context > 1 and parallel.context_exchange == "a2a" else "",
            "capped" if self.recipe.model.attention_logit_cap else "",
            "SP" if parallel.sequence_parallel and parallel.tensor > 1 else "",
            f"{kernels.experts} experts",
            "fused linear" if kernels.linear == "fused" else "",
            "" if kernels.gradient_reduction == "at_end" else "overlapped",
            "tied" if self.recipe.model.tie_embeddings else "",
            "recompute" if self.recipe.training.recompute == "full" else "",
            "stock" if self.stock else "",
        )
        return f"{axes_text(parallel)}: {', '.join(part for part in parts if part)}"

    @property
    def on_one_rank(self) -> Recipe:
        """The same computation with nothing split, by megatron's own parts."""
        settings = self.recipe.model_dump() | {"parallel": {"world_size": 1}, "kernels": {}}
        training = settings["training"].items()
        settings["training"] = {key: value for key, value in training if not key.startswith("recompute")}
        return Recipe.model_validate(settings)


def accepted_trials(world_size: int) -> list[Trial]:
    """All layouts of so many ranks, three trials each, neighbours of one layout together."""
    trials = []
    for index, sizes in enumerate(_layouts(world_size)):
        for turn, dispatcher in enumerate(DISPATCHERS):
            stock, two_experts, settings = EXTRAS[(index + 3 * turn) % len(EXTRAS)]
            recipe = recipe_of(world_size, sizes, two_experts, dispatcher, settings)
            if recipe is not None:
                trials.append(Trial(recipe, stock))
    return trials


def sampled(trials: list[Trial], count: int) -> list[Trial]:
    """So many of them, evenly spread and the same each time; those of a layout that stock megatron mistrains first."""
    unlike = [trial for trial in trials if is_mistrained_by_megatron(trial.recipe)]
    step = max(1, len(unlike) // max(1, count // 2))
    chosen = unlike[::step][: count // 2]
    rest = [trial for trial in trials if trial not in chosen]
    return chosen + rest[:: max(1, len(rest) // (count - len(chosen)))][: count - len(chosen)]


def is_mistrained_by_megatron(recipe: Recipe) -> bool:
    """Experts that are replicated otherwise than the rest, and that expert parallelism alone does not tell apart."""
    parallel = recipe.parallel
    return parallel.expert == 1 and parallel.expert_tensor != parallel.tensor


def _layouts(world_size: int) -> Iterator[Words]:
    """(pipeline, tensor, expert, expert_tensor) that multiply to a divisor of the ranks."""
    for pipeline in _divisors(world_size):
        stage = world_size // pipeline
        for tensor in _divisors(stage):
            for expert in _divisors(stage):
                for expert_tensor in _divisors(stage // expert):
                    yield {
                        "pipeline": pipeline,
                        "tensor": tensor,
                        "expert": expert,
                        "expert_tensor": expert_tensor,
                    }


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def recipe_of(world_size: int, sizes: Words, two_experts: bool, *settings: Words) -> Recipe | None:
    """None where the recipe refuses the layout."""
    fields = layout_fields(world_size, sizes, two_experts)
    for each in settings:
        for section, values in each.items():
            fields[section] |= values
    is_grouped = fields["kernels"].get("experts") == GROUPED
    if is_grouped:
        del fields["kernels"]["experts"]
    if fields["parallel"]["tensor"] > 1:
        fields["parallel"]["sequence_parallel"] = True  # the other is refused
    try:
        recipe = build_recipe("layout", fields)
    except RecipeError:
        return None
    if is_grouped:
        return recipe.model_copy(update={"kernels": recipe.kernels.model_copy(update={"experts": GROUPED})})
    return recipe


def layout_fields(world_size: int, sizes: Words, two_experts: bool) -> Words:
    """A recipe's fields, as small as a layout lets them be."""
    unit = 16 if 16 % world_size == 0 else world_size  # what every axis divides
    replicas = world_size // (sizes["tensor"] * sizes.get("context", 1) * sizes["pipeline"])
    experts = sizes["expert"] * (2 if two_experts and sizes["expert"] <= 8 else 1)
    return {
        "name": "layout",
        "model": {
            "num_layers": max(2, sizes["pipeline"]),
            "hidden_size": 32,
            "ffn_hidden_size": 2 * unit,
            "num_attention_heads": 2 * unit,
            "num_query_groups": unit,
            "head_dim": 2,
            "vocab_size": 4 * unit,
            "num_experts": experts if experts >= 3 else 4,
            "experts_per_token": 2,
            "activation": "swiglu",
            "attention_logit_cap": 0.0,
            "tie_embeddings": False,
            "router": "topk_then_softmax",
            "aux_loss_coefficient": 0.1,
            "embedding_multiplier": 1.0,
            "output_multiplier": 1.0,
            "init_std": 0.2,
        },
        "parallel": {"world_size": world_size, **sizes},
        "training": {
            "sequence_length": unit,
            "global_batch": replicas * (2 if replicas <= 4 else 1),
            "dtype": "fp32",
            "learning_rate": 1e-2,
            "min_learning_rate": 1e-2,
            "warmup_steps": 0,
            "decay_steps": 10,
            "weight_decay": 0.1,
            "clip_grad": 1.0,
            "adam_epsilon": 1e-2,  # so large that a gradient's length shows in the update
        },
        "kernels": {},
    }
