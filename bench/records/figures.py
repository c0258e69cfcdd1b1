"""Figures of one column of a table: all with the same decimals."""

from __future__ import annotations

import math
from collections.abc import Iterable

DIGITS = 4  # of a column's largest figure
_MOST_DECIMALS = 6


def decimals(largest: float, digits: int = DIGITS) -> int:
    """Decimals with which the largest figure of a column has so many digits."""
    whole = math.floor(math.log10(largest)) + 1 if largest and math.isfinite(largest) else 1
    return min(_MOST_DECIMALS, max(0, digits - whole))


def fixed(value: float, places: int) -> str:
    """A figure with so many decimals. One too small for them says so: it is not nothing."""
    shown, least = f"{value:,.{places}f}", 10**-places
    if not value or float(shown.replace(",", "")):
        return shown
    return f"{'< ' if value > 0 else '> -'}{least:.{places}f}"


def column(values: Iterable[float | None], digits: int = DIGITS) -> list[str]:
    """The figures of a column; what is not known is a dash."""
    known = list(values)
    places = decimals(max((abs(value) for value in known if value is not None), default=0.0), digits)
    return ["-" if value is None else fixed(value, places) for value in known]
