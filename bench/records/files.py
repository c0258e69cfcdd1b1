"""Records of files and folders that a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.records.record import Record

MAX_FILES = 10_000


def files_at(path: Path) -> list[Path]:
    """The *.json files in a folder, or the file itself."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def read_records(paths: Sequence[Path]) -> list[tuple[Path, Record]]:
    """The records of these files, and of the *.json inside these folders, each with its file.

    Raises:
        ValueError: a file that is no record, or a run that is given twice, as one run is one piece of evidence.
    """
    files = [file for path in paths for file in files_at(path)]
    if len(files) > MAX_FILES:
        raise ValueError(f"{len(files)} files of records, more than the {MAX_FILES} allowed; give fewer at a time")
    found: dict[str, tuple[Path, Record]] = {}
    for file in files:
        record = Record.read(file)
        if record.id in found:
            raise ValueError(
                f"{file}: holds run {record.id}, which {found[record.id][0]} holds as well; give each run once"
            )
        found[record.id] = (file, record)
    return list(found.values())
