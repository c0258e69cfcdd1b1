"""Figures as a report prints them: in units that fit, and with the same decimals down a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.records.figures import DIGITS, decimals, fixed


@dataclass(frozen=True)
class Unit:
    """What the figures of one column are told in; `long` is the name where there is room."""

    name: str
    size: float
    long: str = ""
    decimals: int = 2

    def of(self, value: float) -> str:
        """The figure without its unit. One too small for the column says so: it is not nothing."""
        return fixed(value / self.size, self.decimals)

    def told(self, value: float) -> str:
        """The figure with its unit."""
        return f"{self.of(value)} {self.name}".rstrip()

    def per(self, what: str) -> str:
        """The name of a column of these for each of something."""
        return f"{self.name}/{what}"


_SECONDS = (Unit("s", 1.0, "seconds"), Unit("ms", 1e-3, "milliseconds"), Unit("µs", 1e-6, "microseconds"))
_FLOPS = tuple(
    Unit(f"{letter}FLOP/s", size, f"{letter}FLOP/s")
    for letter, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))
)
_BYTES = (Unit("GiB", 2.0**30, "GiB"), Unit("MiB", 2.0**20, "MiB"))


def seconds_unit(values: Iterable[float]) -> Unit:
    """For a column of these seconds."""
    return fitting(values, _SECONDS)


def flops_unit(values: Iterable[float]) -> Unit:
    """For a column of these FLOP/s."""
    return fitting(values, _FLOPS)


def bytes_unit(values: Iterable[float]) -> Unit:
    """For a column of these bytes in memory."""
    return fitting(values, _BYTES)


def traffic_unit(values: Iterable[float]) -> Unit:
    """For a column of these bytes on the wire, in powers of ten as networks are sold."""
    return fitting(values, tuple(Unit(name, size, name) for size, name in _TRAFFIC_UNITS))


def rate_unit(values: Iterable[float]) -> Unit:
    """For a column of tokens/s/p."""
    return fitting(values, (Unit("", 1.0, ""),), digits=5)


PERCENT = Unit("%", 0.01, "percent", 1)
LOSS = Unit("", 1.0, "", 4)


def fitting(values: Iterable[float], units: Sequence[Unit], digits: int = DIGITS) -> Unit:
    """The largest unit that the largest figure fills, with decimals for so many of its digits. Of none, the largest."""
    sizes = [abs(value) for value in values]
    most = max(sizes, default=0.0)
    unit = next((unit for unit in units if most >= unit.size), units[-1] if sizes else units[0])
    return replace(unit, decimals=decimals(most / unit.size, digits))


def more(count: int, shown: int, what: str = "") -> str:
    """What follows a table that was cut short; nothing where it was not."""
    return f"\n\nand {count - shown:,} more{f' {what}' if what else ''}" if count > shown else ""


def percent(share: float) -> str:
    """A share as percent with one decimal."""
    return PERCENT.told(share)


def gibibytes(count: float) -> str:
    """Bytes as GiB, without the unit."""
    return f"{count / 2**30:.2f}"


def traffic(count: float) -> str:
    """Bytes on the wire, in powers of ten as networks are sold."""
    return traffic_unit([count]).told(count)


_TRAFFIC_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def rate(tokens_per_second: float) -> str:
    """Tokens/s/p with five digits, and never with an exponent that a reader must count."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 1e4 else f"{tokens_per_second:,.5g}"


def number(value: float | None) -> str:
    """A loss or norm; null means it was not finite."""
    return "not finite" if value is None else f"{value:.5g}"
