"""Recorded noise: many runs of one unchanged program under one condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.records.fields import Name, Positive, Strict
from bench.records.jsonfile import read_model, write_model
from bench.records.record import Record

Floats = npt.NDArray[np.float64]
MAX_SERIES_BYTES = 16 << 20
MAX_RUNS = 1000
FOLDER = Path(__file__).resolve().parents[2] / "baselines" / "noise"
Microseconds = Annotated[int, Field(gt=0, lt=10**12)]


class Run(Strict):
    """One run: microseconds of each step on each rank, and each rank's peak bytes where they were recorded."""

    ranks: Annotated[list[Annotated[list[Microseconds], Field(min_length=1, max_length=10_000)]], Field(min_length=1)]
    peak_bytes: list[Positive] = []

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        if self.peak_bytes and len(self.peak_bytes) != len(self.ranks):
            raise ValueError(f"peak_bytes holds {len(self.peak_bytes)} numbers for {len(self.ranks)} ranks")
        return self

    @property
    def seconds(self) -> Floats:
        """[ranks, steps]."""
        return np.array(self.ranks, dtype=np.float64) / 1e6


class Series(Strict):
    """Runs of one unchanged program, one after the other, under one condition."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    condition: Name
    recipe_name: Name
    recipe_hash: Name
    device_name: Name
    runs: Annotated[list[Run], Field(min_length=2 * MIN_BASELINE_RUNS, max_length=MAX_RUNS)]

    @property
    def has_memory(self) -> bool:
        return all(run.peak_bytes for run in self.runs)


def series_of(condition: str, records: Sequence[Record]) -> Series:
    """The series that these records make, in the order of time."""
    ordered = sorted(records, key=lambda record: record.created_at)
    if not ordered:
        raise ValueError("there are no records to make a series of")
    first = ordered[0]
    if any((each.recipe.hash, each.device.name) != (first.recipe.hash, first.device.name) for each in ordered):
        raise ValueError("records of a series must be of one recipe and one device")
    has_memory = all(rank.peak_bytes for record in ordered for rank in record.ranks)
    return Series(
        condition=condition,
        recipe_name=first.recipe.name,
        recipe_hash=first.recipe.hash,
        device_name=first.device.name,
        runs=[
            Run(
                ranks=[[max(1, round(1e6 * each)) for each in rank.step_seconds] for rank in record.ranks],
                peak_bytes=[rank.peak_bytes for rank in record.ranks] if has_memory else [],
            )
            for record in ordered
        ],
    )


def read_series(path: Path) -> Series:
    """A stored series; a ValueError of one line says what is wrong with the file."""
    return read_model(path, Series, max_bytes=MAX_SERIES_BYTES)


def write_series(path: Path, series: Series) -> None:
    """Atomically."""
    write_model(path, series)


def simulated(spread_percent: float, seed: int = 0) -> Series:
    """Invented, and never stored: runs on a machine so quiet that they vary by that much, normally."""
    random = np.random.default_rng(seed)
    step_spread, ranks, steps = spread_percent / 200, 4, 30
    levels = np.exp(random.normal(0.0, spread_percent / 100, MAX_RUNS))
    runs = 1e6 * levels[:, None, None] * np.exp(random.normal(0.0, step_spread, (MAX_RUNS, ranks, steps)))
    return Series(
        condition=f"simulated, normal, {spread_percent:g} %",
        recipe_name="nothing",
        recipe_hash="none",
        device_name="no machine",
        runs=[Run(ranks=run.astype(int).tolist()) for run in runs],
    )
