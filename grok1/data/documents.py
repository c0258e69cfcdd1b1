"""Documents out of files: parquet, JSON lines, a JSON array, plain text. One row is one document.

Every error names the file, the row (counted from 1) and the column.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grok1.config.refusals import listed, quoted, reason_of

Reader = Callable[[Path, str], Iterator[tuple[int, object]]]  # (file, column) to (row, its text) from 1

_SUFFIXES = ".parquet, .jsonl, .json, .txt"


class Row(NamedTuple):
    """One document."""

    text: str
    text_bytes: int  # as UTF-8


def find_inputs(patterns: Sequence[str]) -> list[Path]:
    """The files that the paths and globs name, each glob's in sorted order."""
    files: list[Path] = []
    for pattern in patterns:
        # a path that exists is taken as it is, even with brackets in its name
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        matches = [Path(name) for name in found if Path(name).is_file()]
        if not matches:
            raise ValueError(f"--input {pattern} matches no file; give a file or a quoted glob like 'data/*.parquet'")
        files += matches
    return files


def read_rows(path: Path, column: str) -> Iterator[Row]:
    """The documents of one file, in order. In a text file each line that is not blank is one."""
    readers: dict[str, Reader] = {".parquet": _parquet, ".jsonl": _json_lines, ".json": _json, ".txt": _lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'}, which is none of {_SUFFIXES}; rename or convert it"
        )
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check --input")
    for number, text in reader(path, column):
        yield _row(text, path, number, column)


def count_rows(path: Path) -> int:
    """How many rows a progress bar should expect; for text and JSON, the number of lines."""
    if path.suffix.lower() == ".parquet":
        return int(_open_parquet(path)[0].metadata.num_rows)
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _row(text: object, path: Path, row: int, column: str) -> Row:
    if not isinstance(text, str):
        raise ValueError(f"{path} row {row}: column {column!r} is {type(text).__name__}, not text; fix or drop the row")
    try:
        return Row(text, len(text.encode()))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path} row {row}: column {column!r} holds half a surrogate pair; fix or drop the row"
        ) from error


def _open_parquet(path: Path) -> tuple[Any, list[str]]:
    """The open file and the names of its columns. Reading the names may fail too."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        return file, file.schema_arrow.names
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole parquet file ({reason_of(error)}); copy it again") from error


def _parquet(path: Path, column: str) -> Iterator[tuple[int, object]]:
    from pyarrow import ArrowException

    file, names = _open_parquet(path)
    with file:
        if column not in names:
            raise ValueError(f"{path} row 1: no column {column!r}; it has {_names(names)}: choose with --text-column")
        row = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield row, value
        except (ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} row {row + 1}: column {column!r} is damaged ({reason_of(error)})") from error


def _json_lines(path: Path, column: str) -> Iterator[tuple[int, object]]:
    for number, line in _text_lines(path, column):
        if line.strip():
            yield number, _field(_parse(line, path, number, column), path, number, column)


def _json(path: Path, column: str) -> Iterator[tuple[int, object]]:
    """A `.json` is either one array of objects, as alpaca is published, or lines like a `.jsonl`."""
    with path.open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        yield from _json_lines(path, column)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} row 1: column {column!r}: the file is not UTF-8 ({error.reason})") from error
    entries = _parse(text, path, 1, column)
    assert isinstance(entries, list)  # it starts with a bracket
    for number, entry in enumerate(entries, start=1):
        yield number, _field(entry, path, number, column)


def _lines(path: Path, column: str) -> Iterator[tuple[int, str]]:
    for number, line in _text_lines(path, column):
        if line.strip():
            yield number, line


def _text_lines(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Lines without their ends. Decoded one by one, so that an error knows its row."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} row {number}: column {column!r} is not UTF-8 ({error.reason})") from error


def _parse(text: str, path: Path, row: int, column: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} row {row}: column {column!r}: broken JSON ({reason_of(error)})") from error


def _field(entry: object, path: Path, row: int, column: str) -> object:
    if not isinstance(entry, dict):
        raise ValueError(f"{path} row {row}: column {column!r}: the row is {type(entry).__name__}, not a JSON object")
    if column not in entry:
        raise ValueError(f"{path} row {row}: no column {column!r}; it has {_names(entry)}: choose with --text-column")
    return entry[column]


def _names(columns: Iterable[str]) -> str:
    """Names of columns that a file states, however odd they are."""
    shown = list(columns)
    words = [name if name.isprintable() and len(name) <= 60 else quoted(name, 60) for name in shown]
    return listed(words, 8).replace("; ", ", ") or "no columns"
