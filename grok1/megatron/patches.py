"""Patches of megatron-core's own modules. Nobody else patches one; tests/test_house.py holds that.

Each says what it changes, why, and for which lines; each line's module (line_0_12.py, ...) lists those that it needs.
tests/grok1/device/test_seam.py fails when one is no longer needed. Those that are `cpu_only` do nothing elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
import queue
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

import numpy
import torch
from torch import Tensor

from grok1.device.kind import cpu_only
from grok1.megatron.capacity import first_tokens

P = ParamSpec("P")
R = TypeVar("R")


# ---- on all devices ------------------------------------------------------------------------------------


def restore_numpy_product() -> None:
    """numpy.product: dist_checkpointing calls it (megatron-core 0.12), numpy 2 has dropped it."""
    if not hasattr(numpy, "product"):
        numpy.product = numpy.prod  # type: ignore[attr-defined]


class _SaveStrategy(Protocol):
    def async_save(self, state: object, folder: object) -> _AsyncRequest:
        """Prepare a save."""
        ...


class _AsyncRequest(Protocol):
    def execute_sync(self) -> None:
        """Write, here and now."""
        ...


def keep_results_in_this_process() -> None:
    """filesystem_async's queue of a writer's results: the standard library's (megatron-core 0.12, 0.16, 0.19).

    megatron spawns a manager process for it, once a rank, which re-imports the main module and outlives a killed rank.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    names = ("_get_write_results_queue", "get_write_results_queue")  # the latter on 0.19
    (name,) = (each for each in names if hasattr(filesystem_async, each))
    setattr(filesystem_async, name, functools.cache(queue.Queue))


def say_why_a_piece_was_not_written() -> None:
    """FileSystemWriterAsync.write_preloaded_data: raise what it met (megatron-core 0.19).

    megatron returns it, and whoever gets it says its class alone: "RuntimeError" where a disk is full.
    """
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    original = FileSystemWriterAsync.write_preloaded_data

    def write(*args: object, **options: object) -> tuple[int, object] | None:
        output: tuple[int, object] | None = original(*args, **options)
        if options["results_queue"] is None and output is not None and isinstance(output[1], Exception):
            raise output[1]
        return output

    FileSystemWriterAsync.write_preloaded_data = staticmethod(write)


def save_in_this_process() -> None:
    """AsyncSaveShardedStrategy.save: run the writer's steps here; megatron forks for them (megatron-core 0.12)."""
    from megatron.core.dist_checkpointing.strategies import base

    def save(self: _SaveStrategy, state: object, folder: object) -> None:
        self.async_save(state, folder).execute_sync()

    base.AsyncSaveShardedStrategy.save = save


