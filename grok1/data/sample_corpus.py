"""The sample corpus: real English that every Python ships, so that a first run needs no download.

Python's language reference (`pydoc_data.topics`) and its standard library's docstrings become a parquet file in
alpaca's format (instruction, input, output, text). A SentencePiece model is trained on it. Then it is preprocessed as a
user's data is.
"""

from __future__ import annotations

import ast
import io
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import platformdirs
from filelock import FileLock

from grok1.config.recipe import Recipe
from grok1.data.indexed import check_indexed
from grok1.data.preprocess import preprocess
from grok1.files import whole_folder

_FORMAT = 1  # raise it when what is built below changes; cached corpora of other formats are not used
_CORPUS_BYTES = 8_000_000  # of a sample corpus, and some to spare
_LARGEST_VOCABULARY = 16384  # a megabyte of text supports no more pieces; recipes with more use the first ids only
_SMALLEST_VOCABULARY = 384  # 256 bytes, 4 special pieces, and the characters of the text
_PARAGRAPHS_BYTES = 800  # of one row's answer, about 200 tokens; a longer paragraph stays whole

# alpaca's prompt for rows without an input
_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n{output}"
)


class SampleCorpus(NamedTuple):
    """A corpus ready to train on."""

    prefix: Path  # of the .bin/.idx pair
    tokenizer_path: Path


class _Answer(NamedTuple):
    instruction: str
    output: str


def cached_sample_corpus(recipe: Recipe) -> SampleCorpus:
    """The sample corpus in the recipe's vocabulary, built on first use and kept in the user's cache."""
    return sample_corpus(platformdirs.user_cache_path("grok1-bench"), recipe.model.vocab_size)


def sample_corpus(cache_dir: Path, vocab_size: int) -> SampleCorpus:
    """The sample corpus for a vocabulary of at most that many entries, built on first use and cached.

    Safe to call from several processes at once: one builds, the others wait for it.

    Raises:
        ValueError: the vocabulary is too small, or the folder cannot be written.
    """
    if vocab_size < _SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size {vocab_size} is too small for the sample corpus; "
            f"use at least {_SMALLEST_VOCABULARY}, or give --data"
        )
    size = min(vocab_size, _LARGEST_VOCABULARY)
    folder = cache_dir / f"sample-{_FORMAT}-python{platform.python_version()}-vocab{size}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not _is_whole(folder):
                _build(folder, size)
    except OSError as error:
        raise ValueError(
            f"cannot build the sample corpus in {cache_dir}: {error.strerror or error}; "
            f"it needs {_CORPUS_BYTES} bytes there: free some space, or give --data"
        ) from error
    return _corpus(folder)


def _corpus(folder: Path) -> SampleCorpus:
    return SampleCorpus(folder / "sample_text_document", folder / "tokenizer.model")


def _is_whole(folder: Path) -> bool:
    corpus = _corpus(folder)
    try:
        check_indexed(corpus.prefix)
    except ValueError:
        return False
    return corpus.tokenizer_path.is_file()


def _build(folder: Path, vocab_size: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    with whole_folder(folder) as building:
        answers = [*_topics(), *_docstrings()]
        _write_parquet(building / "sample.parquet", answers)
        _train_tokenizer(building / "tokenizer.model", answers, vocab_size)
        preprocess([building / "sample.parquet"], building / "sample", "SentencePiece", building / "tokenizer.model")


def _topics() -> Iterator[_Answer]:
    """Python's language reference, a few paragraphs a row."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        for part, output in enumerate(_paragraphs(text), start=1):
            yield _Answer(f"Explain {name!r} in Python, part {part}.", output)


def _docstrings() -> Iterator[_Answer]:
    """The standard library's longer docstrings; none where Python comes without its sources."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            name = path.stem if isinstance(node, ast.Module) else f"{path.stem}.{node.name}"
            if len(text) > 200:
                for output in _paragraphs(text):
                    yield _Answer(f"What does Python's {name} do?", output)


def _paragraphs(text: str) -> Iterator[str]:
    """Consecutive paragraphs, joined up to the wanted size."""
    held = ""
    for paragraph in text.strip().split("\n\n"):
        if held and len(held) + len(paragraph) > _PARAGRAPHS_BYTES:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if held.strip():
        yield held


def _text(answer: _Answer) -> str:
    return _PROMPT.format(instruction=answer.instruction, output=answer.output)


def _write_parquet(path: Path, answers: list[_Answer]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "instruction": [answer.instruction for answer in answers],
        "input": ["" for _ in answers],
        "output": [answer.output for answer in answers],
        "text": [_text(answer) for answer in answers],
    }
    parquet.write_table(pyarrow.table(columns), path)


def _train_tokenizer(path: Path, answers: list[_Answer], vocab_size: int) -> None:
    """A byte-pair model with xAI's special pieces. One thread, no shuffling: same text, same model."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for answer in answers for line in _text(answer).split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9995,  # rarer characters fall back to their bytes
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
        pad_id=0,
        pad_piece="[PAD]",
        bos_id=1,
        bos_piece="[BOS]",
        eos_id=2,
        eos_piece="[EOS]",
        unk_id=3,
        unk_piece="[UNK]",
    )
    path.write_bytes(model.getvalue())
