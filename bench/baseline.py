"""A stored figure to hold, and the key that says which records may be compared with it.

A baseline is data, never code: `baselines/<device>/<case>.json` holds one or more. "published" figures come
from somebody's document; "recorded" ones from our own records. Both name where they come from and why they
were accepted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bench.jsonfile import read_model, write_model
from bench.record import (
    Commit,
    Count,
    DeviceKind,
    Dtype,
    HexId,
    Name,
    Positive,
    Rate,
    Record,
    StepSeconds,
    Strict,
    Text,
)
from bench.stats import summarise

MAX_BASELINE_BYTES = 4 * 2**20
MAX_BASELINE_FILES = 1000
DEFAULT_TOLERANCE_PERCENT = 5.0
_NOT_BASELINES = ("ledger", "noise")

# Two published roundings (2057 tokens/s/p and 32 s/step) disagree by 0.44 % about the tokens of a step.
_ROUNDING = 0.005
# Recipes of one name may be overridden to another size; vocabulary padding moves the count by less than this.
_SAME_SIZE = 0.005

Sentence = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class LayoutKey(Strict):
    """The layout a figure holds for. A null was not stated by the source and is not compared."""

    world_size: Positive
    tensor: Positive
    pipeline: Positive
    expert: Positive
    expert_tensor: Positive | None
    data: Positive | None
    nodes: Positive | None
    ranks_per_node: Positive | None


class DeviceKey(Strict):
    """The processors a figure holds for: by exact name, by the start of it, or by kind alone."""

    kinds: Annotated[list[DeviceKind], Field(min_length=1, max_length=3)]
    name: Name
    match: Literal["exact", "prefix", "any"]

    def accepts(self, name: str) -> bool:
        """Whether a device's name matches; spaces, hyphens and case do not count."""
        wanted, found = (text.casefold().replace(" ", "").replace("-", "") for text in (self.name, name))
        return {"exact": wanted == found, "prefix": found.startswith(wanted), "any": True}[self.match]


class RecipeKey(Strict):
    """The recipe a figure holds for; published figures have no hash."""

    name: Name
    hash: HexId | None


class Metrics(Strict):
    """The two figures that are compared."""

    tokens_per_second_per_processor: Rate
    step_seconds: StepSeconds


class RecordedRun(Strict):
    """One run behind a recorded baseline: its steady steps, and where they come from."""

    record_id: HexId
    created_at: Annotated[str, StringConstraints(max_length=40)]
    commit: Commit
    software: Annotated[dict[Name, Text], Field(max_length=100)]
    environment: Annotated[dict[Name, Text], Field(max_length=500)]
    warmup_steps: Count
    steady_step_seconds: Annotated[list[StepSeconds], Field(min_length=1, max_length=100_000)]


