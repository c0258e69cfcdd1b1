"""Samples out of a corpus: megatron's GPTDataset over the training documents, on an index of known content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from grok1.config.recipe import Recipe
from grok1.data.identity import corpus_digest
from grok1.data.sample_index import (
    ARRAYS,
    Ints,
    ensure_index,
    find_index,
    index_folders,
    index_size,
    read_index,
    wanted_index,
)
from grok1.data.split import training_share
from grok1.data.tokenizer import Tokenizer, load_tokenizer
from grok1.megatron.door import GPTDataset, GPTDatasetConfig, Split


class TrainingSamples(GPTDataset):
    """megatron's dataset, which reads its index from where we keep it, and lets no id pass that the model has no row
    for."""

    vocab_size = 0

    def _build_document_sample_shuffle_indices(self) -> tuple[Ints, Ints, Ints]:
        """In place of megatron's own cache, which goes by the name of the corpus alone, and unpickles."""
        return read_index(Path(self.config.path_to_cache))

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[Any, ...]:
        """megatron's tokens of a sample, before it turns those that equal its padding (-1, say) into 0."""
        text, documents, *more = super()._query_document_sample_shuffle_indices(idx)  # 0.19: the documents' lengths
        if text.min() < 0 or text.max() >= self.vocab_size:
            raise ValueError(self._complaint(idx, text, documents))
        return text, documents, *more

    def _complaint(self, idx: int, text: Any, documents: Any) -> str:
        """Where the first bad id of a sample lies. Documents and tokens are counted from 1, as rows are."""
        bad = int(np.flatnonzero((text < 0) | (text >= self.vocab_size))[0])
        place = bad + int(
            self.sample_index[self.shuffle_index[idx]][1]
        )  # from the start of the sample's first document
        for sequence in map(int, documents):
            if place < self.dataset.sequence_lengths[sequence]:
                break
            place -= int(self.dataset.sequence_lengths[sequence])
        document = int(np.searchsorted(self.dataset.document_indices, sequence, side="right"))
        return (
            f"{self.dataset_path}.bin holds token id {int(text[bad])} (token {place + 1} of document {document}, "
            f"sample {idx}), the recipe's vocab_size is {self.vocab_size}; "
            "preprocess with the recipe's tokenizer, or set model.vocab_size"
        )


def training_samples(
    recipe: Recipe,
    prefix: Path,
    tokenizer_path: Path,
    index_cache: Path | None = None,
    corpus: str = "",
    *,
    is_first: bool = True,
) -> TrainingSamples:
    """The training documents of a corpus as samples, with the index that the recipe wants of them.

    The first rank of a node calls this before it joins a job: it finds the index and reads all of it once, or builds
    it. The other ranks of the node (not `is_first`) find it afterwards. `corpus` is `corpus_digest`'s; where it is not
    given, it is computed.

    Raises:
        ValueError: one line: see `ensure_index`, `training_share` and `load_tokenizer`.
    """
    folders = index_folders(prefix, index_cache)
    wanted = wanted_index(recipe, corpus or corpus_digest(prefix, folders))
    tokenizer = load_tokenizer(recipe.data.tokenizer_type, tokenizer_path)
    share = training_share(recipe, prefix)
    size = index_size(wanted, *share)

    def dataset(kind: type[GPTDataset], folder: Path) -> Any:
        config = _config(recipe, prefix, tokenizer, folder)
        low_level = kind.build_low_level_dataset(str(prefix), config)
        documents = np.arange(share.documents, dtype=np.int32)
        return kind(low_level, str(prefix), documents, size.samples, Split.train, config)

    def build(folder: Path) -> None:
        dataset(GPTDataset, folder)  # writes the index while it is constructed
        for name in ARRAYS:
            next(folder.glob(f"*-{name}")).rename(folder / name)

    place = ensure_index(wanted, folders, size, build) if is_first else find_index(wanted, folders)
    if place is None:
        raise ValueError(
            f"no sample index {wanted.name} in {' or '.join(map(str, folders))}, though the first rank of this node "
            "has made it; give --index-cache DIR, a folder that all ranks of a node share"
        )
    samples: TrainingSamples = dataset(TrainingSamples, place)
    samples.vocab_size = recipe.model.vocab_size
    return samples


def _config(recipe: Recipe, prefix: Path, tokenizer: Tokenizer, folder: Path) -> GPTDatasetConfig:
    return GPTDatasetConfig(
        random_seed=recipe.training.seed,
        sequence_length=recipe.training.sequence_length,
        blend=([str(prefix)], None),
        split="1,0,0",  # not read: grok1.data.split has chosen the documents
        path_to_cache=str(folder),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
