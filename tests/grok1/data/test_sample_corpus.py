"""The sample corpus: real text, cached, the same for everyone who asks at once."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from pyarrow import parquet

from grok1.config.load import load_recipe
from grok1.data.indexed import check_indexed
from grok1.data.sample_corpus import sample_corpus
from grok1.data.tokenizer import load_tokenizer


def test_it_holds_thousands_of_samples_in_grok1_nanos_vocabulary(corpus):
    assert_holds_thousands_of_samples(corpus, load_recipe("grok1-nano").model.vocab_size)


@pytest.mark.slow
def test_it_holds_thousands_of_samples_in_the_vocabulary_asked_for(tmp_path):
    assert_holds_thousands_of_samples(sample_corpus(tmp_path, 2048), 2048)


def assert_holds_thousands_of_samples(corpus, vocab_size):
    info = check_indexed(corpus.prefix)
    assert info.tokens > 2000 * 64
    assert load_tokenizer("SentencePiece", corpus.tokenizer_path).vocab_size == vocab_size


def test_its_rows_have_alpacas_shape(corpus):
    table = parquet.read_table(corpus.prefix.parent / "sample.parquet")
    assert table.column_names == ["instruction", "input", "output", "text"]
    assert table.num_rows == check_indexed(corpus.prefix).documents > 500
    row = table.slice(0, 1).to_pylist()[0]
    assert row["text"].startswith("Below is an instruction that describes a task.")
    assert f"### Instruction:\n{row['instruction']}\n\n### Response:\n{row['output']}" in row["text"]


def test_its_tokens_read_as_its_text(corpus):
    from grok1.megatron.door import IndexedDataset

    tokenizer = load_tokenizer("SentencePiece", corpus.tokenizer_path)
    dataset = IndexedDataset(str(corpus.prefix))  # kept: its arrays are views of a file that it closes
    ids = dataset[0].tolist()
    first = parquet.read_table(corpus.prefix.parent / "sample.parquet")["text"][0].as_py()
    assert ids[-1] == tokenizer.eod
    assert tokenizer.detokenize(ids[:-1]) == first


@pytest.mark.slow
def test_it_is_built_once_and_a_damaged_one_is_built_again(tmp_path):
    corpus = sample_corpus(tmp_path, 512)
    tokens = corpus.prefix.with_name(corpus.prefix.name + ".bin")
    content, made = tokens.read_bytes(), tokens.stat().st_mtime_ns
    assert sample_corpus(tmp_path, 512) == corpus
    assert tokens.stat().st_mtime_ns == made
    tokens.write_bytes(content[:-1])
    sample_corpus(tmp_path, 512)
    assert tokens.read_bytes() == content


@pytest.mark.slow
def test_two_builds_are_the_same_to_the_byte(tmp_path):
    first, second = (sample_corpus(tmp_path / name, 512) for name in "ab")
    for name in ("tokenizer.model", "sample_text_document.bin", "sample_text_document.idx"):
        assert (first.prefix.parent / name).read_bytes() == (second.prefix.parent / name).read_bytes()


@pytest.mark.slow
def test_callers_at_the_same_time_share_one_whole_corpus(tmp_path):
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        corpora = list(pool.map(sample_corpus, [tmp_path] * 3, [512] * 3))
    assert len(set(corpora)) == 1
    assert check_indexed(corpora[0].prefix).tokens
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted([corpora[0].prefix.parent.suffix, ".lock"])


@pytest.mark.slow
def test_a_large_vocabulary_uses_a_part_and_a_tiny_one_is_refused(tmp_path):
    corpus = sample_corpus(tmp_path, 131072)
    assert load_tokenizer("SentencePiece", corpus.tokenizer_path).vocab_size == 16384
    with pytest.raises(ValueError, match="vocab_size 100 is too small"):
        sample_corpus(tmp_path, 100)
