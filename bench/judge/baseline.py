"""A stored figure to hold, and the key that says which records may be compared with it.

A baseline is data, never code: `baselines/<device>/<case>.json` holds one or more. "published" figures come
from somebody's document; "recorded" ones from our own records. Both name where they come from and why they
were accepted.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bench.judge.difference import FLOOR_PERCENT
from bench.judge.metrics import MEAN
from bench.judge.parity import GRAD_NORM, GRAD_NORM_TOLERANCE_PERCENT, LOSS, LOSS_TOLERANCE_PERCENT
from bench.judge.recorded_run import RecordedRun, interval_of, is_ratio, recorded_run, why_edited
from bench.judge.sessions import session_name
from bench.records.fields import (
    DeviceKind,
    Dtype,
    HexId,
    Name,
    Positive,
    Rate,
    StepSeconds,
    Strict,
    Text,
)
from bench.records.jsonfile import read_model, write_model
from bench.records.layout import AxisSizes
from bench.records.lone_rank import LoneRank, told_tier
from bench.records.record import Record

MAX_BASELINE_BYTES = 4 * 2**20
MAX_BASELINE_FILES = 1000
DEFAULT_TOLERANCE_PERCENT = 5.0
# Counted costs and whole series of runs: bench.ledger.store and bench.selftest.replay read those.
NOT_BASELINES = ("ledger", "noise")

# Two published roundings (2057 tokens/s/p and 32 s/step) disagree by 0.44 % about the tokens of a step.
_ROUNDING = 0.005
# Recipes of one name may be overridden to another size; vocabulary padding moves the count by less than this.
_SAME_SIZE = 0.005
_SAME_TOKENS = 0.01  # logs that state them step by step have a few more or less
# Runs of one program on one machine; beyond it a between-run spread is no number to judge by.
_MAX_RUN_RATIO = 1000.0

Percent = Annotated[float, Field(gt=0, le=50)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class LayoutKey(AxisSizes):
    """The layout a figure holds for. A null was not stated by the source and is not compared."""

    world_size: Positive
    tensor: Positive
    pipeline: Positive
    expert: Positive
    expert_tensor: Positive | None
    data: Positive | None
    nodes: Positive | None
    ranks_per_node: Positive | None
    context: Positive = 1
    virtual_pipeline: Positive = 1

    @property
    def short(self) -> str:
        """What people say: 16 ranks, TP4 PP2 EP2, 2 nodes."""
        context = f"CP{self.context} " if self.context > 1 else ""
        chunks = f"VPP{self.virtual_pipeline} " if self.virtual_pipeline > 1 else ""
        split = f"{self.world_size} ranks, TP{self.tensor} {context}PP{self.pipeline} {chunks}EP{self.expert}"
        return split if self.nodes is None else f"{split}, {self.nodes} node{'s' * (self.nodes > 1)}"


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


class DecidesWhen(Strict):
    """What beside the key a run must have for a published figure to decide; otherwise it is only shown.

    `recipe` names keys of the recipe and their values (`parallel.dispatcher`: `allgather`). `software` names packages
    and the version line: `0.6` accepts 0.6.0, and not 0.60. Two empty ones: it decides whatever ran.
    """

    recipe: Annotated[dict[Name, Name | bool | int | float], Field(max_length=100)]
    software: Annotated[dict[Name, Text], Field(max_length=100)]

    def unmet(self, record: Record) -> tuple[str, ...]:
        """What of this a record does not have, in words."""
        chosen = {key: _at(record.recipe.resolved, key) for key in self.recipe}
        found = [
            f"{key} {chosen[key]} (baseline {value})"
            for key, value in self.recipe.items()
            if chosen[key] != value or isinstance(chosen[key], bool) != isinstance(value, bool)  # 0 is not false
        ]
        for name, line in self.software.items():
            version = record.software.get(name, "absent")
            if not f"{version}.".startswith(f"{line}."):
                found.append(f"software.{name} {version} (baseline {line})")
        return tuple(found)


def _at(resolved: Mapping[str, object], key: str) -> object:
    """The value of `section.key`; None where a record's recipe is from before there was such a key."""
    value: object = resolved
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class Metrics(Strict):
    """The two figures that are compared."""

    tokens_per_second_per_processor: Rate
    step_seconds: StepSeconds


