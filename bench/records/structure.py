"""Is the structure of a JSON text as it should be? A quick look at its names and brackets, without its digits.

A yes is exact for text that is JSON. A no may be wrong, and says that the text must be read in full. Most of a record
is digits; to delete them takes a tenth of the time that it takes to read them, and leaves objects of one kind alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_NUMERIC = b"0123456789.+-eE, \t\r\n"  # from words too: names that differ by these alone are looked up in the text
_MAX_QUOTES = 1_000_000
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")


def is_plain(raw: bytes, *, max_depth: int, max_names: int) -> bool:
    """Has the text, if it is JSON, no escapes, no name twice in one object, and neither too many names nor levels?

    Without escapes a quote begins or ends a string, and two names are equal where their bytes are.
    """
    shortened = raw.translate(None, _NUMERIC)
    if b"\\" in shortened or shortened.count(b'"') > _MAX_QUOTES or shortened.count(b"{") != shortened.count(b"}"):
        return False
    pieces = shortened.split(b'"')
    strings, rest = b"".join(pieces[1::2]), b"".join(pieces[::2])
    if strings != strings.translate(None, _BRACKETS):
        return False  # brackets would not tell where an object ends
    return _depth(rest) <= max_depth and not _repeats_a_name(raw, shortened, max_names)


def _depth(text: bytes) -> int:
    """Levels of brackets, which hold no strings; as many as there are brackets where they do not match."""
    left, levels = text.translate(_AS_LISTS, _NO_BRACKETS), 0
    while left:
        outside = left.replace(b"[]", b"")
        if outside == left:
            return len(left)
        left, levels = outside, levels + 1
    return levels


class _Part(NamedTuple):
    """What follows a brace: its names without digits, and their places among its strings."""

    names: tuple[bytes, ...]
    places: tuple[int, ...]
    quotes: int
    repeats: bool


def _part(text: bytes) -> _Part:
    pieces = text.split(b'"')
    places = tuple(place for place in range(1, len(pieces) - 1, 2) if pieces[place + 1][:1] == b":")
    names = tuple(pieces[place] for place in places)
    return _Part(names, places, len(pieces) - 1, len(set(names)) != len(names))


def _repeats_a_name(raw: bytes, shortened: bytes, max_names: int) -> bool:
    """Whether any object does, or has too many."""
    known: dict[bytes, _Part] = {}
    mine: list[tuple[int, _Part]] = []  # of the innermost object, each with the quotes before it
    outer: list[list[tuple[int, _Part]]] = []
    quotes = 0
    for text in shortened.replace(b"{", b"\0{").replace(b"}", b"\0}").split(b"\0"):
        if text[:1] == b"{":
            outer.append(mine)
            mine = []
        elif text[:1] == b"}":
            if not outer or _is_odd(raw, mine, max_names):
                return True
            mine = outer.pop()
        part = known.get(text)
        if part is None:
            part = known[text] = _part(text)
        if part.names:
            mine.append((quotes, part))
        quotes += part.quotes
    return False


def _is_odd(raw: bytes, parts: Sequence[tuple[int, _Part]], max_names: int) -> bool:
    """Whether one object, made of these parts, has a name twice, or too many."""
    if len(parts) == 1 and not parts[0][1].repeats:
        return len(parts[0][1].names) > max_names
    names = [name for _, part in parts for name in part.names]
    if len(set(names)) < len(names):
        end = parts[-1][0] + parts[-1][1].quotes
        strings = raw.split(b'"', end)
        names = [strings[quotes + place] for quotes, part in parts for place in part.places]
    return len(names) > max_names or len(set(names)) < len(names)
