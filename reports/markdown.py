"""Markdown that cannot be broken out of: records and baselines may come from strangers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from bench.judge.rule import RowState, VerdictState
from reports.palette import STATES

_MAX_CELL = 500
SENTENCE = 5000  # characters: a verdict's ends in a command, which is whole or of no use
# Structure of Markdown, tables, HTML and GitHub's own extensions (math, mentions, references).
_SPECIAL = frozenset("\\`*_{}[]<>()#+!|~$&@^=:")
# As character references they stay text wherever Markdown looks at them, in tables and in HTML alike.
_HARMLESS = {"(", ")", "=", "+", ":", "_"}


def text(value: object, most: int = _MAX_CELL) -> str:
    """Any value as plain, visible text of one line, with nothing left that Markdown or HTML would act on.

    Of more than `most` characters the end is cut off; each takes at most six in what is returned.
    """
    visible = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in str(value))
    # Invisible and direction-changing characters can make a report read differently from what it says.
    visible = "".join(char for char in visible if unicodedata.category(char) not in ("Cf", "Cs", "Co"))
    line = " ".join(visible.split())
    if len(line) > most:
        line = line[: most - 1] + "…"
    return "".join(_escaped(line, index) for index in range(len(line)))


def _escaped(line: str, index: int) -> str:
    char = line[index]
    if char not in _SPECIAL:
        # "www." becomes a link by itself on GitHub.
        return "&#46;" if char == "." and line[max(0, index - 3) : index].lower() == "www" else char
    if char == "_" and _inside_word(line, index):
        return char
    if char in _HARMLESS and char not in "_:":
        return char
    if line[index : index + 2] == "< ":  # begins no tag
        return char
    if char == ":" and line[index : index + 3] != "://":
        return char
    return f"&#{ord(char)};"


def _inside_word(line: str, index: int) -> bool:
    """Underscores within a word are never emphasis."""
    return 0 < index < len(line) - 1 and line[index - 1].isalnum() and line[index + 1].isalnum()


class Markup(str):
    """Markdown of our own making, which a table takes as it is."""


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> str:
    """A GitHub table; every cell but Markup is escaped; the columns listed in `numbers` are aligned to the right."""
    align = ["right" if index in numbers else "left" for index in range(len(headers))]
    cells = [[cell if isinstance(cell, Markup) else text(cell) for cell in row] for row in rows]
    return tabulate(cells, [text(h) for h in headers], tablefmt="pipe", disable_numparse=True, colalign=align)


def state_words(state: VerdictState | RowState) -> str:
    """A state as people say it."""
    return state.replace("_", " ")


def state_cell(state: VerdictState | RowState) -> str:
    """A state with its mark, for a cell: a page colours it too (state_of)."""
    return f"{STATES[state][0]} {state_words(state)}"


def state_of(cell: str) -> str | None:
    """The state that a cell tells."""
    return next((state for state in STATES if cell == state_cell(state)), None)


def details(summary: str, body: str) -> str:
    """A section that the reader unfolds."""
    return f"<details>\n<summary>{text(summary)}</summary>\n\n{body}\n\n</details>"


def command(line: str) -> str:
    """A command of ours, to be copied."""
    return f"```shell\n{line}\n```"


def anchored(anchor: str, heading: str) -> str:
    """A heading that can be linked to; both are Markdown already."""
    return f'<a id="{anchor}"></a>\n\n{heading}'


def contents(links: Iterable[tuple[str, str]]) -> str:
    """The parts of a page by (anchor, title)."""
    return "On this page: " + " · ".join(f"[{text(title)}](#{anchor})" for anchor, title in links)
