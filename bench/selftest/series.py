"""Recorded noise: many runs of one unchanged program under one condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.sessions import are_virtual, labels, stamp_of
from bench.places import shipped
from bench.records.fields import DeviceKind, Name, Positive, Strict, UtcTime, utc_moment
from bench.records.jsonfile import read_model, write_model
from bench.records.record import Record

Floats = npt.NDArray[np.float64]
MAX_SERIES_BYTES = 16 << 20
MAX_RUNS = 1000
_LEAST_RUNS = 2 * MIN_BASELINE_RUNS
FOLDER = shipped("baselines") / "noise"
Microseconds = Annotated[int, Field(gt=0, lt=10**12)]


class Run(Strict):
    """One run: microseconds of each step on each rank, and each rank's peak bytes where they were recorded.

    `session` and `created_at` are null in files from before runs said so.
    """

    session: Name | None = None
    created_at: UtcTime | None = None
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
    """Runs of one unchanged program, one after the other, under one condition; a file that names no sessions is one."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    condition: Name
    recipe_name: Name
    recipe_hash: Name
    device_name: Name
    device_kind: DeviceKind = "cpu"  # of files from before they said so
    is_virtual: bool = False
    runs: Annotated[list[Run], Field(min_length=_LEAST_RUNS, max_length=MAX_RUNS)]

    @property
    def has_memory(self) -> bool:
        return all(run.peak_bytes for run in self.runs)

    @property
    def sessions(self) -> Mapping[str, Sequence[int]]:
        """The places of each session's runs, by its name, in the order of time."""
        names = [run.session or "1" for run in self.runs]
        return {name: [place for place, each in enumerate(names) if each == name] for name in dict.fromkeys(names)}

    @model_validator(mode="after")
    def _consistent(self) -> Series:
        """What is judged in the order of time must be in it."""
        names = [run.session for run in self.runs]
        if None in names and any(names):
            raise ValueError(f"run {names.index(None)} names no session, and others do: name all or none")
        seen = [name for name, _ in groupby(names)]
        if twice := next((name for name in seen if seen.count(name) > 1), None):
            between = seen[seen.index(twice) + 1]
            raise ValueError(f"sessions {twice} and {between} overlap: give the runs of a session one after the other")
        times = [None if run.created_at is None else utc_moment(run.created_at) for run in self.runs]
        for place, (earlier, later) in enumerate(pairwise(times), start=1):
            if earlier is not None and later is not None and later < earlier:
                raise ValueError(f"run {place} was made before the run above it: give runs in the order of time")
        return self


def series_of(condition: str, *folders: Sequence[Record]) -> Series:
    """The series that these records make, in the order of time.

    Records say which session they are of, and a long pause ends one (bench.judge.sessions.labels). Records that do not
    say so are of the session of their folder.

    Raises:
        ValueError: records of two recipes or devices, or of sessions that overlap.
    """
    given = [(place, record) for place, records in enumerate(folders) for record in records]
    names = labels([stamp_of(record) for _, record in given])
    found = [
        (record, name if record.session else f"folder {place} {name}")
        for (place, record), name in zip(given, names, strict=True)
    ]
    if not found:
        raise ValueError("there are no records to make a series of")
    if not _LEAST_RUNS <= len(found) <= MAX_RUNS:
        runs = f"{len(found)} run{'s' * (len(found) > 1)}"
        raise ValueError(f"{runs}: a series has {_LEAST_RUNS} to {MAX_RUNS}; give more folders of records, or fewer")
    found.sort(key=lambda pair: utc_moment(pair[0].created_at))
    ordered = [record for record, _ in found]
    first = ordered[0]
    if any((each.recipe.hash, each.device.name) != (first.recipe.hash, first.device.name) for each in ordered):
        raise ValueError("records of a series must be of one recipe and one device")
    has_memory = all(rank.peak_bytes for record in ordered for rank in record.ranks)
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(name for _, name in found), start=1)}
    return Series(
        condition=condition,
        recipe_name=first.recipe.name,
        recipe_hash=first.recipe.hash,
        device_name=first.device.name,
        device_kind=first.device.kind,
        is_virtual=are_virtual(record.host for record in ordered),
        runs=[_run_of(record, numbers[name], has_memory) for record, name in found],
    )


def _run_of(record: Record, session: str, has_memory: bool) -> Run:
    return Run(
        session=session,
        created_at=record.created_at,
        ranks=[[max(1, round(1e6 * each)) for each in rank.step_seconds] for rank in record.ranks],
        peak_bytes=[rank.peak_bytes for rank in record.ranks] if has_memory else [],
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
