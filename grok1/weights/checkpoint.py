"""Checkpoints through megatron's dist_checkpointing: one folder for each step, complete or absent.

Training resumes in the same layout; weights alone load in any. All nodes must see the folder, which
grok1.weights.folder describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch.nn import Module

from grok1.config.recipe import Recipe
from grok1.distributed.groups import Ranks
from grok1.megatron.door import dist_checkpointing
from grok1.megatron.instances import chained
from grok1.megatron.protocols import MegatronOptimizer, Scheduler, StateDict
from grok1.weights.folder import StoredCheckpoint, finish_step, partial_folder, start_step


class ShardedModel(Protocol):
    """A megatron model, which knows how its weights are sharded."""

    def sharded_state_dict(self) -> StateDict:
        """Its weights, as dist_checkpointing takes them."""
        ...

    def load_state_dict(self, state_dict: StateDict, strict: bool) -> object:
        """Restore weights that dist_checkpointing read."""
        ...


def save(
    folder: Path,
    step: int,
    recipe: Recipe,
    ranks: Ranks,
    model: Module,
    optimizer: MegatronOptimizer,
    scheduler: Scheduler,
) -> None:
    """Write the state after `step` steps. The folder appears under its name only when it is whole."""
    if ranks.rank == 0:
        start_step(folder, step)
    dist.barrier()
    state = _state(model, optimizer, scheduler, step, is_loading=False)
    dist_checkpointing.save(state, str(partial_folder(folder, step)))
    dist.barrier()
    if ranks.rank == 0:
        finish_step(folder, step, recipe)
    dist.barrier()


def load(folder: Path, recipe: Recipe, model: Module, optimizer: MegatronOptimizer, scheduler: Scheduler) -> int:
    """Restore the newest state, or the weights where there is nothing else; returns the steps trained so far.

    Raises:
        ValueError: there is no checkpoint, or it is of another model or layout.
    """
    stored = StoredCheckpoint.open(folder)
    stored.check_resumable(recipe)
    if stored.has_weights_only:
        load_weights(stored, cast(Module, model.module))
        optimizer.reload_model_params()
        return stored.step
    _allocate_adam_state(optimizer)
    template = _state(model, optimizer, scheduler, stored.step, is_loading=True)
    state = dist_checkpointing.load(template, str(stored.step_folder))
    _inside(model).load_state_dict(state["model"], strict=True)
    with _own_group_settings(optimizer):
        optimizer.load_state_dict(state["optimizer"])
    _unshare_step_counts(optimizer)
    scheduler.load_state_dict(state["scheduler"])
    return int(state["step"])


def load_weights(stored: StoredCheckpoint, model: Module) -> None:
    """Restore weights alone into a bare model of any layout, whose recipe passed `StoredCheckpoint.check_model`."""
    # megatron's layers keep an extra state, which is None here and absent from imported checkpoints
    sharded = cast(ShardedModel, model)
    wanted = {name: each for name, each in sharded.sharded_state_dict().items() if not name.endswith("_extra_state")}
    state = dist_checkpointing.load({"model": wanted}, str(stored.step_folder))
    sharded.load_state_dict(state["model"], strict=True)


def _inside(model: Module) -> ShardedModel:
    """The model within its data-parallel wrapper."""
    return cast(ShardedModel, model.module)


def _allocate_adam_state(optimizer: MegatronOptimizer) -> None:
    """Give each parameter an Adam state to be overwritten: megatron reads its step count before it loads."""
    for parameter, state in _adam_states(optimizer):
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


@contextmanager
def _own_group_settings(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Keep each parameter group's multipliers of learning rate and decay.

    The checkpoint holds rank 0's groups, and pipeline stages order theirs differently. The scheduler sets learning
    rates and decay from the multipliers afterwards.
    """
    settings = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _unshare_step_counts(optimizer: MegatronOptimizer) -> None:
    """megatron restores one step tensor for all parameters; torch's Adam would then increment it once for each."""
    for _, state in _adam_states(optimizer):
        state["step"] = state["step"].clone()


def _adam_states(optimizer: MegatronOptimizer) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Each local parameter with its state, in the dense optimizer and the experts'."""
    for part in chained(optimizer):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                yield parameter, part.optimizer.state[parameter]


def _state(model: Module, optimizer: MegatronOptimizer, scheduler: Scheduler, step: int, is_loading: bool) -> StateDict:
    weights = _inside(model).sharded_state_dict()
    return {
        "model": weights,
        "optimizer": optimizer.sharded_state_dict(weights, is_loading=is_loading),
        "scheduler": scheduler.state_dict(),
        "step": step,
    }
