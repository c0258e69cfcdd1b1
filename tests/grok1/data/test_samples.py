"""Samples of a corpus: megatron's own, on an index that knows the text, without ids that the model has no row for."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.data.batches import Batches
from grok1.data.indexed import IndexedWriter, indexed_path
from grok1.data.sample_index import index_size, wanted_index
from grok1.data.samples import TrainingSamples, training_samples
from grok1.distributed.groups import Ranks

LENGTH = 8
ALONE = Ranks(0, 1, 0, 0, 0, 0, 0, 0, 0, 0, is_first_stage=True, is_last_stage=True)


@pytest.fixture
def tokenizer(corpus: tuple[Path, Path]) -> Path:
    return corpus[1]


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("grok1-nano", [*ONE_RANK, f"training.sequence_length={LENGTH}", "data.split=1,0,0", *overrides])


def write_corpus(prefix: Path, documents: list[list[int]], vocab_size: int = 512) -> Path:
    with IndexedWriter(prefix, vocab_size) as writer:
        for ids in documents:
            writer.add_document(array("i", ids))
    return prefix


def texts(number: int, first: int = 0) -> list[list[int]]:
    """Documents of 3 to 7 tokens."""
    return [[(first + 10 * each + token) % 512 for token in range(3 + each % 5)] for each in range(number)]


def read(samples: TrainingSamples) -> list[list[int]]:
    return [samples[index]["tokens"].tolist() for index in range(len(samples))]


@pytest.mark.parametrize("decay_steps", [3, 11, 12, 40, 200])
def test_the_order_is_megatrons(tmp_path: Path, tokenizer: Path, decay_steps: int) -> None:
    """With as many samples as the schedule has: one epoch, several, and with the last one apart."""
    from grok1.data.samples import _config
    from grok1.data.tokenizer import load_tokenizer
    from grok1.megatron.door import GPTDataset, Split

    recipe, prefix = recipe_of(f"training.decay_steps={decay_steps}"), write_corpus(tmp_path / "data", texts(20))
    config = _config(recipe, prefix, load_tokenizer("SentencePiece", tokenizer), tmp_path / "megatron")
    stock = GPTDataset(
        GPTDataset.build_low_level_dataset(str(prefix), config),
        str(prefix),
        np.arange(20, dtype=np.int32),
        decay_steps * recipe.training.global_batch,
        Split.train,
        config,
    )
    samples = training_samples(recipe, prefix, tokenizer)
    assert read(samples) == [stock[index]["tokens"].tolist() for index in range(len(stock))]
    size = index_size(wanted_index(recipe, ""), 20, sum(map(len, texts(20))))
    written = sum(path.stat().st_size for path in Path(samples.config.path_to_cache).iterdir())
    assert written <= size.bytes <= written + 4096


def test_new_text_under_an_old_name_gets_its_own_index(tmp_path: Path, tokenizer: Path) -> None:
    recipe = recipe_of()
    training_samples(recipe, write_corpus(tmp_path / "data", texts(20)), tokenizer)
    for changed in (texts(50), texts(4), texts(20, first=5)):  # more, fewer, and as many of the same lengths
        again = training_samples(recipe, write_corpus(tmp_path / "data", changed), tokenizer)
        (tmp_path / "fresh").mkdir(exist_ok=True)
        fresh = training_samples(recipe, write_corpus(tmp_path / "fresh" / "data", changed), tokenizer)
        assert read(again) == read(fresh)


def test_an_index_that_megatron_kept_there_is_not_used(tmp_path: Path, tokenizer: Path) -> None:
    """Earlier versions of this program kept theirs so."""
    prefix = write_corpus(tmp_path / "data", texts(20))
    (tmp_path / "cache").mkdir()
    for name in ("description.txt", "document_index.npy", "sample_index.npy", "shuffle_index.npy"):
        (tmp_path / "cache" / f"0-GPTDataset-train-{name}").write_bytes(b"old")
    assert len(training_samples(recipe_of(), prefix, tokenizer)) > 0


def test_a_corpus_smaller_than_a_sample_is_repeated_into_one(tmp_path: Path, tokenizer: Path) -> None:
    prefix = write_corpus(tmp_path / "data", [[7, 8]])
    samples = training_samples(recipe_of("training.decay_steps=3"), prefix, tokenizer)
    assert read(samples)[0] == [7, 8] * 4


def test_the_index_goes_where_it_is_told(tmp_path: Path, tokenizer: Path) -> None:
    prefix = write_corpus(tmp_path / "data", texts(20))
    before = set(tmp_path.iterdir())
    samples = training_samples(recipe_of(), prefix, tokenizer, tmp_path / "mine")
    assert set(tmp_path.iterdir()) - before == {tmp_path / "mine"}
    assert read(training_samples(recipe_of(), prefix, tokenizer, tmp_path / "mine", is_first=False)) == read(samples)
    with pytest.raises(ValueError, match=r"no sample index index-\w+ in .*other, though"):
        training_samples(recipe_of(), prefix, tokenizer, tmp_path / "other", is_first=False)


@pytest.mark.parametrize("bad", [512, 60000, -1, -7, 2**31 - 1])
@pytest.mark.parametrize("place", [(0, 0), (3, 2), (9, 6), (19, 4)])
def test_an_id_beyond_the_vocabulary_is_named_with_its_place(
    tmp_path: Path, tokenizer: Path, bad: int, place: tuple[int, int]
) -> None:
    """Also -1, which megatron takes for padding and turns into 0."""
    documents, (document, token) = texts(20), place
    assert token < len(documents[document])
    before = sum(map(len, documents[:document]))
    documents.insert(2, [])  # an empty document has a number too
    prefix = write_corpus(tmp_path / "data", documents, vocab_size=100_000)
    tokens = np.memmap(indexed_path(prefix, ".bin"), dtype="<i4", mode="r+")  # what our writer refuses
    tokens[before + token] = bad
    tokens.flush()
    samples = training_samples(recipe_of(), prefix, tokenizer)
    refused = []
    for index in range(len(samples)):
        try:
            samples[index]
        except ValueError as error:
            refused.append(str(error))
    assert refused
    number = document + 1 + (document >= 2)
    for said in refused:
        assert f"data.bin holds token id {bad} (token {token + 1} of document {number}, sample " in said
        assert "the recipe's vocab_size is 512" in said


def test_a_step_with_a_bad_id_computes_nothing(tmp_path: Path, tokenizer: Path) -> None:
    documents = texts(20)
    documents[11][0] = 511
    prefix, recipe = write_corpus(tmp_path / "data", documents), recipe_of()
    assert Batches(recipe, ALONE, training_samples(recipe, prefix, tokenizer)).step(0)
    content = np.fromfile(indexed_path(prefix, ".bin"), np.uint16)
    content[content == 511] = 512
    content.tofile(indexed_path(prefix, ".bin"))
    batches = Batches(recipe, ALONE, training_samples(recipe, prefix, tokenizer))
    with pytest.raises(ValueError, match="holds token id 512"):
        list(map(batches.step, range(12)))


def test_what_a_step_sees_is_a_function_of_recipe_and_step(tmp_path: Path, tokenizer: Path) -> None:
    """Whichever steps came before, over many readings of the index: as after a resume."""
    prefix, recipe = write_corpus(tmp_path / "data", texts(20)), recipe_of("training.decay_steps=3")

    def tokens(steps: range) -> list[list[list[int]]]:
        batches = Batches(recipe, ALONE, training_samples(recipe, prefix, tokenizer))
        return [[micro["tokens"].tolist() for micro in batches.step(step)] for step in steps]

    whole = tokens(range(40))
    assert tokens(range(17, 40)) == whole[17:]
    assert tokens(range(5)) == whole[:5]
    assert len(training_samples(recipe, prefix, tokenizer)) < 40 * recipe.training.global_batch