class Baseline(Strict):
    """One figure to hold.

    `judge` baselines can fail a record, published ones if `decides_when` is met; `compare` ones are only shown beside
    it; `retired` ones say why in their rationale and are kept for people to read.
    """

    label: Name
    kind: Literal["published", "recorded"]
    role: Literal["judge", "compare", "retired"]
    case: Name
    recipe: RecipeKey
    sequence_length: Positive
    global_batch: Positive
    parameters_total: Positive
    dtype: Dtype
    # Of a run, and from one sample to the next: runs of another number do not pay for the same evaluations, checkpoints
    # and logs. Null: not stated, not compared.
    steps: Positive | None = None
    step_interval: Positive | None = None
    layout: LayoutKey
    lone_rank: LoneRank | None = None  # null: of the whole job
    device: DeviceKey
    metrics: Metrics
    software: Annotated[dict[Name, Text], Field(max_length=100)] = {}  # empty: not stated, not compared
    decides_when: DecidesWhen | None = None  # of published figures that judge
    tolerance_percent: Percent
    floor_percent: Percent = FLOOR_PERCENT
    loss_tolerance_percent: Percent = LOSS_TOLERANCE_PERCENT
    grad_norm_tolerance_percent: Percent = GRAD_NORM_TOLERANCE_PERCENT
    source: Sentence
    rationale: Sentence
    runs: Annotated[list[RecordedRun], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _consistent(self) -> Baseline:
        tokens = self.sequence_length * self.global_batch
        implied = tokens / (self.metrics.tokens_per_second_per_processor * self.layout.world_size)
        if self.kind == "published" and abs(implied / self.metrics.step_seconds - 1) > _ROUNDING:
            raise ValueError(
                f"metrics disagree: {tokens} tokens a step at "
                f"{self.metrics.tokens_per_second_per_processor:g} tokens/s/p take {implied:.4g} s, "
                f"not {self.metrics.step_seconds:g} s"
            )
        if self.kind == "recorded":
            self._check_recorded()
        elif self.runs:
            raise ValueError("a published figure has no runs of ours")
        if (self.decides_when is not None) != (self.kind == "published" and self.role == "judge"):
            raise ValueError("decides_when is stated by published figures that judge, and by no others")
        return self

    def _check_recorded(self) -> None:
        if not self.runs:
            raise ValueError("a recorded baseline needs at least one run")
        if self.recipe.hash is None or None in self.layout.model_dump().values() or self.device.match != "exact":
            raise ValueError("a recorded baseline states its recipe hash, whole layout and exact device")
        if len({run.record_id for run in self.runs}) != len(self.runs):
            raise ValueError("runs repeat a record_id: one run is one piece of evidence")
        if self.steps is not None and any(run.steps != self.steps for run in self.runs):
            raise ValueError(f"steps is {self.steps}, and a run has another number")
        self._check_software()
        if edited := why_edited(self.runs):
            raise ValueError(edited)
        medians = [statistics.median(run.steady_step_seconds) for run in self.runs]
        _check_alike("the median of the steady steps", medians)
        for name in {name for run in self.runs for name in run.figures if is_ratio(name)}:
            _check_alike(name, [run.figures[name] for run in self.runs if name in run.figures])
        median = statistics.median(medians)
        if abs(median / self.metrics.step_seconds - 1) > 1e-6:
            raise ValueError(f"metrics.step_seconds is not {median:.6g}, the median of the runs' medians")
        self._check_rate()

    def _check_software(self) -> None:
        """One software in all sessions: it is part of the key."""
        first = self.runs[0]
        for run in self.runs[1:]:
            if moved := other_versions(run.software, first.software):
                name, its, theirs = moved[0]
                raise ValueError(
                    f"two sessions differ in software: {name} is {theirs} in {session_name(first)} and {its} in "
                    f"{session_name(run)}; record a baseline for each"
                )

    def _check_rate(self) -> None:
        """By the mean step, as lost throughput is lost; files from before that state it by the median step."""
        rate = self.metrics.tokens_per_second_per_processor
        implied = self.sequence_length * self.global_batch / (rate * self.layout.world_size)
        mean = statistics.median(run.known_figures[MEAN] for run in self.runs)
        if all(abs(implied / each - 1) > _ROUNDING for each in (mean, self.metrics.step_seconds)):
            raise ValueError(
                f"metrics disagree: at {rate:g} tokens/s/p a step takes {implied:.4g} s, and the runs' steps took "
                f"{mean:.4g} s on average"
            )

    @property
    def known_steps(self) -> int | None:
        """Of each run, from the first; None where that is not known, or not the same of all."""
        found = {run.steps for run in self.runs}
        return self.steps or (found.pop() if len(found) == 1 else None)

    @property
    def parity_tolerances_percent(self) -> Mapping[str, float]:
        """How far a run's losses and gradient norms may be from those of the baseline's runs (bench.judge.parity)."""
        return {LOSS: self.loss_tolerance_percent, GRAD_NORM: self.grad_norm_tolerance_percent}

    def why_only_shown(self, runs: Iterable[Record]) -> tuple[str, ...]:
        """What a run of its key lacks for this published figure to decide; empty where it does, or never would."""
        return next(filter(None, map(self.decides_when.unmet, runs)), ()) if self.decides_when else ()

    def differences(self, record: Record) -> tuple[str, ...]:
        """What of the key differs, in words; empty if the record may be compared with this baseline."""
        pairs = [
            ("ran", told_tier(record.lone_rank), told_tier(self.lone_rank)),
            ("case", record.case, self.case),
            ("recipe.name", record.recipe.name, self.recipe.name),
            ("recipe.hash", record.recipe.hash, self.recipe.hash),
            ("sequence_length", record.work.sequence_length, self.sequence_length),
            ("global_batch", record.work.global_batch, self.global_batch),
            ("dtype", record.device.dtype, self.dtype),
            *((f"layout.{k}", getattr(record.layout, k), v) for k, v in dict(self.layout).items()),
        ]
        found = [f"{key} {ours} (baseline {theirs})" for key, ours, theirs in pairs if theirs not in (None, ours)]
        if abs(record.work.parameters_total / self.parameters_total - 1) > _SAME_SIZE:
            found.append(f"parameters_total {record.work.parameters_total} (baseline {self.parameters_total})")
        tokens = self.sequence_length * self.global_batch  # of its runs; a log may count fewer
        if self.runs and abs(record.work.tokens_per_step / tokens - 1) > _SAME_TOKENS:
            found.append(f"tokens_per_step {record.work.tokens_per_step} (baseline {tokens})")
        if self.known_steps not in (None, len(record.steps)):
            found.append(f"steps {len(record.steps)} (baseline {self.known_steps})")
        elif self.step_interval is not None and interval_of(record) != self.step_interval:
            found.append(f"steps from sample to sample {interval_of(record)} (baseline {self.step_interval})")
        if record.device.kind not in self.device.kinds:
            found.append(f"device.kind {record.device.kind} (baseline {' or '.join(self.device.kinds)})")
        elif not self.device.accepts(record.device.name):
            found.append(f"device.name {record.device.name} (baseline {self.device.name})")
        software = software_differences(record.software, self.software) if self.software else []
        return (*found, *software)


def _check_alike(name: str, values: Sequence[float]) -> None:
    if max(values) > _MAX_RUN_RATIO * min(values):
        raise ValueError(
            f"{name} goes from {min(values):.4g} to {max(values):.4g} between runs: not of one program on one machine"
        )


class BaselineFile(Strict):
    """What one file under baselines/ holds."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    baselines: Annotated[list[Baseline], Field(min_length=1, max_length=100)]

    def write(self, path: Path) -> None:
        """Write the file as JSON, atomically."""
        write_model(path, self)


def load_baselines(folder: Path) -> list[Baseline]:
    """Every baseline under a folder; a ValueError of one line names the file at fault."""
    return [baseline for _, baseline in stored_baselines(folder)]


def stored_baselines(folder: Path) -> list[tuple[Path, Baseline]]:
    """Every baseline under a folder, and the file that holds it; a ValueError of one line names the file at fault."""
    require_folder(folder)
    paths = sorted(path for path in folder.rglob("*.json") if path.relative_to(folder).parts[0] not in NOT_BASELINES)
    if len(paths) > MAX_BASELINE_FILES:
        raise ValueError(f"{folder}: {len(paths)} files, more than the {MAX_BASELINE_FILES} allowed")
    loaded: dict[str, tuple[Path, Baseline]] = {}
    for path in paths:
        for baseline in read_baselines(path):
            # A verdict names its baseline by label, so that two of one label would leave a reader guessing.
            if loaded.setdefault(baseline.label, (path, baseline))[1] is not baseline:
                raise ValueError(f"{path}: the label {baseline.label!r} is already taken by another baseline")
    return list(loaded.values())


def require_folder(folder: Path) -> None:
    """Refuse what is no folder of baselines, before anything is made there."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of baselines; give --baselines a folder that exists")


