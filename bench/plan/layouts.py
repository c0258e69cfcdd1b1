"""Layouts of a recipe as columns, so that formulas are computed for all of them at once. No torch.

A layout is what can be changed of a job without changing what it learns: how its ranks are split, how many sequences
pass at once, what is computed again. Everything else is its recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from grok1.config.recipe import Recipe

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recompute:
    """What the backward pass computes again, as `training.recompute` and the keys beside it say."""

    kind: str = "none"  # none, full, selective
    method: str = "uniform"  # of full
    layers: int = 1  # of full
    modules: tuple[str, ...] = ()  # of selective; sorted, so that one choice has one name

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", tuple(sorted(self.modules)))


DISPATCHERS = ("alltoall", "allgather")
EXCHANGES = ("all_gather", "a2a")
ORDERS = ("tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp")


@dataclass(frozen=True)
class Layouts:
    """A row each. Columns are named as the recipe's keys; choices are positions in the tuples above."""

    recipe: Recipe
    recomputes: tuple[Recompute, ...]  # what the column `recompute` points into
    world_size: Ints
    tensor: Ints
    context: Ints
    context_exchange: Ints
    pipeline: Ints
    virtual_pipeline: Ints
    expert: Ints
    expert_tensor: Ints
    micro_batch: Ints
    dispatcher: Ints
    order: Ints
    recompute: Ints

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, rows: Any) -> Layouts:
        """These rows alone: positions or a mask."""
        columns = {
            each.name: getattr(self, each.name)[rows]
            for each in fields(self)
            if each.name not in ("recipe", "recomputes")
        }
        return replace(self, **columns)

    # ---- what follows from the columns, computed once --------------------------------------------------

    @cached_property
    def data(self) -> Ints:
        """Replicas of the dense weights."""
        return self.world_size // (self.tensor * self.context * self.pipeline)

    @cached_property
    def expert_data(self) -> Ints:
        """Replicas of each expert."""
        return self.world_size // (self.expert_tensor * self.expert * self.pipeline)

    @cached_property
    def micro_batches(self) -> Ints:
        """Micro-batches that each replica runs in a step."""
        return self.recipe.training.global_batch // (self.micro_batch * self.data)

    @cached_property
    def tokens(self) -> Ints:
        """Tokens of a micro-batch on one rank, before tensor ranks split them."""
        return self.recipe.training.sequence_length * self.micro_batch // self.context

    def column_of(self, choice: str, key: str) -> npt.NDArray[np.bool_]:
        """Where that column has that choice: column_of("allgather", "dispatcher")."""
        names = {"dispatcher": DISPATCHERS, "context_exchange": EXCHANGES, "order": ORDERS}[key]
        return np.asarray(getattr(self, key) == names.index(choice))


@dataclass(frozen=True)
class Places:
    """One rank of one pipeline stage of one layout, a row each; the rank stands for its stage."""

    of: Layouts  # the layout of each place, a row a place
    layout: Ints  # its position among the layouts that the places were made of
    stage: Ints

    def __len__(self) -> int:
        return len(self.stage)

    @cached_property
    def is_first(self) -> npt.NDArray[np.bool_]:
        """Where the stage has the embedding."""
        return np.asarray(self.stage == 0)

    @cached_property
    def is_last(self) -> npt.NDArray[np.bool_]:
        """Where the stage has the head."""
        return np.asarray(self.stage == self.of.pipeline - 1)

    @cached_property
    def layers(self) -> Ints:
        """Layers of the stage, over all its chunks, as grok1.config.stages spreads them."""
        parallel = self.of.recipe.parallel
        first, last = parallel.first_stage_layers, parallel.last_stage_layers
        others = self.of.pipeline - bool(first) - bool(last)
        even = (self.of.recipe.model.num_layers - first - last) // np.maximum(1, others)
        layers = np.where(self.is_first & bool(first), first, even)
        return np.asarray(np.where(self.is_last & bool(last), last, layers))


def layouts_of(recipe: Recipe) -> Layouts:
    """The recipe's own layout, as one row."""
    parallel, training = recipe.parallel, recipe.training
    is_full = training.recompute == "full"
    recompute = Recompute(
        training.recompute,
        training.recompute_method if is_full else "uniform",
        training.recompute_layers if is_full else 1,
        tuple(training.recompute_modules) if training.recompute == "selective" else (),
    )
    columns = {
        "world_size": parallel.world_size,
        "tensor": parallel.tensor,
        "context": parallel.context,
        "context_exchange": EXCHANGES.index(parallel.context_exchange),
        "pipeline": parallel.pipeline,
        "virtual_pipeline": parallel.virtual_pipeline,
        "expert": parallel.expert,
        "expert_tensor": parallel.expert_tensor,
        "micro_batch": training.micro_batch,
        "dispatcher": DISPATCHERS.index(parallel.dispatcher),
        "order": ORDERS.index(parallel.order),
        "recompute": 0,
    }
    return Layouts(recipe, (recompute,), **{name: np.array([value], np.int64) for name, value in columns.items()})


def every_stage(layouts: Layouts) -> Places:
    """A place for every stage of every layout."""
    rows = np.repeat(np.arange(len(layouts), dtype=np.int64), layouts.pipeline)
    starts = np.cumsum(layouts.pipeline) - layouts.pipeline
    stage = np.arange(len(rows), dtype=np.int64) - np.repeat(starts, layouts.pipeline)
    return Places(layouts.take(rows), rows, stage)


def different_stages(layouts: Layouts) -> Places:
    """A place for the stages that differ from the one before: the first, the second, the last."""
    stages = np.arange(3, dtype=np.int64)
    stage = np.where(stages == 2, layouts.pipeline[:, None] - 1, stages)
    is_another = stages < layouts.pipeline[:, None]
    rows = np.broadcast_to(np.arange(len(layouts), dtype=np.int64)[:, None], stage.shape)[is_another]
    return Places(layouts.take(rows), rows, stage[is_another])
