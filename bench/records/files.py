"""Records of files and folders that a command was given."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.records.record import Record

MAX_FILES = 10_000
_START_BYTES = 4096
_RECORD, _BASELINES = b'"void_reasons"', b'"baselines"'  # near the start of such a file, and of no other of ours
_TELLING_TIMES = 5  # different step times of a run; fewer, in a log of whole milliseconds, may be another's by chance


def files_at(path: Path) -> list[Path]:
    """The *.json files in a folder, or the file itself."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


OWN_FILES = (f"*-{'[0-9a-f]' * 8}*.json",)  # patterns of the names that `file_name` gives


def file_name(record: Record) -> str:
    """A name for the record's file that no case can turn into a path elsewhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", record.case).strip(".-")[:100] + f"-{record.id}.json"


def names_by_run(folder: Path) -> dict[str, str]:
    """The names of the files in a folder by the run's id, with which the name of a record's file ends."""
    return {path.stem.rpartition("-")[2]: path.name for path in sorted(folder.glob("*.json"))}


def read_records(paths: Sequence[Path]) -> list[tuple[Path, Record]]:
    """The records of these files, and of the *.json inside these folders, each with its file.

    Raises:
        ValueError: a file that is no record, or a run that is given twice, as one run is one piece of evidence. A copy
            under another id is known by its step times, which no two runs share. Or a folder of records within another
            was not given.
    """
    files = [file for path in paths for file in files_at(path)]
    refuse_folders_within(paths)
    if len(files) > MAX_FILES:
        raise ValueError(f"{len(files)} files of records, more than the {MAX_FILES} allowed; give fewer at a time")
    found: dict[str, tuple[Path, Record]] = {}
    timed: dict[tuple[float, ...], Path] = {}
    for file, record in zip(files, each_record(files), strict=True):
        if record.id in found:
            raise ValueError(
                f"{file}: holds run {record.id}, which {found[record.id][0]} holds as well; give each run once"
            )
        found[record.id] = (file, record)
        times = tuple(record.ranks[0].step_seconds) if record.ranks else ()
        if len(set(times)) >= _TELLING_TIMES and (other := timed.setdefault(times, file)) != file:
            raise ValueError(f"{file}: its step times are those of {other}, to the last digit; give each run once")
    return list(found.values())


def refuse_folders_in_place(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which one of these files, about to be put there together, would meet a folder of its name."""
    for name in names:
        if (folder / name).is_dir():
            raise ValueError(f"{folder / name}: is a folder, where a file is to be written; move it, or choose another")


def refuse_folders_within(paths: Sequence[Path]) -> None:
    """Refuse a folder of records with others somewhere below it that were not given: they would silently not count."""
    given = {path.resolve() for path in paths}
    for path in paths:
        below = sorted(path.glob("*/**/*.json")) if path.is_dir() and files_at(path) else []
        for file in below:
            is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if is_hidden or {file.resolve(), file.parent.resolve()} & given or not _starts_with(file, _RECORD):
                continue
            raise ValueError(
                f"{path}: holds records, and so does {file.parent}, which was not given; give both folders, or move one"
            )


def is_kept(file: Path) -> bool:
    """Whether a file in a folder looks like a record, or like one of baselines: what commands read there."""
    return _starts_with(file, _RECORD) or _starts_with(file, _BASELINES)


def _starts_with(file: Path, mark: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return mark in stream.read(_START_BYTES)
    except OSError:
        return False


def each_record(files: Sequence[Path]) -> Iterator[Record]:
    """The record of each file, in their order; a ValueError of one line names a file that holds none."""
    with _keeping_all():
        for file in files:
            yield Record.read(file)


@contextmanager
def _keeping_all() -> Iterator[None]:
    """Python looks for garbage by walking through all that it holds, again and again as more is read: a third of the
    time of reading, for records, which hold no cycles. What was read by the end is not walked through later either.
    """
    was_looking = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_looking:
            gc.enable()
