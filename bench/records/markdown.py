"""Words of strangers in Markdown: what no reader of Markdown or HTML would act on."""

from __future__ import annotations

import re
import unicodedata

_MAX_CELL = 500
# Structure of Markdown, tables, HTML and GitHub's own extensions (math, mentions, references).
_SPECIAL = frozenset("\\`*_{}[]<>()#+!|~$&@^=:")
# As character references they stay text wherever Markdown looks at them, in tables and in HTML alike.
_HARMLESS = {"(", ")", "=", "+", ":", "_"}


def text(value: object, most: int = _MAX_CELL) -> str:
    """Any value as plain, visible text of one line, with nothing left that Markdown or HTML would act on.

    Of more than `most` characters the end is cut off; each takes at most six in what is returned.
    """
    line = _one_line(value, most)
    return "".join(_escaped(line, index) for index in range(len(line)))


def code(value: object, most: int = _MAX_CELL) -> str:
    """Any value as code within a line of Markdown: every character as it is, for a terminal and a page alike.

    Not for a table's cell, which a `|` would end. Of more than `most` characters the end is cut off.
    """
    line = _one_line(value, most)
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def _one_line(value: object, most: int) -> str:
    visible = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in str(value))
    # Invisible and direction-changing characters can make a report read differently from what it says.
    visible = "".join(char for char in visible if unicodedata.category(char) not in ("Cf", "Cs", "Co"))
    line = " ".join(visible.split())
    return line if len(line) <= most else line[: most - 1] + "…"


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
