"""Counts the files that this process opens below a folder, by Python's audit events. No torch."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_watched: dict[Path, Counter[str]] = {}


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = Path(os.fsdecode(arguments[0]))
        for folder, counts in _watched.items():
            if path.is_relative_to(folder):
                counts[path.name] += 1


@contextmanager
def opened_below(folder: Path) -> Iterator[Counter[str]]:
    """How often each file below `folder` was opened, by its name; filled while the block runs."""
    if _note not in _installed:
        sys.addaudithook(_note)  # stays for the life of the process
        _installed.append(_note)
    counts = _watched[folder] = Counter()
    try:
        yield counts
    finally:
        del _watched[folder]


_installed: list[object] = []
