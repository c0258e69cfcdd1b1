"""How many (token, expert) pairs of a micro-batch go where, as the ledger plans its routes. No torch.

Every rank routes alike. So what a rank sends to an expert, it gets from each of the ranks that send to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.layouts import Ints, Layouts


@dataclass(frozen=True)
class Routed:
    """Pairs of the tokens that one rank routes, a row a layout."""

    sent: Ints  # to all experts
    received: Ints  # by the experts of one expert rank


def routed(of: Layouts, shares: Sequence[float] | None = None, expert_rank: Ints | int = 0) -> Routed:
    """Pairs that a rank routes, and those for the experts of the rank at that place of its expert group.

    `shares` are each expert's of the pairs, summing to 1; None: equal ones. They are rounded and cut to a capacity as
    in grok1.training.planned_routing.
    """
    counts = _pairs_by_expert(of, shares)
    until = np.concatenate([np.zeros((len(of), 1), np.int64), counts.cumsum(axis=1)], axis=1)
    local = of.recipe.model.num_experts // of.expert
    rows, first = np.arange(len(of)), expert_rank * local
    return Routed(sent=until[:, -1], received=until[rows, first + local] - until[rows, first])


def _pairs_by_expert(of: Layouts, shares: Sequence[float] | None) -> Ints:
    """[layouts, experts]: cumulative shares are rounded, so that counts add up; then a capacity cuts or fills them."""
    model, training = of.recipe.model, of.recipe.training
    experts = model.num_experts
    given = tuple(shares) if shares is not None else (1.0 / experts,) * experts
    pairs = of.tokens // of.tensor * model.experts_per_token
    until = np.array([sum(given[: expert + 1]) for expert in range(experts)])
    counts = np.diff(np.rint(pairs[:, None] * until).astype(np.int64), prepend=0)
    if not training.expert_capacity_factor:
        return counts
    capacity = np.ceil(pairs / experts * training.expert_capacity_factor).astype(np.int64)[:, None]
    return np.broadcast_to(capacity, counts.shape) if training.pad_to_capacity else np.minimum(counts, capacity)
