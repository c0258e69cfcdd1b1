"""Tokens in: megatron's GPT dataset over indexed files, cut into this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.data.tokenizer import load_tokenizer
from grok1.distributed.groups import Ranks
from grok1.megatron.door import BlendedMegatronDatasetBuilder, GPTDataset, GPTDatasetConfig
from grok1.megatron.instances import keep_training_split_only

Batch = dict[str, Tensor]


class BatchSource(Protocol):
    """Where a step's micro-batches come from."""

    def step(self, step: int) -> list[Batch]:
        """This replica's micro-batches at a step (counted from 0): tokens, labels, position_ids [B, S], on the device.

        May hold loss_mask [B, S] (1 where a token counts) and key_bias [B, 1, 1, S] (see grok1.model.attention).
        """
        ...


class TokenDataset(Protocol):
    """megatron's GPTDataset: samples of one sequence."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """tokens, labels and position_ids [S] of one sample, on the host."""
        ...


def training_split(recipe: Recipe, prefix: Path, tokenizer_path: Path, num_steps: int) -> TokenDataset:
    """megatron's dataset over the training split, long enough for that many steps.

    Builds the sample index beside the corpus on first use and finds it there afterwards. Inside a
    job, megatron lets rank 0 build it. Before a process has joined a job, it builds alone; where nodes share no disk,
    the first rank of each node must call this once before it joins.
    """
    tokenizer = load_tokenizer(recipe.data.tokenizer_type, tokenizer_path)
    config = GPTDatasetConfig(
        random_seed=recipe.training.seed,
        sequence_length=recipe.training.sequence_length,
        blend=([str(prefix)], None),
        split=recipe.data.split,
        path_to_cache=str(prefix.parent / "cache"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    keep_training_split_only(config)
    num_samples = num_steps * recipe.training.global_batch
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [num_samples, None, None], lambda: True, config)
    dataset: TokenDataset | None = builder.build()[0]
    if dataset is None or len(dataset) < num_samples:
        raise ValueError(f"{prefix} holds no training samples of {recipe.training.sequence_length} tokens; add text")
    return dataset


class Batches:
    """A rank's micro-batches, by step.

    The order is megatron's: micro-batch m of replica d takes the samples from
    `step * global_batch + (m * replicas + d) * micro_batch` on.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, dataset: TokenDataset) -> None:
        self._recipe, self._ranks, self._dataset = recipe, ranks, dataset

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of this replica at a step (counted from 0), on the device."""
        training, parallel = self._recipe.training, self._recipe.parallel
        size = training.micro_batch
        batches = []
        for micro in range(self._recipe.num_micro_batches):
            first = step * training.global_batch + (micro * parallel.data + self._ranks.data) * size
            batches.append(_collate([self._dataset[index] for index in range(first, first + size)]))
        return batches


def _collate(samples: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Stack samples into tokens, labels and positions [B, S] on the device."""
    target = torch.cuda.current_device()
    return {key: torch.stack([s[key] for s in samples]).to(target) for key in ("tokens", "labels", "position_ids")}