class Baseline(Strict):
    """One figure to hold. `judge` baselines can fail a record; `compare` ones are only shown beside it."""

    label: Name
    kind: Literal["published", "recorded"]
    role: Literal["judge", "compare"]
    case: Name
    recipe: RecipeKey
    sequence_length: Positive
    global_batch: Positive
    parameters_total: Positive
    dtype: Dtype
    layout: LayoutKey
    device: DeviceKey
    metrics: Metrics
    tolerance_percent: Annotated[float, Field(gt=0, le=50)]
    source: Sentence
    rationale: Sentence
    runs: Annotated[list[RecordedRun], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _consistent(self) -> Baseline:
        tokens = self.sequence_length * self.global_batch
        implied = tokens / (self.metrics.tokens_per_second_per_processor * self.layout.world_size)
        if abs(implied / self.metrics.step_seconds - 1) > _ROUNDING:
            raise ValueError(
                f"metrics disagree: {tokens} tokens a step at "
                f"{self.metrics.tokens_per_second_per_processor:g} tokens/s/p take {implied:.4g} s, "
                f"not {self.metrics.step_seconds:g} s"
            )
        if self.kind == "recorded":
            self._check_recorded()
        elif self.runs:
            raise ValueError("a published figure has no runs of ours")
        return self

    def _check_recorded(self) -> None:
        if not self.runs:
            raise ValueError("a recorded baseline needs at least one run")
        if self.recipe.hash is None or None in self.layout.model_dump().values() or self.device.match != "exact":
            raise ValueError("a recorded baseline states its recipe hash, whole layout and exact device")
        if len({run.record_id for run in self.runs}) != len(self.runs):
            raise ValueError("runs repeat a record_id: one run is one piece of evidence")
        median = statistics.median(statistics.median(run.steady_step_seconds) for run in self.runs)
        if abs(median / self.metrics.step_seconds - 1) > 1e-6:
            raise ValueError(f"metrics.step_seconds is not {median:.6g}, the median of the runs' medians")

    def differences(self, record: Record) -> tuple[str, ...]:
        """What of the key differs, in words; empty if the record may be compared with this baseline."""
        pairs = [
            ("case", record.case, self.case),
            ("recipe.name", record.recipe.name, self.recipe.name),
            ("recipe.hash", record.recipe.hash, self.recipe.hash),
            ("sequence_length", record.work.sequence_length, self.sequence_length),
            ("global_batch", record.work.global_batch, self.global_batch),
            ("dtype", record.device.dtype, self.dtype),
            *((f"layout.{k}", getattr(record.layout, k), v) for k, v in self.layout.model_dump().items()),
        ]
        found = [f"{key} {ours} (baseline {theirs})" for key, ours, theirs in pairs if theirs not in (None, ours)]
        if abs(record.work.parameters_total / self.parameters_total - 1) > _SAME_SIZE:
            found.append(f"parameters_total {record.work.parameters_total} (baseline {self.parameters_total})")
        if record.device.kind not in self.device.kinds:
            found.append(f"device.kind {record.device.kind} (baseline {' or '.join(self.device.kinds)})")
        elif not self.device.accepts(record.device.name):
            found.append(f"device.name {record.device.name} (baseline {self.device.name})")
        return tuple(found)


class BaselineFile(Strict):
    """What one file under baselines/ holds."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    baselines: Annotated[list[Baseline], Field(min_length=1, max_length=100)]

    def write(self, path: Path) -> None:
        """Write the file as JSON, atomically."""
        write_model(path, self)


def load_baselines(folder: Path) -> list[Baseline]:
    """Every baseline under a folder; a ValueError of one line names the file at fault."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of baselines; give --baselines a folder that exists")
    # counted costs and whole series of runs: bench.ledger_store and bench.selftest read those
    paths = sorted(path for path in folder.rglob("*.json") if path.relative_to(folder).parts[0] not in _NOT_BASELINES)
    if len(paths) > MAX_BASELINE_FILES:
        raise ValueError(f"{folder}: {len(paths)} files, more than the {MAX_BASELINE_FILES} allowed")
    loaded: dict[str, Baseline] = {}
    for path in paths:
        for baseline in read_baselines(path):
            # A verdict names its baseline by label, so that two of one label would leave a reader guessing.
            if loaded.setdefault(baseline.label, baseline) is not baseline:
                raise ValueError(f"{path}: the label {baseline.label!r} is already taken by another baseline")
    return list(loaded.values())


def read_baselines(path: Path) -> list[Baseline]:
    """The baselines of one file."""
    return read_model(path, BaselineFile, max_bytes=MAX_BASELINE_BYTES).baselines


def recorded_baseline(
    records: Sequence[Record], rationale: str, *, tolerance_percent: float = DEFAULT_TOLERANCE_PERCENT
) -> Baseline:
    """A baseline from our own records of one key, for a person to review and store."""
    if not records:
        raise ValueError("a baseline needs at least one record")
    first = records[0]
    for record in records:
        if not record.valid:
            raise ValueError(f"record {record.id} is void ({record.void_reasons[0]}) and cannot be a baseline")
    runs = [_recorded_run(record) for record in records]
    step_seconds = statistics.median(statistics.median(run.steady_step_seconds) for run in runs)
    baseline = Baseline(
        label=f"{first.case} recorded on {first.device.name}"[:200],
        kind="recorded",
        role="judge",
        case=first.case,
        recipe=RecipeKey(name=first.recipe.name, hash=first.recipe.hash),
        sequence_length=first.work.sequence_length,
        global_batch=first.work.global_batch,
        parameters_total=first.work.parameters_total,
        dtype=first.device.dtype,
        layout=LayoutKey.model_validate(first.layout.model_dump()),
        device=DeviceKey(kinds=[first.device.kind], name=first.device.name, match="exact"),
        metrics=Metrics(
            tokens_per_second_per_processor=first.work.tokens_per_step / step_seconds / first.layout.world_size,
            step_seconds=step_seconds,
        ),
        tolerance_percent=tolerance_percent,
        source=f"{len(runs)} recorded run(s) of this project",
        rationale=rationale,
        runs=runs,
    )
    for record in records:
        if differences := baseline.differences(record):
            raise ValueError(f"record {record.id} differs from the first in {differences[0]}")
    return baseline


def _recorded_run(record: Record) -> RecordedRun:
    summary = summarise(record)
    return RecordedRun(
        record_id=record.id,
        created_at=record.created_at,
        commit=record.commit,
        software=record.software,
        environment=record.environment,
        warmup_steps=summary.steady_from,
        steady_step_seconds=list(summary.step_seconds[summary.steady_from :]),
    )
