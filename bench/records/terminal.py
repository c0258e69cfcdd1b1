"""Text for a terminal, of words that strangers may have written: records and baselines arrive by pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

_MAX_CELL = 300


def plain(value: object, limit: int = _MAX_CELL) -> str:
    """One printable line: no escape sequence, nothing invisible, nothing that changes the direction of writing."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> str:
    """A table of plain cells; the columns listed in `numbers` are aligned to the right."""
    align = ["right" if index in numbers else "left" for index in range(len(headers))]
    cells = [[plain(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="simple", disable_numparse=True, colalign=align if cells else None)


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line; a long value is not cut."""
    cells = [[plain(name), plain(value, 5000)] for name, value in rows]
    return tabulate(cells, tablefmt="plain", disable_numparse=True)
