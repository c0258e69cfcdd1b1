"""Figures as a report prints them."""

from __future__ import annotations


def more(count: int, shown: int, what: str = "") -> str:
    """What follows a table that was cut short; nothing where it was not."""
    return f"\n\nand {count - shown:,} more{f' {what}' if what else ''}" if count > shown else ""


def percent(share: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * share:.1f} %"


def gibibytes(count: float) -> str:
    """Bytes as GiB, without the unit."""
    return f"{count / 2**30:.2f}"


def traffic(count: float) -> str:
    """Bytes on the wire, in powers of ten as networks are sold."""
    size, unit = next(((size, unit) for size, unit in _TRAFFIC_UNITS if count >= size), _TRAFFIC_UNITS[-1])
    return f"{count / size:,.4g} {unit}"


_TRAFFIC_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def rate(tokens_per_second: float) -> str:
    """Tokens/s/p with five digits, and never with an exponent that a reader must count."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 1e4 else f"{tokens_per_second:,.5g}"


def number(value: float | None) -> str:
    """A loss or norm; null means it was not finite."""
    return "not finite" if value is None else f"{value:.5g}"
