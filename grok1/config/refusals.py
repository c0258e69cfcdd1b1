"""Error messages for refused input: one printable line that names the value. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError


class RecipeError(ValueError):
    """A recipe, or an override of one, that cannot be run; the message names the value and the remedy."""


def describe_validation_error(error: ValidationError) -> str:
    """A pydantic error on one line: its first five complaints."""
    complaints = []
    for item in error.errors(include_url=False)[:5]:
        where = ".".join(str(part)[:40] for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or check its spelling"
        elif item["type"] not in ("value_error", "missing"):
            message = f"{message} (got {_shown(item['input'])})"
        complaints.append(f"{where}: {message}" if where and item["type"] != "value_error" else message)
    return printable("; ".join(complaints))


def printable(text: str) -> str:
    """Text that came from a file, safe in an error: a line break in it must not look like a line of ours."""
    return "".join(char if char.isprintable() else "?" for char in text)


def printable_lines(text: str) -> str:
    """Text of several lines, such as a traceback, in which nothing but their ends steers a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def quoted(text: str, most_characters: int = 200) -> str:
    """Words that somebody gave, in an error: in quotes, escaped, and no longer than a line."""
    return repr(text if len(text) <= most_characters else f"{text[:most_characters]}…")


def reason_of(error: BaseException, most_characters: int = 200) -> str:
    """The message of an error that a library raised, on one short line; the error's type if it has no message."""
    return printable(" ".join(str(error).split()))[:most_characters] or type(error).__name__


def listed(problems: Sequence[str], shown: int) -> str:
    """The first `shown` problems on one line, and how many more there are."""
    more = len(problems) - shown
    return printable("; ".join(problems[:shown]) + (f"; and {more} more" if more > 0 else ""))


def _shown(value: object) -> str:
    """A refused value as short text; where str() would be too long or too deep, what kind of value it is."""
    if isinstance(value, (dict, list)):
        return "a section" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return repr(str(value)[:80])
