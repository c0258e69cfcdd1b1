"""Numbers and words as logs print them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

MAX_SECONDS = 1e7  # as the record's schema has it
# A comma parts thousands; where it stands elsewhere it may be a decimal comma, and the number is not known.
_NUMBER = re.compile(
    r"[-+]?(?:(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE
)


def printable(text: str) -> str:
    """The text with control, bidirectional and half characters written out as escapes; a tab becomes a space."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text.replace("\t", " "))


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def parse_number(text: str | None) -> float | None:
    """The number a field holds, NaN and infinities too; of `now/mean` the first; None if it holds another thing."""
    if text is None:
        return None
    if len(text) < 40 and text.isascii() and "_" not in text:
        try:
            return float(text)  # nearly all fields are plain numbers, and this is many times as fast
        except ValueError:
            pass
    first = _first(text)
    return float(first.replace(",", "")) if len(first) < 40 and _NUMBER.fullmatch(first) else None


_EITHER = re.compile(r"[-+]?\d{1,3},\d{3}")  # thousands, or three digits after a decimal comma


def parse_measure(text: str | None) -> float | None:
    """The same of a field that need not be whole: none where its one comma may be a decimal comma, as in 660,700."""
    if text is not None and "," in text and _EITHER.fullmatch(_first(text)):
        return None
    return parse_number(text)


def _first(text: str) -> str:
    """Of `now/mean`."""
    return text.split("/")[0].partition("(avg")[0].strip()


def finite_number(text: str | None) -> float | None:
    if text is None:
        return None
    value = parse_measure(text)
    return value if value is not None and math.isfinite(value) else None


def positive_number(text: str | None) -> float | None:
    if text is None:
        return None
    value = parse_number(text)
    return value if value is not None and 0 < value < math.inf else None


def positive_measure(text: str | None) -> float | None:
    value = finite_number(text)
    return value if value is not None and value > 0 else None


def whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) < 16 and text.isascii() and text.isdecimal():
        return int(text)
    value = parse_number(text)
    return int(value) if value is not None and 0 <= value < 1e15 else None


def stated(fields: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The first of several fields that a line has."""
    for name in names:
        if name in fields:
            return fields[name]
    return None


def finite_field(fields: Mapping[str, str], what: str, *names: str) -> tuple[float | None, str]:
    """A field's value and, where it is there but not finite, what is wrong."""
    value = parse_measure(stated(fields, names))
    if value is not None and not math.isfinite(value):
        return None, f"{what} is not finite"
    return value, ""


def checked_seconds(seconds: float, what: str) -> float:
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"{what} is none: it takes more than 0 s, at most 1e7 s; cut that line out or give --from-step"
        )
    return seconds
