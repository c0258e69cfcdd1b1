"""Calibration rows as a file: what intervals are made of, without fitting anew. No torch.

It is written by the command that fits, and never by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.plan.intervals import CalibrationRow
from bench.plan.situations import Situation
from bench.records.fields import Figure, Name, Strict, Text
from bench.records.jsonfile import read_model, write_model

SHIPPED = Path(__file__).with_name("calibration.json")
MAX_BYTES = 8 << 20
LogRatio = Annotated[float, Field(ge=-700, le=700)]


class StoredRow(Strict):
    """A row as `bench.plan.intervals.CalibrationRow` has it."""

    name: Text
    family: Name
    chip: Name
    is_eight_bit: bool
    num_experts: Annotated[int, Field(ge=0, le=1 << 24)]
    kinds: Annotated[list[Name], Field(max_length=20)]
    release: Text
    sizes: Annotated[list[LogRatio], Field(max_length=20)]
    log_ratio: LogRatio
    null_log_ratio: LogRatio


class StoredFit(Strict):
    """The fit of one chip and precision on all its rows."""

    chip: Name
    is_eight_bit: bool
    rows: Annotated[int, Field(ge=1)]
    efficiencies: dict[Name, Figure]
    told: dict[Name, Figure]
    residual_median: Figure
    residual_p90: Figure
    null_mfu: Figure


class CalibrationFile(Strict):
    """All of them."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    source: Text
    fits: Annotated[list[StoredFit], Field(max_length=100)]
    rows: Annotated[list[StoredRow], Field(max_length=10_000)]

    def calibration_rows(self) -> list[CalibrationRow]:
        """As intervals take them."""
        return [
            CalibrationRow(
                row.name,
                row.family,
                Situation(
                    row.chip, row.is_eight_bit, row.num_experts, frozenset(row.kinds), row.release, tuple(row.sizes)
                ),
                row.log_ratio,
                row.null_log_ratio,
            )
            for row in self.rows
        ]

    def null_mfu(self, chip: str, is_eight_bit: bool) -> float | None:
        """Of the null model on that chip's rows; none where it has none."""
        found = [each.null_mfu for each in self.fits if (each.chip, each.is_eight_bit) == (chip, is_eight_bit)]
        return found[0] if found else None


def stored(row: CalibrationRow) -> StoredRow:
    """A row as it is written."""
    at = row.situation
    return StoredRow(
        name=row.name,
        family=row.family,
        chip=at.chip,
        is_eight_bit=at.is_eight_bit,
        num_experts=at.num_experts,
        kinds=sorted(at.kinds),
        release=at.release,
        sizes=[round(size, 6) for size in at.sizes],
        log_ratio=round(row.log_ratio, 6),
        null_log_ratio=round(row.null_log_ratio, 6),
    )


def read_calibration(path: Path = SHIPPED) -> CalibrationFile:
    """A stored calibration; a ValueError of one line says what is wrong with the file."""
    return read_model(path, CalibrationFile, max_bytes=MAX_BYTES)


def write_calibration(path: Path, calibration: CalibrationFile) -> None:
    """Atomically, the same bytes for the same calibration."""
    write_model(path, calibration)
