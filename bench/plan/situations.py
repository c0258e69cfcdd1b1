"""What a prediction is of, as far as its certainty depends on it; and how near a measured row is to it. No torch."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from bench.plan.published import PublishedRow

Experts = Literal["dense", "coarse experts", "fine-grained experts"]
Precision = Literal["8 bits", "16 bits", "32 bits"]  # no published row is of the last
# Exchanges of tokens by kernels of their own, which the model of an all-to-all is not of, as notes name them
_DEEP, _HYBRID = "DeepEP", "HybridEP"
OWN_EXCHANGES = (_DEEP, _HYBRID)
_OF_FLAGS = {
    "dispatcher deepep": _DEEP, "dispatcher hybridep": _HYBRID, "moe-enable-deepep": _DEEP,
    "moe-enable-hybridep": _HYBRID,
}  # fmt: skip
LAYER_ALONE = "layer alone"  # a kind: a layer of experts that was timed without a step around it
FINE_GRAINED = 64  # experts, from which the plain model is off by tens of percent in either direction
# What counts as far: another chip or precision more than any difference in size, a kind of layout as much as a
# factor of e in one size
_OTHER_CHIP, _OTHER_PRECISION, _OTHER_EXPERTS, _OTHER_KIND = 8.0, 4.0, 4.0, 1.0


def precision_of(is_eight_bit: bool) -> Precision:
    """Of a published row's products."""
    return "8 bits" if is_eight_bit else "16 bits"


@dataclass(frozen=True)
class Situation:
    """A job, as intervals see it. Sizes are logarithms."""

    chip: str
    precision: Precision  # of its products
    num_experts: int
    kinds: frozenset[str]  # what its layout does: "TP", "PP", "VPP", "CP", "EP", "ETP", "recompute", LAYER_ALONE
    release: str  # of the program; empty where it is not stated
    sizes: tuple[float, ...]

    @property
    def experts(self) -> Experts:
        if not self.num_experts:
            return "dense"
        return "fine-grained experts" if self.num_experts >= FINE_GRAINED else "coarse experts"


def situation_of(row: PublishedRow, chip: str) -> Situation:
    """Of a published row on that device profile."""
    sizes = row.architecture
    return situation(
        chip=chip,
        precision=precision_of(row.is_eight_bit),
        num_experts=sizes.num_experts,
        split={
            "TP": row.tensor, "PP": row.pipeline, "VPP": row.virtual_pipeline, "CP": row.context, "EP": row.expert,
            "ETP": row.expert_tensor if sizes.num_experts else 1,
        },
        is_recomputed=row.has("recompute-granularity") or row.has("recompute-activation-function"),
        more=own_exchanges(row)
        | ({LAYER_ALONE} if row.is_layer_alone else set()),
        release=row.source,
        sizes=(sizes.hidden_size, row.layers, row.sequence_length, row.micro_batch, row.world_size),
    )  # fmt: skip


def own_exchanges(row: PublishedRow) -> set[str]:
    """Kernels by which the job exchanges tokens, named in words or by megatron's options ("flex" alone is DeepEP)."""
    flags = {flag.casefold() for flag in row.flags}
    found = {kernel for flag, kernel in _OF_FLAGS.items() if flag in flags}
    if row.flags.get("moe-token-dispatcher-type") == "flex" and not found:
        backend = row.flags.get("moe-flex-dispatcher-backend", "")
        found.add(_HYBRID if backend.casefold() == "hybridep" else _DEEP)
    return found


def situation(
    *, chip: str, precision: Precision, num_experts: int, split: dict[str, int], is_recomputed: bool, release: str,
    sizes: tuple[int, ...], more: Set[str] = frozenset(),
) -> Situation:  # fmt: skip
    """Of a job, from what it splits over how many ranks and its sizes, which must be those of `situation_of`.

    Args:
        chip: the name of the device profile.
        split: ranks by "TP", "PP", "VPP" (chunks), "CP", "EP" and "ETP"; 1 of a dense model's last two.
        release: the program and its release; empty where that is not known.
        sizes: hidden size, layers, sequence length, micro-batch, world size.
        more: other kinds, such as those of OWN_EXCHANGES.
    """
    kinds = (
        {name for name, ranks in split.items() if ranks > 1} | ({"recompute"} if is_recomputed else set()) | set(more)
    )
    logs = (*(math.log(each) for each in sizes), *(math.log(split[name]) for name in sorted(split)))
    return Situation(chip, precision, num_experts, frozenset(kinds), release, logs)


def distance(one: Situation, other: Situation) -> float:
    """0 for the same situation. Sizes count by their ratio, chips and precisions more than any of them."""
    apart = math.dist(one.sizes, other.sizes)
    apart += _OTHER_CHIP * (one.chip != other.chip) + _OTHER_PRECISION * (one.precision != other.precision)
    return apart + _OTHER_EXPERTS * (one.experts != other.experts) + _OTHER_KIND * len(one.kinds ^ other.kinds)
