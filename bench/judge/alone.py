"""What a run of one rank alone says of that rank and of its job, from its record. No torch.

Nothing is waited for, so that what a step takes beyond its operators (off the CPU: beyond its kernels) is the host.
The job cannot be faster than the rank's own step and the micro-batches that fill and drain the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.judge.stats import Summary
from bench.records.record import Record


@dataclass(frozen=True)
class Alone:
    """Of the run's median steady step; None where it was not measured."""

    rank: int
    world_size: int
    stage: int
    step_seconds: float
    micro_batch_seconds: float | None  # forward and backward of one
    least_step_seconds: float  # of the whole job
    most_tokens_per_second_per_processor: float  # of the whole job
    operators_seconds: float | None  # of kernels, off the CPU; in a profiled step
    operator_calls: int | None
    host_seconds: float | None  # of a step
    waits: float  # for so many micro-batches a stage waits while the pipeline fills and drains

    @property
    def title(self) -> str:
        """As a report's first words."""
        return f"rank {self.rank} of {self.world_size} (stage {self.stage}), alone"

    @property
    def host_seconds_a_call(self) -> float | None:
        """What the host takes for each operator that it issues."""
        return self.host_seconds / self.operator_calls if self.host_seconds and self.operator_calls else None

    def job_seconds(self, terms: Mapping[str, float], num_micro_batches: int) -> float:
        """A step of the job, if all stages are as this one, with the communication that was predicted of it.

        Args:
            terms: seconds of a step by term (bench.records.expectation), as far as they show.
            num_micro_batches: of a step.
        """
        of_micro_batches = sum(terms.get(name, 0.0) for name in ("tensor", "expert", "context", "pipeline"))
        passes = num_micro_batches + self.waits
        return self.least_step_seconds + of_micro_batches * passes / num_micro_batches + terms.get("data", 0.0)


def alone(record: Record, summary: Summary) -> Alone | None:
    """None of a run of the whole job."""
    if record.lone_rank is None:
        return None
    [samples], layout, phases = record.ranks, record.layout, summary.phase_seconds
    step, operators = summary.median_step_seconds, samples.operators_seconds
    micro_batch = None
    if {"forward", "backward"} <= phases.keys():
        micro_batch = (phases["forward"] + phases["backward"]) / record.work.num_micro_batches
    waits = (layout.pipeline - 1) / layout.virtual_pipeline
    least = step + waits * (micro_batch or 0.0)
    return Alone(
        rank=record.lone_rank.rank,
        world_size=layout.world_size,
        stage=samples.stage,
        step_seconds=step,
        micro_batch_seconds=micro_batch,
        least_step_seconds=least,
        most_tokens_per_second_per_processor=record.work.tokens_per_step / least / layout.world_size,
        operators_seconds=operators,
        operator_calls=samples.operator_calls,
        # the profiled step was another one, and may have been a slow one
        host_seconds=None if operators is None or operators > step else step - operators,
        waits=waits,
    )
