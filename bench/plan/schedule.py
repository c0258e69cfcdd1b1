"""The pipeline's schedule, played through: which stage does what when, as megatron's 1F1B runs it. No torch.

A stage runs some forwards ahead, then a forward and a backward in turns, then the backwards that are left. With more
than one chunk a stage, as many micro-batches as there are stages pass a chunk before the next one's turn; and since one
exchange there brings the inputs of both, a forward of the turns waits for the gradient of the backward behind it, too.
Each pass waits for its input: the stage before it, or behind it, and the transfer between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]  # not of bench.plan.layouts, which knows recipes: reports draw this order, too
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pass:
    """A micro-batch's forward or backward through one chunk of a stage."""

    is_forward: bool
    micro_batch: int
    chunk: int


@dataclass(frozen=True)
class Played:
    """What came of it, a row a stage."""

    seconds: float  # until the last stage is done
    busy_seconds: Floats
    most_in_flight: Ints  # chunks of micro-batches kept for their backward

    @property
    def bubble_seconds(self) -> Floats:
        """Waiting, of each stage."""
        return np.asarray(self.seconds - self.busy_seconds)


def warm_up(stage: int, stages: int, chunks: int, micro_batches: int) -> int:
    """Forwards that a stage runs before its first backward, but one."""
    behind = stages - stage - 1
    ahead = behind if chunks == 1 else 2 * behind + (chunks - 1) * stages
    return min(ahead, chunks * micro_batches)


def passes(stage: int, stages: int, chunks: int, micro_batches: int) -> list[Pass]:
    """What a stage does, in order."""
    order = list(turns(stages, chunks, micro_batches))
    forwards = [Pass(True, micro_batch, chunk) for micro_batch, chunk in order]
    backwards = [Pass(False, micro_batch, chunks - 1 - chunk) for micro_batch, chunk in order]
    ahead = warm_up(stage, stages, chunks, micro_batches)
    in_turns = [each for pair in zip(forwards[ahead:], backwards, strict=False) for each in pair]
    return [*forwards[:ahead], *in_turns, *backwards[len(backwards) - ahead :]]


def turns(stages: int, chunks: int, micro_batches: int) -> Iterator[tuple[int, int]]:
    """(micro-batch, chunk) of a stage's forwards in order; its backwards take the chunks from the last.

    As many micro-batches as there are stages pass a chunk, then the next one.
    """
    group = stages if chunks > 1 else 1
    for first in range(0, micro_batches, group):
        for chunk in range(chunks):
            for micro_batch in range(first, min(first + group, micro_batches)):
                yield micro_batch, chunk


def play(forward_SC: Floats, backward_SC: Floats, transfer_seconds: float, micro_batches: int) -> Played:
    """The schedule with these times.

    Args:
        forward_SC, backward_SC: [stages, chunks] seconds of a micro-batch through each chunk of each stage.
        transfer_seconds: of an activation, or of its gradient, from one stage to the next.
    """
    stages, chunks = forward_SC.shape
    todo = [passes(stage, stages, chunks, micro_batches) for stage in range(stages)]
    done: dict[tuple[int, Pass], float] = {}  # the moment at which a stage has done a pass
    clock, at = np.zeros(stages), [0] * stages
    while any(at[stage] < len(todo[stage]) for stage in range(stages)):
        before = sum(at)
        for stage in range(stages):
            while at[stage] < len(todo[stage]):
                inputs = _inputs(todo[stage], at[stage], stage, stages, chunks, micro_batches)
                if any(each not in done for each in inputs):
                    break
                here = [done[each] + transfer_seconds * (each[0] != stage) for each in inputs]
                now = todo[stage][at[stage]]
                seconds = (forward_SC if now.is_forward else backward_SC)[stage, now.chunk]
                done[stage, now] = clock[stage] = max([clock[stage], *here]) + seconds
                at[stage] += 1
        assert sum(at) > before, "stages wait for each other"
    busy = micro_batches * (forward_SC + backward_SC).sum(axis=1)
    return Played(float(clock.max()), busy, np.array([_most_in_flight(each) for each in todo], np.int64))


def _inputs(
    todo: list[Pass], at: int, stage: int, stages: int, chunks: int, micro_batches: int
) -> list[tuple[int, Pass]]:
    """What must be done before, as (stage, pass)."""
    each = todo[at]
    found = [_input(each, stage, stages, chunks)]
    has_turns = at >= warm_up(stage, stages, chunks, micro_batches)
    if chunks > 1 and each.is_forward and has_turns:
        following = todo[at + 1]  # the backward of this turn
        gradient = _input(following, stage, stages, chunks)
        found += [gradient] if gradient and gradient[0] != stage else []
    return [one for one in found if one]


def _input(each: Pass, stage: int, stages: int, chunks: int) -> tuple[int, Pass] | None:
    """The pass whose result this one takes; none for the first forward of a micro-batch."""
    if each.is_forward:
        if stage > 0:
            return stage - 1, each
        return (stages - 1, Pass(True, each.micro_batch, each.chunk - 1)) if each.chunk else None
    if stage < stages - 1:
        return stage + 1, each
    if each.chunk < chunks - 1:
        return 0, Pass(False, each.micro_batch, each.chunk + 1)
    return stage, Pass(True, each.micro_batch, each.chunk)


def _most_in_flight(todo: list[Pass]) -> int:
    return int(np.cumsum([1 if each.is_forward else -1 for each in todo]).max())
