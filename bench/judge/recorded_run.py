"""One run behind a recorded baseline: its steady steps, its figures, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from bench.judge.metrics import MEAN, QUARTILE, SPEED, STEP, metric_of, speed_figures, stored_figures_of
from bench.judge.stats import summarise
from bench.records.fields import Count, Figure, HexId, Name, Seconds, StepSeconds, Strict, Text
from bench.records.record import CodeDigests, Commit, Host, Record, Session

_OF_STEPS = {STEP: "median", MEAN: "mean", QUARTILE: "lower quartile"}


class RecordedRun(Strict):
    """One run behind a recorded baseline."""

    record_id: HexId
    created_at: Annotated[str, StringConstraints(max_length=40)]
    is_dated: bool = True  # false: of a log without dates, and `created_at` is when it was read
    session: Session | None = None  # null: from before records said so, or of a foreign log
    run_seconds: Seconds | None = None  # from the start to the last step; null in older files
    host: Host | None = None  # null in older files, or of a foreign log
    commit: Commit
    code_digests: CodeDigests = {}  # empty in older files, or of a foreign log
    software: Annotated[dict[Name, Text], Field(max_length=100)]
    environment: Annotated[dict[Name, Text], Field(max_length=500)]
    warmup_steps: Count
    steady_step_seconds: Annotated[list[StepSeconds], Field(min_length=1, max_length=100_000)]
    # bench.judge.metrics.figures_of; empty in a file from before other metrics than the step's time were judged
    figures: Annotated[dict[Name, Figure], Field(max_length=500)] = {}
    # of every step from the first: another run of the same program must learn the same
    losses: Annotated[list[float | None], Field(max_length=100_000)] = []
    grad_norms: Annotated[list[float | None], Field(max_length=100_000)] = []

    @property
    def known_figures(self) -> Mapping[str, float]:
        """The figures; those of speed from the steady steps, where a file is from before they were stored.

        What steps lose beyond the median one is never stored: it may be negative, and the steps say it.
        """
        return speed_figures(self.steady_step_seconds) | self.figures

    @property
    def steps(self) -> int:
        return self.warmup_steps + len(self.steady_step_seconds)

    @model_validator(mode="after")
    def _consistent(self) -> RecordedRun:
        """What is judged is what the steps say; a figure that is judged as a ratio is never zero."""
        for what, values in (("losses", self.losses), ("grad_norms", self.grad_norms)):
            if values and len(values) != self.steps:
                raise ValueError(
                    f"{what} holds {len(values)} numbers for {self.steps} steps, "
                    f"{self.warmup_steps} of the warm-up and {len(self.steady_step_seconds)} steady"
                )
        if not self.figures:
            return self
        said = speed_figures(self.steady_step_seconds)
        for name in SPEED:  # files from before the mean was judged have the median alone
            if name in self.figures or name == STEP:
                self._check_figure(name, said[name])
        for name, value in self.figures.items():
            if is_ratio(name) and value <= 0:
                raise ValueError(f"figures.{name} is {value:g}, which no run can have")
        return self

    def _check_figure(self, name: str, said: float) -> None:
        if abs(self.figures.get(name, 0.0) / said - 1) > 1e-6:
            raise ValueError(f"figures.{name} is not {said:.6g}, the {_OF_STEPS[name]} of the steady steps")


def is_ratio(name: str) -> bool:
    """Whether a change of this figure is judged relative to the figure itself."""
    metric = metric_of(name)
    return metric is not None and metric.scale == "ratio"


def recorded_run(record: Record) -> RecordedRun:
    """What a baseline keeps of a record."""
    summary = summarise(record)
    return RecordedRun(
        record_id=record.id,
        created_at=record.created_at,
        is_dated=record.is_dated,
        session=record.session,
        run_seconds=run_seconds(record),
        host=record.host,
        commit=record.commit,
        code_digests=record.code_digests,
        software=record.software,
        environment=record.environment,
        warmup_steps=summary.steady_from,
        steady_step_seconds=list(summary.step_seconds[summary.steady_from :]),
        figures=stored_figures_of(summary),
        losses=[step.loss for step in record.steps],
        grad_norms=[step.grad_norm for step in record.steps],
    )


def run_seconds(record: Record) -> float:
    """From the start of a run to its last step, which is what one more would cost."""
    steps_seconds = sum(record.ranks[0].step_seconds) if record.ranks else 0.0
    return (record.startup_seconds or 0.0) + interval_of(record) * steps_seconds


def interval_of(record: Record) -> int:
    """How many steps each sample stands for: more than one only in ingested logs."""
    numbers = [step.step for step in record.steps]
    return round((numbers[-1] - numbers[0]) / (len(numbers) - 1)) if len(numbers) > 1 else 1


def why_edited(runs: Iterable[Record] | Iterable[RecordedRun]) -> str | None:
    """Which two of these runs are of one commit and of other sources; of one commit there is one program otherwise."""
    by_commit: dict[str, Record | RecordedRun] = {}
    for run in runs:
        if run.commit.sha is None or not run.code_digests:
            continue
        first = by_commit.setdefault(run.commit.sha, run)
        if first.code_digests != run.code_digests:
            return (
                f"runs {_id(first)[:8]} and {_id(run)[:8]} are of commit {run.commit.sha[:10]}, whose sources were "
                "edited between; record a baseline of one program"
            )
    return None


def _id(run: Record | RecordedRun) -> str:
    return run.id if isinstance(run, Record) else run.record_id
