"""Calls of one collective as columns, and what all calls of a training step have in common. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bench.plan.groups import Group, groups_of
from bench.plan.layouts import Ints, Layouts, Places
from bench.plan.routed import Routed, routed
from grok1.config.recipe import Recipe

BYTES = {"float32": 4, "bfloat16": 2, "int64": 8, "bool": 1}
ALL_GATHER, REDUCE_SCATTER = "all_gather_into_tensor", "reduce_scatter_tensor"
ALL_REDUCE, ALL_TO_ALL = "all_reduce", "all_to_all_single"
# parts of a size each, where what ranks have differs in length
ALL_GATHER_PARTS, REDUCE_SCATTER_PARTS = "all_gather", "reduce_scatter"
_GRADIENTS_WAY = {
    ALL_GATHER: REDUCE_SCATTER,
    REDUCE_SCATTER: ALL_GATHER,
    ALL_GATHER_PARTS: REDUCE_SCATTER_PARTS,
    REDUCE_SCATTER_PARTS: ALL_GATHER_PARTS,
    ALL_TO_ALL: ALL_TO_ALL,
}
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
Where = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Call:
    """Calls of one collective, a row a place: how many, and the bytes of their larger sides together."""

    group: str  # a key of Sizes.groups
    operation: str
    dtype: str
    calls: Ints
    bytes: Ints
    is_in_world: bool = False  # called in the whole job's group, though only this group's ranks take part

    @property
    def back(self) -> Call:
        """What the gradient's way calls. Activations have one; counts of tokens have none."""
        return replace(self, operation=_GRADIENTS_WAY[self.operation])

    def times(self, repeats: Ints | Where) -> Call:
        """So many of it."""
        return replace(self, calls=self.calls * repeats, bytes=self.bytes * repeats)


Phased = tuple[str, Call]  # the ledger's phase, and what is called in it


@dataclass(frozen=True)
class Sizes:
    """What the closed forms are made of: places, and how their experts are loaded."""

    places: Places
    shares: Sequence[float] | None = None
    expert_rank: Ints | int = 0

    @property
    def of(self) -> Layouts:
        """The layout of each place."""
        return self.places.of

    @property
    def recipe(self) -> Recipe:
        """What the layouts have in common."""
        return self.places.of.recipe

    @cached_property
    def groups(self) -> dict[str, Group]:
        """By name."""
        return groups_of(self.of)

    @cached_property
    def routed(self) -> Routed:
        """Pairs of a micro-batch."""
        return routed(self.of, self.shares, self.expert_rank)

    @property
    def dtype(self) -> str:
        """Of weights and activations."""
        return _DTYPES[self.recipe.training.dtype]

    @property
    def gradient_dtype(self) -> str:
        """Of weights' gradients."""
        return _DTYPES[self.recipe.training.gradient_dtype]

    @property
    def router_dtype(self) -> str:
        """Of the experts' probabilities."""
        return "float32" if self.recipe.training.router_dtype == "fp32" else self.dtype

    @property
    def shard(self) -> Ints:
        """Tokens that a tensor rank holds between the matrices, and routes."""
        return self.of.tokens // self.of.tensor

    @property
    def hidden_values(self) -> Ints:
        """Of the hidden states of all tokens of a micro-batch."""
        return self.of.tokens * self.recipe.model.hidden_size

    def call(
        self,
        group: str,
        operation: str,
        dtype: str,
        values: Ints | int,
        times: Ints | int = 1,
        where: Where | bool = True,
    ) -> Call:
        """So many calls of that many values each, where the group has more than one rank and `where` holds."""
        calls = np.asarray(times * where * (self.groups[group].ranks > 1), np.int64)
        return Call(group, operation, dtype, calls, calls * values * BYTES[dtype])
