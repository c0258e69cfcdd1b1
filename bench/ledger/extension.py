"""How many micro-batches of a step a count runs, and how its figures extend to the whole step. No torch.

A step of M micro-batches costs a + b M once the pipeline is full. Stage s of P begins P - s - 1 forwards before its
first backward; from then on a backward follows each forward. So what lies between the last two forwards of a step is
what one micro-batch more adds, and three micro-batches after that warm-up give a whole step exactly: the first may do
what is done once, such as gathering weights. The report, which follows the pipeline, is compared with a shorter step's.

Interleaved chunks take micro-batches in groups of P, and repeat themselves with each group. Stage s of V chunks begins
2 (P - s - 1) + (V - 1) P passes ahead of its first backward. One group, of P V passes, holds these and one more where
2 s >= P - 1; two groups do on any stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grok1.config.recipe import Recipe
from grok1.config.stages import micro_batch_group

Figures = Mapping[Any, tuple[int, ...]]  # such as calls and bytes, by (phase, what they are of, ...)
_AFTER_THE_PIPELINE = "report"


@dataclass(frozen=True)
class Extension:
    """From a step of `run` micro-batches to one of `total`, in groups that cost the same once the pipeline is full."""

    run: int
    total: int
    remembered: int  # micro-batches of the step whose memory is stated
    group: int = 1
    forwards_a_group: int = 1  # of all chunks of the stage

    @property
    def more(self) -> int:
        """Groups that the whole step has beyond what runs."""
        return (self.total - self.run) // self.group

    @property
    def more_in_memory(self) -> int:
        """The same, of the step whose memory is stated."""
        return (self.remembered - self.run) // self.group


def extension(recipe: Recipe, stage: int) -> Extension:
    """The shortest step of that stage that gives a whole one. Memory is of the step that is run on stage 0."""
    parallel, total = recipe.parallel, recipe.num_micro_batches
    if parallel.virtual_pipeline == 1:
        stage_0, run = (min(total, parallel.pipeline - each + 2) for each in (0, stage))
        return Extension(run, total, stage_0)
    group = micro_batch_group(parallel)
    fills_in_one = 2 * stage >= parallel.pipeline - 1
    stage_0, run = (min(total, groups * group) for groups in (3, 2 if fills_in_one else 3))
    return Extension(run, total, stage_0, group, group * parallel.virtual_pipeline)


def run_in_full(num_micro_batches: int, group: int = 1) -> Extension:
    """A step whose micro-batches all run."""
    return Extension(num_micro_batches, num_micro_batches, num_micro_batches, group)


def extended(step: Extension, short: Figures, early: Figures, late: Figures, ran: Figures) -> Figures:
    """The whole step's figures.

    From those of a step of one group, of two moments of the step that ran, a group apart, and of all of that.
    """
    if not step.more:
        return ran
    whole, groups_after_short = dict(ran), step.run // step.group - 1
    for key, values in ran.items():
        nothing = (0,) * len(values)
        if key[0] == _AFTER_THE_PIPELINE:
            added = [
                (new - old) // groups_after_short for new, old in zip(values, short.get(key, nothing), strict=True)
            ]
        else:
            added = [new - old for new, old in zip(late.get(key, nothing), early.get(key, nothing), strict=True)]
        whole[key] = tuple(value + step.more * more for value, more in zip(values, added, strict=True))
    return whole
