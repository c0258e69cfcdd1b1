"""Which documents of a corpus are for training. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from grok1.config.recipe import Recipe
from grok1.data.indexed import sequence_lengths

_LEAST_TOKENS = 2  # one to read, one to predict


class TrainingShare(NamedTuple):
    """The training documents: the first ones of the corpus. Empty documents are not counted: they have no tokens."""

    documents: int
    tokens: int


def training_share(recipe: Recipe, prefix: Path) -> TrainingShare:
    """What the recipe's split leaves for training of a corpus that `check_indexed` has accepted.

    Raises:
        ValueError: nothing to train on, over which megatron would loop for ever, or a sequence of one token, at which
            its compiled helpers abort the process.
    """
    lengths = sequence_lengths(prefix)
    documents = _training_documents(recipe.data.split, len(lengths))
    tokens = int(lengths[:documents].sum(dtype=np.int64))
    if tokens < _LEAST_TOKENS:
        raise ValueError(
            f"data.split {recipe.data.split} leaves {documents} of the {len(lengths)} documents of {prefix} for "
            f"training, with {tokens} tokens; give training a larger weight (--set data.split=1,0,0 takes all), "
            "or add text"
        )
    if recipe.training.sequence_length < _LEAST_TOKENS:
        raise ValueError(f"training.sequence_length {recipe.training.sequence_length} is too short; give at least 2")
    return TrainingShare(documents, tokens)


def _training_documents(split: str, sequences: int) -> int:
    """As megatron rounds: megatron.core.datasets, `normalize` and `_build_megatron_dataset_splits`."""
    weights = np.array([float(weight) for weight in split.split(",")], dtype=np.float64)
    fraction = float((weights / np.sum(weights))[0])
    return round(fraction * float(sequences))
