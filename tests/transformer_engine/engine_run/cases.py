"""What is run with Transformer Engine's parts and without: a list of cases, for each layout in one start of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe

STEPS = 3  # the first has no learning rate; the third shows what the second did to the weights

PLAIN = (
    "model.num_layers=1",  # small: Triton's interpreter takes milliseconds for each program
    "training.sequence_length=8",
    "training.global_batch=2",
    "kernels.experts=sequential",
    "kernels.dispatch=megatron",
    "kernels.cross_entropy=megatron",
    "kernels.linear=megatron",
)
LAYOUTS = {
    "one rank": ONE_RANK,
    "two expert ranks": (*ONE_RANK, "parallel.world_size=2", "parallel.expert=2"),
    "two tensor ranks": (*ONE_RANK, "parallel.world_size=2", "parallel.tensor=2", "parallel.expert_tensor=2"),
}


@dataclass(frozen=True)
class Case:
    """Kernels of Transformer Engine's in a recipe, and which of its functions must have run for them."""

    name: str
    kernels: tuple[str, ...]
    functions: frozenset[str]
    changes: tuple[str, ...] = ()

    def recipes(self, layout: str) -> tuple[Recipe, Recipe]:
        """(without, with)."""
        plain = load_recipe("grok1-nano", [*PLAIN, *LAYOUTS[layout], *self.changes])
        return plain, load_recipe("grok1-nano", [*PLAIN, *LAYOUTS[layout], *self.changes, *self.kernels])

    @property
    def is_bf16(self) -> bool:
        """Whether activations are bf16, which rounds in the third digit."""
        return "training.dtype=bf16" in self.changes


_EXPERTS, _DISPATCH = "kernels.experts=te_grouped", "kernels.dispatch=te"
_CROSS_ENTROPY, _ATTENTION = "kernels.cross_entropy=te", "kernels.attention=te"
_GROUPED = frozenset({"te_general_grouped_gemm"})
_PERMUTED = frozenset({"_permute_kernel", "_unpermute_kernel"})
_LOSSES = frozenset({"cross_entropy_kernel", "element_mul_kernel"})

CASES = (
    Case("experts", (_EXPERTS,), _GROUPED),
    Case("experts, geglu", (_EXPERTS,), _GROUPED, ("model.activation=geglu", "model.attention_logit_cap=30.0")),
    Case("experts, recomputed", (_EXPERTS,), _GROUPED, ("training.recompute=full",)),
    Case("dispatch", (_DISPATCH,), _PERMUTED),
    Case("dispatch, allgather", (_DISPATCH,), _PERMUTED, ("parallel.dispatcher=allgather",)),
    Case(
        "cross-entropy, two sequences",
        (_CROSS_ENTROPY,),
        _LOSSES,
        ("training.micro_batch=2", "training.global_batch=4"),
    ),
    Case("attention", (_ATTENTION,), frozenset()),
    Case("attention, multiplied", (_ATTENTION,), frozenset(), ("model.attention_multiplier=0.3",)),
    Case("all", (_EXPERTS, _DISPATCH, _CROSS_ENTROPY, _ATTENTION), _GROUPED | _PERMUTED | _LOSSES),
    # Triton's interpreter does not add bf16 numbers, which the cross-entropy's kernel does
    Case("all but the loss, bf16", (_EXPERTS, _DISPATCH, _ATTENTION), _GROUPED | _PERMUTED, ("training.dtype=bf16",)),
)
