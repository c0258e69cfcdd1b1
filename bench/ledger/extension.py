"""How many micro-batches a count runs, and how their figures extend to a whole step.

A step of M micro-batches costs a + b M once the pipeline is full, so two steps give all of them exactly. Without
interleaving, one micro-batch more than the pipeline has stages fills it. With it, micro-batches come in groups, one for
each stage: the last group's warm-up is cut short, so two groups fill the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

from grok1.config.recipe import Recipe
from grok1.config.stages import micro_batch_group


def least_micro_batches(recipe: Recipe) -> int:
    """The fewest that a step can have."""
    return micro_batch_group(recipe.parallel)


def micro_batches_to_run(recipe: Recipe) -> list[int]:
    """One or two numbers of micro-batches, no more than the recipe's, whose counts give the whole step's."""
    group, total = micro_batch_group(recipe.parallel), recipe.num_micro_batches
    full = min(total, recipe.parallel.pipeline + group)
    return sorted({full, min(total, full + group)})


def extended(values: Sequence[Sequence[int]], run: Sequence[int], total: int) -> list[int]:
    """Figures of `total` micro-batches, from those of the one or two numbers of them that ran."""
    if len(values) == 1:
        return list(values[0])
    (few, many), figures = run, zip(*values, strict=True)
    return [first + (total - few) * (second - first) // (many - few) for first, second in figures]
