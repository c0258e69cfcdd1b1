"""megatron's indexed dataset on disk: written whole or not at all, and checked before ranks start.

Layout of PREFIX.idx, little-endian (megatron.core.datasets.indexed_dataset):

    magic 9s | version u64 = 1 | dtype code u8 | sequences S u64 | document ends D u64
    lengths i32[S], in tokens | pointers i64[S], byte offsets into PREFIX.bin | ends i64[D]; D = documents + 1

PREFIX.bin is the tokens, one after the other. One document is one sequence here, or none if it is empty.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
_UINT16_VOCABULARY = 65500  # megatron's bound, some way below 65536
_PREPROCESS = "`grok1 preprocess --input FILE --output-prefix PREFIX --tokenizer-name-or-path PATH`"
_REMEDY = f"make it again with {_PREPROCESS}, or copy both files whole"


def indexed_path(prefix: Path, suffix: str) -> Path:
    """PREFIX.bin or PREFIX.idx; a dot in the prefix's name stays."""
    return prefix.with_name(prefix.name + suffix)


class IndexedWriter:
    """Writes PREFIX.bin and PREFIX.idx. Both appear when the block ends, neither after an error."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self._prefix = prefix
        self._dtype = np.dtype("<u2" if vocab_size < _UINT16_VOCABULARY else "<i4")
        self._lengths = array("i")
        self._ends = array("q", [0])
        self.tokens = 0

    def __enter__(self) -> IndexedWriter:
        try:
            self._prefix.parent.mkdir(parents=True, exist_ok=True)
            # on the target's file system, so that the final rename is atomic
            self._folder = Path(tempfile.mkdtemp(dir=self._prefix.parent, prefix=f".{self._prefix.name}."))
            self._bin = (self._folder / "bin").open("wb")
        except OSError as error:
            raise ValueError(f"cannot write {self._prefix}.bin: {error.strerror}; choose another prefix") from error
        return self

    def add_document(self, ids: array[int]) -> None:
        """Append one document. An empty one gets an end but no sequence, as in megatron's builder.

        Raises:
            ValueError: one line: an id that the vocabulary cannot have, or the disk is full, or fails.
        """
        if ids:
            values = np.frombuffer(ids, dtype=np.int32)
            if values.min() < 0 or values.max() > np.iinfo(self._dtype).max:
                wrong = int(values.min()) if values.min() < 0 else int(values.max())
                raise ValueError(
                    f"document {len(self._ends)} has token id {wrong}, which the tokenizer's vocabulary does not hold; "
                    "check the tokenizer's files"
                )
            with self._refusals():
                self._bin.write(values.astype(self._dtype).tobytes())
            self._lengths.append(len(ids))
            self.tokens += len(ids)
        self._ends.append(len(self._lengths))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._refusals():
                    self._finish()
        finally:
            with suppress(OSError):  # it may hold bytes that the disk has no room for
                self._bin.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.zeros(0, np.int32)
        pointers = np.cumsum(lengths, dtype=np.int64) - lengths
        code = next(code for code, name in _DTYPES.items() if np.dtype(name) == self._dtype)
        with (self._folder / "idx").open("wb") as stream:
            stream.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(self._ends)))
            stream.write(lengths.astype("<i4").tobytes())
            stream.write((pointers * self._dtype.itemsize).astype("<i8").tobytes())
            stream.write(np.frombuffer(self._ends, dtype=np.int64).astype("<i8").tobytes())
            _to_disk(stream)
        _to_disk(self._bin)
        # an old index must not meet the new tokens, even if we are stopped between the two renames
        indexed_path(self._prefix, ".idx").unlink(missing_ok=True)
        for suffix in (".bin", ".idx"):
            (self._folder / suffix[1:]).replace(indexed_path(self._prefix, suffix))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """A disk that is full or fails, in one line with what the documents so far need."""
        try:
            yield
        except OSError as error:
            needed = self.tokens * self._dtype.itemsize + _HEADER.size + 12 * len(self._lengths) + 8 * len(self._ends)
            raise ValueError(
                f"cannot write {self._prefix}.bin and .idx: {error.strerror}; the {len(self._ends) - 1} documents so "
                f"far need {needed} bytes; free some space, or choose another prefix"
            ) from error


def _to_disk(stream: BinaryIO) -> None:
    """Past all buffers: some disks say only now that they are full."""
    stream.flush()
    os.fsync(stream.fileno())


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index says of its corpus."""

    sequences: int
    documents: int
    tokens: int
    dtype: str


