"""Checkpoints through megatron's dist_checkpointing: one folder for each step, complete or absent.

Training resumes in the same layout, or in another where that is allowed (see grok1.weights.resharding); weights alone
load in any. All nodes must see the folder, which grok1.weights.folder describes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.nn import Module

from grok1.config.recipe import Recipe
from grok1.distributed.groups import Ranks
from grok1.files import NotDoneError
from grok1.megatron.door import dist_checkpointing, optimizer_state, turn_of_chunk
from grok1.megatron.installed import megatron_line
from grok1.megatron.instances import chained
from grok1.megatron.plain_data import RefusedPickleError, why
from grok1.megatron.protocols import MegatronOptimizer, Scheduler, StateDict
from grok1.weights.chunks import Chunks
from grok1.weights.folder import StoredCheckpoint, abandon_step, finish_step, partial_folder, start_step
from grok1.weights.manifest import FileSum, file_sums
from grok1.weights.resharding import as_written, in_own_parts
from grok1.weights.sharding import gather_weights
from grok1.weights.space import check_space, first_cause, whole_or_told

# what megatron and torch raise where a file is missing, damaged or cannot be written
_FAILURES = (Exception, CheckpointException)  # the latter is a BaseException alone


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
    model: Chunks,
    optimizer: MegatronOptimizer,
    scheduler: Scheduler,
    corpus: str = "",
    tokenizer: str = "",
) -> None:
    """Write the state after `step` steps. The folder appears under its name only when it is whole.

    Raises:
        NotWrittenError: the disk is full, or cannot be written. Older checkpoints are as they were.
    """
    gather_weights(model)
    state = _state(model, optimizer, scheduler, step, is_loading=False)
    what = f"the checkpoint of step {step}"
    told: list[tuple[int, str]] = [(0, "")] * ranks.world_size
    dist.all_gather_object(told, (_own_bytes(state), uuid.uuid4().hex[:8]))
    needed, job = sum(each for each, _ in told), told[0][1]
    with whole_or_told(what, folder, needed, lambda: abandon_step(folder, step, job), _FAILURES):
        _on_first_rank(ranks, lambda: _start(what, folder, step, job, needed))
        partial = partial_folder(folder, step, job)
        dist_checkpointing.save(state, str(partial))
        dist.barrier()
        sums: list[dict[str, FileSum]] = [{}] * ranks.world_size
        dist.all_gather_object(sums, _own_sums(partial, ranks))
        if ranks.rank == 0:
            all_sums = {name: each[name] for each in sums for name in each}
            finish_step(folder, step, recipe, all_sums, corpus, tokenizer, megatron_line(), job)
    dist.barrier()


def load(
    folder: Path,
    recipe: Recipe,
    model: Chunks,
    optimizer: MegatronOptimizer,
    scheduler: Scheduler,
    allowed_changes: Sequence[str] = (),
) -> int:
    """Restore the newest state, or the weights where there is nothing else; returns the steps trained so far.

    Who starts the ranks has compared the files with their checksums (`StoredCheckpoint.verify`).

    Raises:
        ValueError: there is no checkpoint, it is of another model, layout or training, or it does not load.
    """
    stored = StoredCheckpoint.open(folder)
    stored.check_resumable(recipe, allowed=allowed_changes)
    if stored.has_weights_only:
        load_weights(stored, model)
        optimizer.reload_model_params()
        return stored.step
    _allocate_adam_state(optimizer)
    template = _state(model, optimizer, scheduler, stored.step, is_loading=True)
    writer = stored.recipe.parallel
    if writer != recipe.parallel:
        template["optimizer"] = as_written(template["optimizer"], writer)
    state = _read(stored, template)
    with _in_one_line(stored):
        if writer != recipe.parallel:
            state["optimizer"] = in_own_parts(state["optimizer"], optimizer, writer)
        for number, chunk in enumerate(_inside(model)):
            chunk.load_state_dict(state[_chunk_key(number)], strict=True)
        with _own_group_settings(optimizer):
            optimizer.load_state_dict(state["optimizer"])
        _unshare_step_counts(optimizer)
        # the recipe's own schedule, at the step that was reached
        scheduler.load_state_dict({**scheduler.state_dict(), "num_steps": int(state["scheduler"]["num_steps"])})
        if int(state["step"]) != stored.step:
            raise ValueError(f"its files are of step {int(state['step'])}")
    return stored.step


def load_weights(stored: StoredCheckpoint, model: Module) -> None:
    """Restore weights alone into a model of any layout, whose recipe passed `StoredCheckpoint.check_model`.

    Raises:
        ValueError: it does not load.
    """
    # layers keep an extra state, which is empty here and absent from imported checkpoints; Transformer Engine's keep
    # one for each expert, of which their module loads the first
    whole = _weights(model)
    extra = {key: {name for name in each if re.search(r"_extra_state\d*$", name)} for key, each in whole.items()}
    wanted = {key: {name: each[name] for name in each.keys() - extra[key]} for key, each in whole.items()}
    state = _read(stored, wanted)
    with _in_one_line(stored):
        for number, chunk in enumerate(_inside(model)):
            key = _chunk_key(number)
            absent = dict.fromkeys(name for name in extra[key] if name.endswith("_extra_state"))
            chunk.load_state_dict({**state[key], **absent}, strict=True)


def _read(stored: StoredCheckpoint, template: StateDict) -> StateDict:
    with _in_one_line(stored):
        return cast(StateDict, dist_checkpointing.load(template, str(stored.step_folder)))


@contextmanager
def _in_one_line(stored: StoredCheckpoint) -> Iterator[None]:
    """What a checkpoint whose checksums are right can still be: of other tensors than its recipe says, or forged."""
    try:
        yield
    except _FAILURES as error:
        cause = first_cause(error)
        if isinstance(cause, RefusedPickleError):  # which says all, whether or not megatron has wrapped it
            raise ValueError(f"checkpoint {stored.folder}: {cause}") from error
        raise ValueError(
            f"checkpoint {stored.step_folder} does not load: {why(cause)}; it is damaged, or not what its recipe says"
        ) from error


def _start(what: str, folder: Path, step: int, job: str, needed_bytes: int) -> None:
    check_space(what, folder, needed_bytes)
    start_step(folder, step, job)


def _on_first_rank(ranks: Ranks, action: Callable[[], None]) -> None:
    """Do it on rank 0; what it raises there is raised on all."""
    problem: list[BaseException | None] = [None]
    if ranks.rank == 0:
        try:
            action()
        except (OSError, ValueError, NotDoneError) as error:
            problem[0] = error
    dist.broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]


def _own_bytes(state: object) -> int:
    """What this rank will write of it: the tensors of which it has the first copy."""
    if isinstance(state, dict):
        return sum(_own_bytes(each) for each in state.values())
    if isinstance(state, list | tuple):
        return sum(_own_bytes(each) for each in state)
    data = getattr(state, "data", None)
    is_first_copy = dist_checkpointing.mapping.is_main_replica(getattr(state, "replica_id", 1))
    return int(data.nbytes) if isinstance(data, torch.Tensor) and is_first_copy else 0


def _own_sums(partial: Path, ranks: Ranks) -> dict[str, FileSum]:
    """The checksums of the files that this rank wrote, which megatron names by its number."""
    return file_sums(partial, [path.name for path in partial.glob(f"__{ranks.rank}_*.distcp")])


def _inside(model: Module) -> list[ShardedModel]:
    """The chunks within their data-parallel wrappers, or the bare model."""
    return (
        [cast(ShardedModel, each.module) for each in model]
        if isinstance(model, Chunks)
        else [cast(ShardedModel, model)]
    )


def _chunk_key(number: int) -> str:
    """As in megatron's own checkpoints, but for the first of several."""
    return f"model{number or ''}"


