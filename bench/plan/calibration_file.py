"""Calibration rows as a file: what intervals are made of, without fitting anew. No torch.

It is written by the command that fits, and never by hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.plan.frozen import Digest, Seconds, key_of
from bench.plan.intervals import CalibrationRow
from bench.plan.published import PublishedRow
from bench.plan.situations import Situation, precision_of
from bench.records.fields import Figure, Name, Strict, Text
from bench.records.jsonfile import read_model, write_model

SHIPPED = Path(__file__).with_name("calibration.json")
MAX_BYTES = 8 << 20
LogRatio = Annotated[float, Field(ge=-700, le=700)]


class StoredRow(Strict):
    """A row as `bench.plan.intervals.CalibrationRow` has it, and which row it is."""

    key: Digest  # of its job, as frozen predictions have it
    measured_seconds: Seconds
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

    @property
    def unseen_seconds(self) -> float:
        """Predicted by a fit that left its family out."""
        return self.measured_seconds * math.exp(-self.log_ratio)

    @property
    def unseen_null_seconds(self) -> float:
        """Predicted by the null model of the other families' rows."""
        return self.measured_seconds * math.exp(-self.null_log_ratio)

    def as_calibration_row(self) -> CalibrationRow:
        """As intervals take it."""
        situation = Situation(
            self.chip,
            precision_of(self.is_eight_bit),
            self.num_experts,
            frozenset(self.kinds),
            self.release,
            tuple(self.sizes),
        )
        return CalibrationRow(self.name, self.family, situation, self.log_ratio, self.null_log_ratio)


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

    def calibration_rows(self, *, without: tuple[str, str] | None = None) -> list[CalibrationRow]:
        """As intervals take them, but those of one chip and family."""
        return [row.as_calibration_row() for row in self.rows if (row.chip, row.family) != without]

    def fit_of(self, chip: str, is_eight_bit: bool) -> StoredFit | None:
        """Of that chip and precision; none where no row calibrates it."""
        return next((fit for fit in self.fits if (fit.chip, fit.is_eight_bit) == (chip, is_eight_bit)), None)

    def row_of(self, row: PublishedRow) -> StoredRow | None:
        """A published row, if it is one of those that were fitted."""
        key = key_of(row)
        return next((each for each in self.rows if each.key == key), None)


def stored(published: PublishedRow, row: CalibrationRow) -> StoredRow:
    """A row as it is written."""
    at = row.situation
    return StoredRow(
        key=key_of(published),
        measured_seconds=published.seconds,
        name=row.name,
        family=row.family,
        chip=at.chip,
        is_eight_bit=at.precision == "8 bits",
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
