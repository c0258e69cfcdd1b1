"""Text to token ids and back, by SentencePiece or a Hugging Face tokenizer, with the interface megatron wants.

Neither torch nor megatron is imported, so that preprocessing starts its workers quickly. Code that comes with
a Hugging Face folder is never run, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from grok1.config.refusals import reason_of

TokenizerKind = Literal["PretrainedFromHF", "SentencePiece"]

NO_PAD = -1  # megatron's own value for "nothing is padding"; no text ever has this id

# xAI's names first: a model whose trainer did not record its end-of-document id may still hold the piece.
_END_PIECES = ("[EOS]", "</s>")
_IDENTITY_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def load_tokenizer(kind: TokenizerKind, path: Path) -> Tokenizer:
    """The tokenizer at `path`: a `tokenizer.model`, or a folder that holds one or a Hugging Face tokenizer.

    Raises:
        ValueError: one line that says what is missing or wrong and what to do.
    """
    if kind not in get_args(TokenizerKind):
        raise ValueError(f"tokenizer type {kind!r} is unknown; use one of {', '.join(get_args(TokenizerKind))}")
    if not path.exists():
        raise ValueError(f"tokenizer {path} does not exist; give a tokenizer.model file or a folder that holds one")
    return SentencePieceTokenizer(path) if kind == "SentencePiece" else HuggingFaceTokenizer(path)


class Tokenizer(ABC):
    """What preprocessing and megatron's GPTDatasetConfig ask of a tokenizer."""

    def __init__(self, path: Path, vocab_size: int, eod: int, pad: int, files: Sequence[Path]) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.eod = eod
        self.pad = pad
        # Part of the key of megatron's index cache. Of the content, so that nodes may mount the file anywhere.
        self.unique_identifiers: OrderedDict[str, str] = OrderedDict()
        self.unique_identifiers["class"] = type(self).__name__
        self.unique_identifiers["sha256"] = _digest(files)

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, with what the tokenizer itself adds before and after."""

    def tokenize_prompt(self, text: str) -> list[int]:
        """The ids of a text to be continued: as `tokenize`, but nothing that the tokenizer adds ends it."""
        return self.tokenize(text)

    @abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids."""

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Path]]:
        """Pickle as a path: a vocabulary of 131072 entries is slow to send to worker processes."""
        return type(self), (self.path,)


class SentencePieceTokenizer(Tokenizer):
    """Same ids as Megatron-LM's GPTSentencePieceTokenizer: the model's own vocabulary, no tokens added."""

    def __init__(self, path: Path) -> None:
        import sentencepiece

        file = path / "tokenizer.model" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{path} holds no tokenizer.model; add xAI's, or use --tokenizer-type PretrainedFromHF")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{file} is not a SentencePiece model; copy it again, as a binary file") from error
        eod = _end_of_document(self._processor)
        if eod < 0:
            raise ValueError(f"{file} has no end-of-document piece (eos_id is -1); use a model trained with an eos_id")
        pad = self._processor.pad_id()
        super().__init__(path, self._processor.vocab_size(), eod, pad if pad >= 0 else NO_PAD, [file])

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode(list(ids)))


class HuggingFaceTokenizer(Tokenizer):
    """Same ids as Megatron-LM's HuggingFaceTokenizer, with what the folder's config adds (such as a BOS)."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ValueError(f"{path} is not a folder; use --tokenizer-type SentencePiece for a tokenizer.model file")
        self._tokenizer = _auto_tokenizer(path)
        eod, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        if eod is None:
            raise ValueError(f'{path} names no eos_token; set it in tokenizer_config.json, like "eos_token": "[EOS]"')
        files = [path / name for name in _IDENTITY_FILES if (path / name).is_file()]
        # len() counts added tokens, which .vocab_size leaves out; ids may have gaps, which neither counts
        entries = max(len(self._tokenizer), 1 + max(self._tokenizer.get_vocab().values(), default=-1))
        super().__init__(path, entries, eod, NO_PAD if pad is None else pad, files)

    def tokenize(self, text: str) -> list[int]:
        # verbose=False: a document longer than the model's context is what pretraining wants
        try:
            ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        except Exception as error:  # whatever a model that lacks a piece makes transformers raise
            raise ValueError(f"{self.path} cannot tokenize a text: {reason_of(error)}; check tokenizer.json") from error
        return ids

    def tokenize_prompt(self, text: str) -> list[int]:
        ids = self.tokenize(text)
        written: list[int] = self._tokenizer(text, verbose=False, add_special_tokens=False).input_ids
        places = (at for at in range(len(ids) - len(written) + 1) if ids[at : at + len(written)] == written)
        start = next(places, None)
        if start is None:
            return ids  # it adds something inside: whatever that means, it is not ours to cut
        before, after = ids[:start], ids[start + len(written) :]
        if before and before[-1] == self._tokenizer.bos_token_id == written[0]:
            before.pop()  # the text itself begins with it
        return before + written + [each for each in after if each != self.eod]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


def _auto_tokenizer(path: Path) -> Any:
    """transformers' AutoTokenizer from local files alone."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of Grok-1's model type, which the tokenizer does not need
    try:
        with _unheard():
            return AutoTokenizer.from_pretrained(
                str(path), use_fast=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever a damaged or foreign folder makes transformers raise
        raise ValueError(
            f"{path} is not a Hugging Face tokenizer folder that loads without running its code ({reason_of(error)}); "
            "check its tokenizer_config.json, or use --tokenizer-type SentencePiece with its tokenizer.model"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _unheard() -> Iterator[None]:
    """tokenizers prints the names of options that it does not know, straight to the terminal: a stranger's words."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _end_of_document(processor: Any) -> int:
    """The id that ends a document, -1 if there is none."""
    declared = int(processor.eos_id())
    if declared >= 0:
        return declared
    for piece in _END_PIECES:
        found = int(processor.piece_to_id(piece))
        if processor.id_to_piece(found) == piece:
            return found
    return -1


def _digest(files: Sequence[Path]) -> str:
    """One hash over the files' contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