def bind_serialization_format() -> None:
    """filesystem_async._write_item: torch 2.9 and later hand it a format that megatron-core 0.12 does not know of."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from torch.distributed.checkpoint import filesystem

    formats = getattr(filesystem, "SerializationFormat", None)
    if formats is not None:
        original, torch_save = filesystem_async._write_item, formats.TORCH_SAVE
        filesystem_async._write_item = lambda *args: original(*args, torch_save)


class _DistributedOptimizer(Protocol):
    optimizer: torch.optim.Optimizer
    model_param_group_index_map: dict[Tensor, tuple[int, int]]


def restore_only_tensors_of_the_checkpoint() -> None:
    """DistributedOptimizer's loading of one parameter's state: do not look for `step` there (0.12, 0.16, 0.19).

    torch's Adam keeps a `step` in each state; the checkpoint holds it once, elsewhere. 0.12 finds none among what it
    read, and 0.16 and 0.19 that of the state that is to be overwritten, 0. Nor do they turn gradients off in order
    to write into the fp32 weights.
    """
    from megatron.core.optimizer import distrib_optimizer

    original = distrib_optimizer.DistributedOptimizer._set_main_param_and_optimizer_states

    def restore(self: _DistributedOptimizer, model_param: Tensor, tensors: dict[str, Tensor]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        own = {key: state[key] for key in ("step",) if key in state}
        with torch.no_grad():
            original(self, model_param, {**tensors, **own})

    distrib_optimizer.DistributedOptimizer._set_main_param_and_optimizer_states = restore


def keep_what_is_added_to_metadata() -> None:
    """torch 2.11 writes a copy of a checkpoint's metadata, without what megatron adds to it (0.12).

    It adds the shapes that an optimizer's state had before it was cut, and no state loads without them.
    """
    from torch.distributed.checkpoint import filesystem

    if "dataclasses.replace(metadata" not in inspect.getsource(filesystem):  # as in torch 2.7 and 2.13
        return

    def replace(record: Any, **changes: Any) -> Any:
        copy = dataclasses.replace(record, **changes)
        vars(copy).update({name: value for name, value in vars(record).items() if name not in vars(copy)})
        return copy

    ours = types.SimpleNamespace(**{**vars(dataclasses), "replace": replace})
    filesystem.dataclasses = ours  # type: ignore[attr-defined,assignment]  # in the place of a module that it imports


def run_nothing_that_a_checkpoint_holds() -> None:
    """dist_checkpointing unpickles whatever common.pt, .metadata and the pieces name (megatron-core 0.12, 0.16).

    Here its readers take tensors and plain data only (see grok1.megatron.plain_data).
    """
    from megatron.core.dist_checkpointing.strategies import common
    from megatron.core.dist_checkpointing.strategies import torch as torch_dist

    from grok1.megatron import plain_data

    _read_pieces_as_plain_data()
    torch_dist.CachedMetadataFileSystemReader = plain_data.PlainReader
    common.TorchCommonLoadStrategy.load_common = lambda _strategy, folder: plain_data.read_common(Path(folder))
    common.TorchCommonLoadStrategy.load_sharded_objects = _refuse_objects_in_files


def run_nothing_that_a_piece_holds() -> None:
    """dist_checkpointing unpickles whatever .metadata and the pieces name; one has what was common.pt's (0.19).

    Here its readers take tensors and plain data only (see grok1.megatron.plain_data).
    """
    from megatron.core.dist_checkpointing import serialization

    from grok1.megatron import plain_data

    _read_pieces_as_plain_data()
    serialization.load_common_state_dict = lambda folder: plain_data.read_common(Path(folder))


def _read_pieces_as_plain_data() -> None:
    from megatron.core.dist_checkpointing.strategies import torch as torch_dist

    from grok1.megatron import plain_data

    torch_dist.FileSystemReader = plain_data.PlainReader
    torch_dist.MCoreLoadPlanner.load_bytes = plain_data.load_bytes


def _refuse_objects_in_files(_strategy: object, _state: object, folder: object) -> NoReturn:
    """Of the formats before torch_dist, which are not read here."""
    raise ValueError(f"checkpoint {folder} is of another format than torch_dist; convert it with megatron")


def quantize_nothing() -> None:
    """quantize_param_shard raises without Transformer Engine, fp8 parameters or not (megatron-core 0.12)."""
    from megatron.core.optimizer import distrib_optimizer

    quantize = distrib_optimizer.quantize_param_shard
    distrib_optimizer.quantize_param_shard = lambda params, *args: quantize(params, *args) if params else None


def name_the_gemm_that_is_missing() -> None:
    """moe_utils.te_general_gemm: the router asks whether it is None, but it has no name without Transformer Engine.

    megatron-core 0.16.
    """
    from megatron.core.transformer.moe import moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def drop_the_last_tokens() -> None:
    """topk_softmax_with_capacity with the policy `position`: keep each expert's first tokens (megatron-core 0.12).

    It says that it drops those at the end, but takes a top-k of ones and zeros, which keeps any of equal ones: on a
    CPU the last ones of 8, and some of the middle of 64.
    """
    from megatron.core.transformer.moe import moe_utils, router

    original = router.topk_softmax_with_capacity

    def topk(logits: Tensor, topk: int, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        if options.get("capacity_factor") is None or options.get("drop_policy") != "position":
            all_pairs: tuple[Tensor, Tensor, Tensor] = original(logits, topk, **options)
            return all_pairs
        probs, routed, counts = original(logits, topk, **{**options, "capacity_factor": None})
        capacity = moe_utils.get_capacity(logits.shape[0] * topk, logits.shape[1], options["capacity_factor"])
        kept = first_tokens(routed, capacity, bool(options.get("pad_to_capacity")))
        return probs * kept, kept, counts

    router.topk_softmax_with_capacity = topk


def drop_the_last_tokens_of_a_map() -> None:
    """apply_router_token_dropping with the policy `position`: keep each expert's first tokens (0.16, 0.19).

    See `drop_the_last_tokens`, which is of line 0.12.
    """
    from megatron.core.transformer.moe import moe_utils, router

    original = router.apply_router_token_dropping

    def apply(
        routing_probs: Tensor,
        routing_map: Tensor,
        router_topk: int,
        capacity_factor: float,
        drop_policy: str = "probs",
        pad_to_capacity: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if drop_policy != "position":
            likeliest: tuple[Tensor, Tensor] = original(
                routing_probs, routing_map, router_topk, capacity_factor, drop_policy, pad_to_capacity
            )
            return likeliest
        tokens, experts = routing_probs.shape
        capacity = moe_utils.get_capacity(tokens * router_topk, experts, capacity_factor)
        kept = first_tokens(routing_map, capacity, pad_to_capacity)
        return routing_probs * kept, kept

    router.apply_router_token_dropping = apply


def ask_for_no_rank_outside_a_job() -> None:
    """_rank_utils.safe_get_rank: do not warn where there is no job, as while samples are indexed (0.19)."""
    from megatron.core import _rank_utils

    original: Callable[[], int] = _rank_utils.safe_get_rank

    def rank() -> int:
        if torch.distributed.is_initialized():
            return original()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return original()

    _rank_utils.safe_get_rank = rank


def forget_the_job_that_is_left() -> None:
    """parallel_state.destroy_model_parallel: forget what it leaves of a job (0.12, 0.16, 0.19).

    That is which ranks had the embedding: a process that joins another job would else take itself for one of them, and
    ask for a group that it is not in. And the scale of the auxiliary losses, a tensor that the first step makes.
    """
    from megatron.core import parallel_state
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    def forget() -> None:
        parallel_state._EMBEDDING_GLOBAL_RANKS = parallel_state._POSITION_EMBEDDING_GLOBAL_RANKS = None
        MoEAuxLossAutoScaler.main_loss_backward_scale = None

    _on_leaving_a_job(forget)


def forget_the_routers_sums(forget: Callable[[], None]) -> None:
    """parallel_state.destroy_model_parallel: `forget` the routers' sums, as 0.12 does (0.16, 0.19).

    They have a place for each layer: a model of more layers in the same process would have none for its last.
    """
    _on_leaving_a_job(forget)


def _on_leaving_a_job(forget: Callable[[], None]) -> None:
    from megatron.core import parallel_state

    original: Callable[[], None] = parallel_state.destroy_model_parallel

    def destroy() -> None:
        original()
        forget()

    parallel_state.destroy_model_parallel = destroy


def recompute_outputs_without_fp8() -> None:
    """CheckpointWithoutOutput: take its default, fp8=False, for no fp8 (0.16, 0.19).

    It asks whether that is None, takes it for fp8, and asks Transformer Engine, whether that is installed or not.
    """
    from megatron.core.tensor_parallel.random import CheckpointWithoutOutput

    original: Callable[..., None] = CheckpointWithoutOutput.__init__

    def init(self: Any, fp8: Any = None) -> None:
        original(self, fp8 or None)

    CheckpointWithoutOutput.__init__ = init


# ---- on a CPU only -------------------------------------------------------------------------------------


@cpu_only
def keep_torchs_generator() -> None:
    """The tracker of random states keeps the CUDA generator's; a CPU's is torch's own (0.12, 0.16, 0.19)."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_a, **_k: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_a, **_k: torch.set_rng_state(state)


