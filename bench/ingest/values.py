"""Numbers as logs print them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

MAX_SECONDS = 1e7  # as the record's schema has it
_NUMBER = re.compile(r"[-+]?(?:(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE)


def parse_number(text: str | None) -> float | None:
    """The number a field holds, NaN and infinities too; of `now/mean` the first; None if it holds another thing."""
    first = (text or "").split("/")[0].strip()
    return float(first.replace(",", "")) if len(first) < 40 and _NUMBER.fullmatch(first) else None


def finite_number(text: str | None) -> float | None:
    value = parse_number(text)
    return value if value is not None and math.isfinite(value) else None


def whole_number(text: str | None) -> int | None:
    value = finite_number(text)
    return int(value) if value is not None and 0 <= value < 1e15 else None


def finite_field(fields: Mapping[str, str], what: str, *names: str) -> tuple[float | None, str]:
    """A field's value and, where it is there but not finite, what is wrong."""
    stated = next((fields[name] for name in names if name in fields), None)
    value = parse_number(stated)
    if value is not None and not math.isfinite(value):
        return None, f"{what} is not finite"
    return value, ""


def checked_seconds(seconds: float, what: str) -> float:
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"{what} is none: it takes more than 0 s, at most 1e7 s; cut that line out or give --from-step"
        )
    return seconds
