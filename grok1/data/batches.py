"""Samples in: cut into this rank's micro-batches of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.data.order import SampleOrder
from grok1.distributed.context_split import part_of_rank
from grok1.distributed.groups import Ranks

Batch = dict[str, Tensor]


class BatchSource(Protocol):
    """Where a step's micro-batches come from."""

    def step(self, step: int) -> list[Batch]:
        """This replica's micro-batches at a step (counted from 0): tokens, labels, position_ids [B, S], on the device.

        May hold loss_weights [B, S], which sum to 1 (without them, all tokens count alike), and key_bias [B, 1, 1, S]
        (see grok1.model.attention). In a context group, S is this rank's part, in all but the keys' bias.
        """
        ...


class TokenDataset(Protocol):
    """megatron's GPTDataset: samples of one sequence."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """tokens, labels and position_ids [S] of one sample, on the host."""
        ...


class Batches:
    """A rank's micro-batches, by step.

    The order is megatron's: micro-batch m of replica d takes the samples from
    `step * global_batch + (m * replicas + d) * micro_batch` on. It depends on recipe, corpus and step alone, not on how
    many steps follow (see `SampleOrder`).
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, dataset: TokenDataset) -> None:
        self._recipe, self._ranks, self._dataset = recipe, ranks, dataset
        self._order = SampleOrder(len(dataset), recipe.training.seed)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of this replica at a step (counted from 0), on the device.

        Raises:
            ValueError: a sample holds an id that the model has no row for; before anything is computed.
        """
        training, parallel = self._recipe.training, self._recipe.parallel
        size = training.micro_batch
        batches = []
        for micro in range(self._recipe.num_micro_batches):
            first = step * training.global_batch + (micro * parallel.data + self._ranks.data) * size
            whole = _collate([self._dataset[self._order[number]] for number in range(first, first + size)])
            batches.append(of_context_rank(whole, parallel.context, self._ranks.context))
        return batches


def of_context_rank(batch: Batch, ranks: int, rank: int) -> Batch:
    """A rank's part of each sequence, as megatron cuts them: chunks `rank` and 2 x `ranks` - 1 - `rank` of 2 x `ranks`.

    A bias of keys stays whole: every query sees keys of other ranks.
    """
    if ranks == 1:
        return batch
    return {name: values if name == "key_bias" else part_of_rank(values, ranks, rank) for name, values in batch.items()}


def _collate(samples: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Stack samples into tokens, labels and positions [B, S] on the device."""
    target = torch.cuda.current_device()
    return {key: torch.stack([s[key] for s in samples]).to(target) for key in ("tokens", "labels", "position_ids")}