def read_baselines(path: Path) -> list[Baseline]:
    """The baselines of one file."""
    return read_model(path, BaselineFile, max_bytes=MAX_BASELINE_BYTES).baselines


def recorded_baseline(
    records: Sequence[Record],
    rationale: str,
    *,
    tolerance_percent: float = DEFAULT_TOLERANCE_PERCENT,
    floor_percent: float = FLOOR_PERCENT,
) -> Baseline:
    """A baseline from our own records of one key, for a person to review and store."""
    if not records:
        raise ValueError("a baseline needs at least one record")
    first = records[0]
    for record in records:
        if not record.valid:
            raise ValueError(f"record {record.id} is void ({record.void_reasons[0]}) and cannot be a baseline")
        if other := software_differences(record.software, first.software, "first"):
            raise ValueError(f"record {record.id} differs from the first in {other[0]}")
    runs = [recorded_run(record) for record in records]
    step_seconds = statistics.median(statistics.median(run.steady_step_seconds) for run in runs)
    mean_seconds = statistics.median(run.known_figures[MEAN] for run in runs)
    baseline = Baseline(
        label=recorded_label(first.case, first.device.name, {each.id: each.created_at for each in records}),
        kind="recorded",
        role="judge",
        case=first.case,
        recipe=RecipeKey(name=first.recipe.name, hash=first.recipe.hash),
        sequence_length=first.work.sequence_length,
        global_batch=first.work.global_batch,
        parameters_total=first.work.parameters_total,
        dtype=first.device.dtype,
        steps=len(first.steps),
        step_interval=interval_of(first),
        layout=LayoutKey.model_validate(first.layout.model_dump()),
        lone_rank=first.lone_rank,
        device=DeviceKey(kinds=[first.device.kind], name=first.device.name, match="exact"),
        metrics=Metrics(
            tokens_per_second_per_processor=first.work.tokens_per_step / mean_seconds / first.layout.world_size,
            step_seconds=step_seconds,
        ),
        software=first.software,
        tolerance_percent=tolerance_percent,
        floor_percent=floor_percent,
        source=f"{len(runs)} recorded run(s) of this project",
        rationale=rationale,
        runs=runs,
    )
    for record in records:
        if differences := baseline.differences(record):
            raise ValueError(f"record {record.id} differs from the first in {differences[0]}")
    return baseline


def recorded_label(case: str, device: str, made: Mapping[str, str]) -> str:
    """Case, device and date, and a digest of the runs, given as `created_at` by id: other runs make another label."""
    digest = hashlib.sha256(" ".join(sorted(made)).encode()).hexdigest()[:8]
    return f"{case[:80]} on {device[:80]}, {max(made.values())[:10]} ({digest})"


def software_differences(ours: Mapping[str, str], theirs: Mapping[str, str], other: str = "baseline") -> list[str]:
    """Which packages are of another version, or on one side only."""
    return [f"software.{name} {mine} ({other} {its})" for name, mine, its in other_versions(ours, theirs)]


def other_versions(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(package, version of ours, of theirs) where they differ; "absent" where one side has none."""
    pairs = [(name, ours.get(name, "absent"), theirs.get(name, "absent")) for name in sorted({*theirs, *ours})]
    return [(name, mine, its) for name, mine, its in pairs if mine != its]