def _weights(model: Module) -> dict[str, StateDict]:
    """Each chunk's weights, as dist_checkpointing takes them."""
    weights = {}
    for number, chunk in enumerate(_inside(model)):
        with turn_of_chunk(number):
            weights[_chunk_key(number)] = chunk.sharded_state_dict()
    return weights


def _allocate_adam_state(optimizer: MegatronOptimizer) -> None:
    """Give each parameter an Adam state to be overwritten: megatron reads its step count before it loads.

    The FusedAdam of Transformer Engine and of apex, which megatron takes where one is installed, counts steps by group.
    """
    for _, state in _adam_states(optimizer, but="FusedAdam"):
        state["step"] = torch.zeros((), dtype=torch.float32)
    for parameter, state in _adam_states(optimizer):
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
    for _, state in _adam_states(optimizer, but="FusedAdam"):
        state["step"] = state["step"].clone()


def _adam_states(optimizer: MegatronOptimizer, but: str = "") -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Each local parameter with its state, in the dense optimizer and the experts', but those of a class `but`."""
    for part in chained(optimizer):
        for group in part.optimizer.param_groups if type(part.optimizer).__name__ != but else ():
            for parameter in group["params"]:
                yield parameter, part.optimizer.state[parameter]


def _state(model: Chunks, optimizer: MegatronOptimizer, scheduler: Scheduler, step: int, is_loading: bool) -> StateDict:
    weights = _weights(model)
    return {
        **weights,
        "optimizer": optimizer_state(optimizer, weights, is_loading),
        "scheduler": scheduler.state_dict(),
        "step": step,
    }
