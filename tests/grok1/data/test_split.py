"""What a split leaves for training, as megatron rounds it; and what leaves nothing is refused."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok1.config.load import ONE_RANK, load_recipe
from grok1.data.indexed import IndexedWriter
from grok1.data.split import _training_documents, training_share


def write_corpus(folder: Path, documents: int, tokens: int = 5) -> Path:
    with IndexedWriter(folder / "data", 512) as writer:
        for _ in range(documents):
            writer.add_document(array("i", range(tokens)))
    return folder / "data"


@given(
    weights=st.tuples(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    sequences=st.integers(1, 10**7),
)
def test_documents_are_rounded_as_megatron_does(weights: tuple[int, int, int], sequences: int) -> None:
    from megatron.core.datasets.blended_megatron_dataset_config import (
        convert_split_vector_to_split_matrix,
        parse_and_normalize_split,
    )

    split = ",".join(map(str, weights))
    begin, end = convert_split_vector_to_split_matrix(parse_and_normalize_split(split))[0]
    expected = np.arange(int(round(begin * float(sequences))), int(round(end * float(sequences))))
    assert _training_documents(split, sequences) == len(expected)


@pytest.mark.parametrize("split", ["1,98,1", "1e0,98,1", "0.5,49,0.5", "1e-300,1,1"])
def test_a_share_of_no_document_is_refused_with_its_counts(tmp_path: Path, split: str) -> None:
    recipe = load_recipe("grok1-nano", [f"data.split={split}"])
    complaint = rf"data\.split {split} leaves 0 of the 12 documents of .*data for training.*--set data\.split=1,0,0"
    with pytest.raises(ValueError, match=complaint):
        training_share(recipe, write_corpus(tmp_path, 12))


def test_a_share_of_one_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leaves 1 of the 1 documents of .* with 1 tokens"):
        training_share(load_recipe("grok1-nano"), write_corpus(tmp_path, 1, tokens=1))


def test_shares_of_validation_and_test_may_be_empty(tmp_path: Path) -> None:
    """Nothing here reads them."""
    assert training_share(load_recipe("grok1-nano", ["data.split=98,1,1"]), write_corpus(tmp_path, 12)) == (12, 60)
    assert training_share(load_recipe("grok1-nano", ["data.split=1,1,0"]), write_corpus(tmp_path, 12)) == (6, 30)


def test_sequences_of_one_token_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("grok1-nano", [*ONE_RANK, "training.sequence_length=1"])
    with pytest.raises(ValueError, match=r"training\.sequence_length 1 is too short"):
        training_share(recipe, write_corpus(tmp_path, 12))
