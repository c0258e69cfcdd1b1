"""Figures in the cells and notes of published rows, read strictly. No torch."""

from __future__ import annotations

import re

from grok1.config.refusals import quoted


def integer(name: str, digits: str) -> int:
    """A positive whole number.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) < 1:
        raise ValueError(f"{name} is {quoted(digits, 40)}, not a positive whole number")
    return int(digits)


def figure(name: str, digits: str) -> float:
    """A positive number without an exponent.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", digits) or not float(digits) > 0:
        raise ValueError(f"{name} is {quoted(digits, 40)}, not a positive number")
    return float(digits)


def numbers(name: str, listed: str) -> tuple[int, ...]:
    """Whole numbers between commas, each once or more; none of an empty text.

    Raises:
        ValueError: it holds anything else.
    """
    if not re.fullmatch(r"([0-9]{1,4}(,[0-9]{1,4})*)?", listed):
        raise ValueError(f"{name} is {quoted(listed, 40)}, not whole numbers between commas")
    return tuple(int(each) for each in listed.split(",") if each)