@cpu_only
def move_splits_from_a_cpu() -> None:
    """maybe_move_tensor_to_cpu makes numpy arrays of split sizes, only of cuda tensors (0.12, 0.16, 0.19)."""
    from megatron.core.transformer.moe import token_dispatcher

    token_dispatcher.maybe_move_tensor_to_cpu = _as_host_splits


def _as_host_splits(tensor: object, as_numpy: bool = False, record_stream: bool = False) -> object:
    return tensor.numpy() if as_numpy and isinstance(tensor, Tensor) else tensor


@cpu_only
def leave_the_routers_bias_uncompiled() -> None:
    """TopKRouter._apply_expert_bias: every router calls it, and it does nothing without a bias (0.16, 0.19).

    Compiled, it loads torch's compiler in each rank and compiles for seconds.
    """
    from megatron.core.transformer.moe.router import TopKRouter

    TopKRouter._apply_expert_bias = TopKRouter._apply_expert_bias.__wrapped__


# ---- while megatron is imported ------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Hush megatron's warnings about optional packages (apex, Transformer Engine) while it is imported. All devices.

    Its loggers, and torch.distributed's, say errors only from then on. megatron-core 0.12, 0.16, 0.19. The latter has
    torch look for CUDA's compiler, which warns where there is one and no GPU.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for name in ("megatron", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def compile_when_called() -> Iterator[None]:
    """Import megatron without torch's compiler, which is a third of what a CPU rank would import. CPU only.

    megatron decorates with torch.compile (0.12, 0.16, 0.19), which loads the compiler (2.13) for functions that no
    recipe calls on a CPU. What was decorated meanwhile loads it at its first call.
    """
    original = torch.compile
    _compile_later()
    try:
        yield
    finally:
        torch.compile = original


@cpu_only
def _compile_later() -> None:
    torch.compile = functools.partial(_compiled_when_called, torch.compile)


def _compiled_when_called(
    compiler: Callable[[Callable[P, R]], Callable[P, R]], function: Callable[P, R]
) -> Callable[P, R]:
    @functools.cache
    def compiled() -> Callable[P, R]:
        return compiler(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return compiled()(*args, **kwargs)

    return call