def check_indexed(prefix: Path) -> IndexInfo:
    """Read all of PREFIX.idx and compare it with the size of PREFIX.bin.

    Raises:
        ValueError: one line: a file is missing or truncated, or the two are not a pair.
    """
    bin_path, idx_path = (indexed_path(prefix, suffix) for suffix in (".bin", ".idx"))
    for path in (bin_path, idx_path):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; give the prefix of a .bin/.idx pair, which {_PREPROCESS} makes")
    try:
        bin_size, idx_size = bin_path.stat().st_size, idx_path.stat().st_size
        sequences, ends, dtype = _read_header(idx_path, idx_size)
        lengths, pointers, document_ends = _map_arrays(idx_path, sequences, ends)
    except OSError as error:
        raise ValueError(f"cannot read {idx_path}: {error.strerror}") from error
    _check_arrays(idx_path, lengths, pointers, document_ends, np.dtype(dtype).itemsize)
    tokens = int(lengths.sum(dtype=np.int64))
    expected = tokens * np.dtype(dtype).itemsize
    if bin_size != expected:
        raise ValueError(f"{bin_path} has {bin_size} bytes, its index says {expected}; {_REMEDY}")
    return IndexInfo(sequences=sequences, documents=ends - 1, tokens=tokens, dtype=dtype)


def sequence_lengths(prefix: Path) -> Int32s:
    """The length of every sequence in tokens: a view of PREFIX.idx, which `check_indexed` has accepted."""
    path = indexed_path(prefix, ".idx")
    sequences, ends, _ = _read_header(path, path.stat().st_size)
    return _map_arrays(path, sequences, ends)[0]


def _read_header(idx_path: Path, idx_size: int) -> tuple[int, int, str]:
    """(sequences, document ends, dtype) of a file that has the size they imply."""
    with idx_path.open("rb") as stream:
        head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise ValueError(f"{idx_path} is truncated ({idx_size} bytes); {_REMEDY}")
    magic, version, code, sequences, ends = _HEADER.unpack(head)
    if magic != _MAGIC or version != 1 or not _DTYPES.get(code, "float").startswith(("int", "uint")):
        raise ValueError(f"{idx_path} is not an index of megatron's format, version 1; {_REMEDY}")
    expected = _HEADER.size + 12 * sequences + 8 * ends
    if idx_size != expected:
        raise ValueError(f"{idx_path} has {idx_size} bytes, its header says {expected}; {_REMEDY}")
    if sequences == 0 or ends < 2:
        raise ValueError(f"{idx_path} holds no document; preprocess text that is not empty")
    return sequences, ends, _DTYPES[code]


def _map_arrays(idx_path: Path, sequences: int, ends: int) -> tuple[Int32s, Int64s, Int64s]:
    """Lengths, pointers and document ends, as views of the file."""
    raw = np.memmap(idx_path, dtype=np.uint8, mode="r")
    first, second = _HEADER.size + 4 * sequences, _HEADER.size + 12 * sequences
    return (
        raw[_HEADER.size : first].view("<i4"),
        raw[first:second].view("<i8"),
        raw[second : second + 8 * ends].view("<i8"),
    )


def _check_arrays(idx_path: Path, lengths: Int32s, pointers: Int64s, ends: Int64s, item_bytes: int) -> None:
    offsets = (np.cumsum(lengths, dtype=np.int64) - lengths) * item_bytes
    whole = (
        lengths.min() >= 0
        and np.array_equal(pointers, offsets)
        and ends[0] == 0
        and ends[-1] == len(lengths)
        and bool(np.all(ends[1:] >= ends[:-1]))
    )
    if not whole:
        raise ValueError(f"{idx_path} contradicts itself; {_REMEDY}")
