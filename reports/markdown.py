"""Markdown that cannot be broken out of: records and baselines may come from strangers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from bench.judge.rule import RowState, VerdictState
from bench.records.markdown import text as text
from reports.palette import STATES

SENTENCE = 5000  # characters: a verdict's ends in a command, which is whole or of no use


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
