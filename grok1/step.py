"""One training step, with its parts timed: train.py loops it, bench/ times it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grok1 import device
from grok1.config import Recipe
from grok1.data import Batch, BatchSource
from grok1.engine import (
    clear_aux_losses_tracker,
    finalize_model_grads,
    get_forward_backward_func,
    get_model_config,
)
from grok1.experts import ExpertLoad
from grok1.parallel import Ranks, aux_loss_sums, group_names

# the parts that make up a step, none inside another
PHASES = ("data", "forward", "backward", "pipeline", "gradients", "optimizer", "report")

# megatron's own timer names; all the others it starts lie inside a part that is timed as a whole
_PHASE_OF_TIMER = {
    "forward-compute": "forward",
    "backward-compute": "backward",
    **dict.fromkeys(
        (
            "forward-recv",
            "forward-send",
            "backward-recv",
            "backward-send",
            "forward-send-backward-recv",
            "backward-send-forward-recv",
            "forward-send-forward-recv",
            "backward-send-backward-recv",
        ),
        "pipeline",
    ),
}


class PhaseTimers:
    """Stands for megatron's Timers: sorts its timers into our phases, without synchronising the device."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[Any, Any]]] = {phase: [] for phase in PHASES}
        self._drained: dict[str, list[tuple[Any, Any]]] = {}
        self._ignored = _Span(None)
        self._by_timer = {timer: _Span(self._spans[phase]) for timer, phase in _PHASE_OF_TIMER.items()}

    def __call__(self, name: str, log_level: int | None = None) -> _Span:
        return self._by_timer.get(name, self._ignored)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of ours."""
        start = device.stamp()
        yield
        self._spans[name].append((start, device.stamp()))

    def drain(self) -> dict[str, float]:
        """Seconds by phase since the last drain; off the CPU, call after the device was synchronised."""
        seconds = {}
        self._drained = {phase: spans[:] for phase, spans in self._spans.items()}
        for phase, spans in self._spans.items():
            seconds[phase] = sum(device.seconds_between(start, end) for start, end in spans)
            spans.clear()
        return seconds

    def timeline(self, origin: Any) -> list[tuple[float, float, str]]:
        """(start, end, phase) of all that was last drained, in the order of time, in seconds since a stamp."""
        return sorted(
            (device.seconds_between(origin, start), device.seconds_between(origin, end), phase)
            for phase, spans in self._drained.items()
            for start, end in spans
        )


class _Span:
    def __init__(self, spans: list[tuple[Any, Any]] | None) -> None:
        self._spans, self._start = spans, None

    def start(self, barrier: bool = False) -> None:
        if self._spans is not None:
            self._start = device.stamp()

    def stop(self, barrier: bool = False) -> None:
        if self._spans is not None:
            self._spans.append((self._start, device.stamp()))


@dataclass(frozen=True)
class StepResult:
    """What one step gave; the same on every rank, but for this rank's own times and traffic.

    Collectives are by "group operation", as in "tensor all_gather_into_tensor".
    """

    step: int
    loss: float
    aux_loss: float
    grad_norm: float
    learning_rate: float
    skipped: bool
    seconds: float
    phase_seconds: dict[str, float]
    collectives: dict[str, device.Communication]

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Stepper:
    """Runs training steps: 1F1B over the micro-batches, gradient reduction, clipping, AdamW."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        model: torch.nn.Module,
        optimizer: Any,
        scheduler: Any,
        batches: BatchSource,
        timers: PhaseTimers | None = None,
    ) -> None:
        self.recipe, self.ranks, self.model = recipe, ranks, model
        self.optimizer, self.scheduler, self._batches = optimizer, scheduler, batches
        self.expert_load = ExpertLoad(model)
        self.timers = timers or PhaseTimers()
        config = get_model_config(model)
        config.timers = self.timers
        config.grad_scale_func = optimizer.scale_loss
        config.finalize_model_grads_func = self._finalize_gradients
        if recipe.kernels.gradient_reduction == "overlapped":
            config.no_sync_func = model.no_sync  # until the last micro-batch
        self._forward_backward = get_forward_backward_func()
        self._group_names = group_names()
        self._started: Any = None  # when the latest step did

    def run(self, step: int) -> StepResult:
        """Step number `step`, counted from 0, forward to updated weights."""
        self._started = start = device.stamp()
        with self.timers.phase("data"):
            batches = self._batches.step(step)
        losses = self.accumulate(batches)
        with self.timers.phase("optimizer"):
            updated, grad_norm, _ = self.optimizer.step()
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            self.scheduler.step(increment=1)
        with self.timers.phase("report"):
            loss, aux_loss = self.reduce_losses(losses)
            self.expert_load.settle()
        end = device.stamp()
        device.synchronize()
        return StepResult(
            step=step,
            loss=loss,
            aux_loss=aux_loss,
            grad_norm=float(grad_norm),
            learning_rate=learning_rate,
            skipped=not updated,
            seconds=device.seconds_between(start, end),
            phase_seconds=self.timers.drain(),
            collectives=device.TRAFFIC.drain(self._group_names),
        )

    def timeline(self) -> list[tuple[float, float, str]]:
        """(start, end, phase) of each stretch of the latest step, in the order of time, in seconds since it began."""
        return self.timers.timeline(self._started)

    def accumulate(self, batches: list[Batch]) -> list[Tensor]:
        """Forward and backward of the micro-batches, gradients reduced; the last stage's losses."""
        with self.timers.phase("optimizer"):
            self.model.zero_grad_buffer()  # type: ignore[operator]
            self.optimizer.zero_grad()
        losses = self._forward_backward(
            forward_step_func=forward_step,
            data_iterator=iter(batches),
            model=[self.model],
            num_microbatches=len(batches),
            seq_length=batches[0]["tokens"].shape[1],
            micro_batch_size=self.recipe.training.micro_batch,
            forward_only=False,
        )
        return [entry["loss"] for entry in losses]

    def _finalize_gradients(self, model: list[torch.nn.Module], num_tokens: Tensor | None = None) -> None:
        with self.timers.phase("gradients"):
            finalize_model_grads(model, num_tokens)

    def reduce_losses(self, losses: list[Tensor]) -> tuple[float, float]:
        """(loss, aux loss), both means over the global batch; one small all-reduce over all ranks."""
        parallel, model = self.recipe.parallel, self.recipe.model
        both = torch.zeros(2, dtype=torch.float32, device=torch.cuda.current_device())
        if self.ranks.reports_loss:
            both[0] = torch.stack(losses).mean() / parallel.data
        sums = aux_loss_sums().get("load_balancing_loss")
        if sums is not None:  # megatron keeps each tensor rank's share; their sum is the layer's loss
            share = sums["values"].sum()  # type: ignore[index]
            both[1] = share / (self.recipe.num_micro_batches * parallel.data * model.num_layers)
            clear_aux_losses_tracker()
        dist.all_reduce(both)
        loss, aux_loss = both.tolist()
        return loss, aux_loss


def forward_step(batches: Iterator[Batch], model: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
    """One micro-batch forward, in the form megatron's schedules want."""
    batch = next(batches)
    output = model(batch["tokens"], batch["position_ids"], batch.get("key_bias"), labels=batch["labels"])
    return output, functools.partial(_mean_loss, mask=batch.get("loss_mask"))


def _mean_loss(losses: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over all tokens [B, S], or those that `mask` (0 or 1) leaves; pads count, as in xAI's maths."""
    loss = losses.float().mean() if mask is None else (losses.float() * mask).sum() / mask.sum()
    return loss, {"loss": loss.detach().clone()}
