"""What measuring costs: the harness's step beside the same step in a bare loop, in turns, in one run.

Both train the same model on the same data through the same schedule. The bare loop has no timers, no counted
collectives, no expert counts, no result and no log line. A third side, also bare, is the control: its ratio to
the second shows what this machine makes of two things that are equal. The test beside it reads the three lists.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch.distributed as dist

from grok1.data.batches import Batches
from grok1.device import measuring
from grok1.device.traffic import TRAFFIC
from grok1.distributed.rendezvous import Rendezvous
from grok1.megatron.door import finalize_model_grads, get_forward_backward_func, get_model_config
from grok1.megatron.instances import temporary_settings
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.result import Emit, Event
from grok1.training.run import step_done
from grok1.training.step import Stepper, forward_step

SIDES = ("harness", "bare", "control")
# one round: single steps, and the same backwards, so that neither a drift of the machine nor a place in the order
# favours a side
_ROUND = SIDES + SIDES[::-1]
_WARM_UP_ROUNDS = 2


def run_rank(job: Job, where: Rendezvous, emit: Emit) -> dict[str, list[float]] | None:
    """Wall seconds of each timed step, by side; rank 0 returns them, the others None.

    `job.num_steps` is the least number of timed steps a side; whole rounds are run, so steps 2 i and 2 i + 1 of
    each side belong to round i.
    """
    rounds = _WARM_UP_ROUNDS + math.ceil(job.num_steps / 2)
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(job.recipe, ranks, batches)
        log = emit if ranks.rank == 0 else _drop
        seconds = _in_turns(rounds, lambda step: _harness_step(stepper, log, step), stepper, batches)
        return seconds if ranks.rank == 0 else None


def _drop(_event: Event) -> None: ...


def _in_turns(
    rounds: int, harness_step: Callable[[int], float], stepper: Stepper, batches: Batches
) -> dict[str, list[float]]:
    bare_step = functools.partial(_bare_step, stepper, batches, get_forward_backward_func())
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for step in range(rounds * len(_ROUND)):
        side = _ROUND[step % len(_ROUND)]
        is_harness = side == "harness"
        dist.barrier()
        with nullcontext() if is_harness else bare(stepper):  # outside the timed part
            taken = timed(harness_step if is_harness else bare_step, step)
        # a harness step drains the counts, so any left here were made by a step that should have made none
        assert is_harness or TRAFFIC.calls == 0, "the bare loop's collectives are still counted"
        if step >= _WARM_UP_ROUNDS * len(_ROUND):
            seconds[side].append(taken)
    return seconds


def timed(run: Callable[[int], float], step: int) -> float:
    """Wall seconds of one step, which returns its loss; a ValueError where that is not finite."""
    measuring.synchronize()
    start = time.perf_counter()
    loss = run(step)
    measuring.synchronize()
    seconds = time.perf_counter() - start
    if not math.isfinite(loss):
        raise ValueError(f"step {step + 1}: loss is not finite, so its time means nothing; lower the learning rate")
    return seconds


def _harness_step(stepper: Stepper, emit: Emit, step: int) -> float:
    """What grok1.training.run does a step: run it and log it."""
    result = stepper.run(step)
    emit(step_done(result))
    return result.metrics.loss


def _bare_step(stepper: Stepper, batches: Batches, forward_backward: Callable[..., Any], step: int) -> float:
    """The training of Stepper.run and nothing else; inside `bare`."""
    training, micro_batches = stepper.recipe.training, batches.step(step)
    stepper.model.zero_grad_buffer()
    stepper.optimizer.zero_grad()
    losses = forward_backward(
        forward_step_func=functools.partial(forward_step, context=stepper.recipe.parallel.context),
        data_iterator=[iter(micro_batches) for _ in stepper.model],
        model=list(stepper.model),
        num_microbatches=len(micro_batches),
        seq_length=training.sequence_length,
        micro_batch_size=training.micro_batch,
        forward_only=False,
    )
    stepper.optimizer.step()
    stepper.scheduler.step(increment=1)
    loss, *_ = stepper.reduce_losses([entry["loss"] for entry in losses])
    return loss


@contextmanager
def bare(stepper: Stepper) -> Iterator[None]:
    """Take the instruments off this stepper's model and the collectives, and put them back."""
    with ExitStack() as stack:
        config = get_model_config(stepper.model[0])
        stack.enter_context(temporary_settings(config, timers=None, finalize_model_grads_func=finalize_model_grads))
        stack.enter_context(stepper.expert_load.uncounted())
        stack.enter_context(TRAFFIC.uncounted())
        yield
