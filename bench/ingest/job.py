"""What was understood of a foreign job's logs so far."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.records.record import MAX_STEPS

MAX_SAMPLES = 400_000  # of all ranks together
Value = int | str
Facts = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training line. Where it gives a speed instead of a time, `seconds` waits for the job's size."""

    step: int
    seconds: float | None = None
    tokens_per_second: float | None = None
    loss: float | None = None
    aux_loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    skipped: bool = False
    broken: str = ""
    global_batch: int | None = None
    tflops: float | None = None
    peak_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def slowness(self) -> float:
        """Orders the lines that several ranks wrote about one step."""
        return self.seconds if self.seconds is not None else 1.0 / (self.tokens_per_second or 1.0)


@dataclass
class Log:
    """What was understood of the files so far."""

    from_step: int = 0
    form: str = ""
    facts: dict[str, Value] = field(default_factory=dict)
    arguments: dict[str, tuple[str, str]] = field(default_factory=dict)
    streams: dict[int, list[Sample]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    reserved_bytes: int = 0
    lines: int = 0
    unusable: int = 0
    resumes: list[int] = field(default_factory=list)
    kept: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    fresh: set[int] = field(default_factory=set)

    def state(self, name: str, value: Value, where: str) -> None:
        """Note a fact; two that differ are of two jobs."""
        if self.facts.setdefault(name, value) != value:
            raise ValueError(
                f"{where}: {name} is {value} here and {self.facts[name]} before: give the logs of one job only"
            )

    def number(self, step: int) -> int:
        """A step as the log numbers it: NeMo from 0, the others from 1."""
        return step if self.form == "NeMo" else step + 1

    def starts(self) -> None:
        """The job started or resumed here: every rank's next line may go back."""
        self.fresh = set(self.streams)

    def add(self, rank: int, sample: Sample, form: str, where: str) -> None:
        """Take one training line. Going back in steps is a resume, which replaces what it repeats."""
        if self.form not in ("", form):
            raise ValueError(f"{where}: a line of {form} in a log of {self.form}: give the logs of one job only")
        self.form = form
        stream = self.streams.setdefault(rank, [])
        resumes = rank in self.fresh
        self.fresh.discard(rank)
        if stream and sample.step == stream[-1].step and not resumes:
            # Another rank without a prefix, or a progress bar drawn again: every rank waits for the slowest.
            stream[-1] = _together([stream[-1], sample])
            return
        if stream and sample.step <= stream[-1].step:
            self.resumes.append(sample.step)
            while stream and stream[-1].step >= sample.step:
                stream.pop()
                self.kept -= 1
        stream.append(sample)
        self.kept += 1
        if len(stream) > MAX_STEPS or self.kept > MAX_SAMPLES:
            raise ValueError(f"{where}: more than {MAX_STEPS:,} steps or {MAX_SAMPLES:,} lines; give --from-step")

    def samples(self) -> list[Sample]:
        """One sample a step in increasing order: the slowest rank's where several wrote one."""
        steps: dict[int, list[Sample]] = {}
        for rank in sorted(self.streams):
            for sample in self.streams[rank]:
                steps.setdefault(sample.step, []).append(sample)
        return [_together(steps[step]) for step in sorted(steps)]


def _together(samples: list[Sample]) -> Sample:
    if len(samples) == 1:
        return samples[0]
    slowest = max(samples, key=lambda each: each.slowness)
    return replace(
        slowest,
        loss=next((each.loss for each in samples if each.loss is not None), None),
        broken=next((each.broken for each in samples if each.broken), ""),
        skipped=any(each.skipped for each in samples),
        peak_bytes=max(each.peak_bytes for each in samples),
        reserved_bytes=max(each.reserved_bytes for each in samples),
    )
