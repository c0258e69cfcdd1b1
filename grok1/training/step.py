"""One training step with its phases timed. run.py loops it; bench/ measures it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.data.batches import Batch, BatchSource
from grok1.device import measuring
from grok1.device.measuring import Stamp
from grok1.device.traffic import TRAFFIC, Communication
from grok1.distributed.groups import Ranks, aux_loss_sums, group_names
from grok1.megatron.door import (
    clear_aux_losses_tracker,
    finalize_model_grads,
    get_forward_backward_func,
    get_model_config,
)
from grok1.megatron.instances import connect_schedule
from grok1.megatron.protocols import MegatronOptimizer, Scheduler
from grok1.training.expert_load import ExpertLoad
from grok1.training.result import StepMetrics
from grok1.training.timers import PhaseTimers
from grok1.weights.chunks import Chunks


@dataclass(frozen=True)
class StepResult:
    """What one step computed, and what it took on this rank.

    Collectives are by "group operation", as in "tensor all_gather_into_tensor".
    """

    metrics: StepMetrics
    seconds: float
    phase_seconds: dict[str, float]
    collectives: dict[str, Communication]
    memory_bytes: int = 0  # in use after the step


class Stepper:
    """Runs training steps: 1F1B over the micro-batches, gradient reduction, clipping, AdamW."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        model: Chunks,
        optimizer: MegatronOptimizer,
        scheduler: Scheduler,
        batches: BatchSource,
        timers: PhaseTimers | None = None,
    ) -> None:
        self.recipe, self.ranks, self.model = recipe, ranks, model
        self.optimizer, self.scheduler, self._batches = optimizer, scheduler, batches
        self.expert_load = ExpertLoad(model, recipe.training.pad_to_capacity)
        self.timers = timers or PhaseTimers()
        connect_schedule(
            get_model_config(model[0]),
            timers=self.timers,
            scale_loss=optimizer.scale_loss,
            finalize_gradients=self._finalize_gradients,
            no_sync=[each.no_sync for each in model] if recipe.kernels.gradient_reduction == "overlapped" else [],
        )
        self._forward_backward = get_forward_backward_func()
        self._group_names = group_names()
        self._started: Stamp | None = None  # when the latest step did

    def run(self, step: int, planted_percent: float = 0.0) -> StepResult:
        """Step number `step`, counted from 0, forward to updated weights; made so much longer, to try a gate with."""
        began = time.perf_counter()
        self._started = start = measuring.stamp()
        with self.timers.phase("data"):
            batches = self._batches.step(step)
        losses = self.accumulate(batches)
        with self.timers.phase("optimizer"):
            updated, grad_norm, _ = self.optimizer.step()
            assert grad_norm is not None  # it is None where a loss scale overflows, which fp16 alone has
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            self.scheduler.step(increment=1)
        with self.timers.phase("report"):
            loss, aux_loss, z_loss = self.reduce_losses(losses)
            dropped_pairs = self._dropped_pairs(self.expert_load.settle())
        if planted_percent:
            with self.timers.phase("optimizer"):
                time.sleep(planted_percent / 100 * (time.perf_counter() - began))
        end = measuring.stamp()
        measuring.synchronize()
        return StepResult(
            metrics=StepMetrics(
                step=step,
                loss=loss,
                aux_loss=aux_loss,
                grad_norm=float(grad_norm),
                learning_rate=learning_rate,
                skipped=not updated,
                z_loss=z_loss,
                dropped_pairs=dropped_pairs,
            ),
            seconds=measuring.seconds_between(start, end),
            phase_seconds=self.timers.drain(),
            collectives=TRAFFIC.drain(self._group_names),
            memory_bytes=measuring.bytes_in_use(),
        )

    def timeline(self) -> list[tuple[float, float, str]]:
        """(start, end, phase) of each stretch of the latest step, in the order of time, in seconds since it began."""
        return [] if self._started is None else self.timers.timeline(self._started)

    def accumulate(self, batches: list[Batch]) -> list[Tensor]:
        """Forward and backward of the micro-batches, gradients reduced; the last stage's losses."""
        with self.timers.phase("optimizer"):
            self.model.zero_grad_buffer()
            self.optimizer.zero_grad()
        losses = self._forward_backward(
            forward_step_func=functools.partial(forward_step, context=self.recipe.parallel.context),
            data_iterator=[iter(batches) for _ in self.model],  # each chunk runs all micro-batches
            model=list(self.model),
            num_microbatches=len(batches),
            seq_length=batches[0]["tokens"].shape[1] * self.recipe.parallel.context,
            micro_batch_size=self.recipe.training.micro_batch,
            forward_only=False,
        )
        return [entry["loss"] for entry in losses]

    def _finalize_gradients(
        self, model: list[torch.nn.Module], num_tokens: Tensor | None = None, **more: object
    ) -> None:
        """As megatron's schedule calls it; later lines than 0.12 hand more on."""
        with self.timers.phase("gradients"):
            finalize_model_grads(model, num_tokens, **more)

    def reduce_losses(self, losses: list[Tensor]) -> tuple[float, float, float | None]:
        """(loss, aux loss, z-loss), means over the global batch; one small all-reduce over all ranks.

        The z-loss is None, and not exchanged, where the recipe has none.
        """
        parallel, model = self.recipe.parallel, self.recipe.model
        size = 3 if model.z_loss_coefficient else 2
        means = torch.zeros(size, dtype=torch.float32, device=torch.cuda.current_device())
        if self.ranks.reports_loss:
            means[0] = torch.stack(losses).mean() / parallel.data
        routers = self.recipe.num_micro_batches * parallel.data * model.num_layers
        sums = aux_loss_sums()
        if "load_balancing_loss" in sums:  # megatron keeps each tensor and context rank's share; their sum is the whole
            means[1] = sums["load_balancing_loss"]["values"].sum() / routers  # type: ignore[index]
        if size > 2 and "z_loss" in sums:  # and of this, each rank's mean over the tokens that it routes
            means[2] = sums["z_loss"]["values"].sum() / (routers * parallel.tensor * parallel.context)  # type: ignore[index]
        if sums:
            clear_aux_losses_tracker()
        dist.all_reduce(means)
        loss, aux_loss, *z_loss = means.tolist()
        return loss, aux_loss, z_loss[0] if z_loss else None

    def _dropped_pairs(self, routed: list[tuple[int, Tensor]]) -> int | None:
        """(token, expert) pairs, of all layers and ranks, that found their expert full."""
        if not self.recipe.training.expert_capacity_factor:
            return None
        each = self.recipe.model.experts_per_token
        own = sum(tokens * each - int(counts_E.sum()) for tokens, counts_E in routed)
        dropped = torch.tensor(own, device=torch.cuda.current_device())
        dist.all_reduce(dropped)
        return int(dropped)


def forward_step(
    batches: Iterator[Batch], model: torch.nn.Module, context: int = 1
) -> tuple[Tensor, Callable[..., Any]]:
    """One micro-batch forward, in the form megatron's schedules want; `context` ranks share each of its sequences."""
    batch = next(batches)
    output = model(batch["tokens"], batch["position_ids"], batch.get("key_bias"), labels=batch["labels"])
    return output, functools.partial(_mean_loss, weights=batch.get("loss_weights"), context=context)


def _mean_loss(losses: Tensor, weights: Tensor | None = None, context: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """This rank's share of the mean over all tokens [B, S]; pads count, as in xAI's maths.

    The shares of the ranks that split a sequence add up to the mean. megatron's schedule raises each `context` times
    for the backward, whose gradients it averages over these ranks as over replicas.
    """
    loss = losses.float().mean() if weights is None else (losses.float() * weights).sum()
    if weights is None and context > 1:
        loss = loss / context
    return loss, {"loss": loss.detach().clone()}
