"""Patches of megatron's own modules: for its dependencies' newer versions, and for a CPU.

Each says what, why and for which version; tests/grok1/device/test_seam.py fails when one is no longer needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import queue
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch

from grok1.device.kind import device_kind


def patch_megatron() -> None:
    """Patches that need megatron imported: for its dependencies' newer versions, and for a CPU."""
    _patch_checkpointing()
    if device_kind() == "cpu":
        _patch_megatron_for_cpu()


def _patch_megatron_for_cpu() -> None:
    rng: Any = importlib.import_module("megatron.core.tensor_parallel.random")
    # the tracker keeps the CUDA generator's state; a CPU's generator is torch's own (0.12)
    rng._get_cuda_rng_state = lambda *_a, **_k: torch.get_rng_state()
    rng._set_cuda_rng_state = lambda state, *_a, **_k: torch.set_rng_state(state)
    distrib: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    # raises without Transformer Engine even when there is no fp8 parameter to quantize (0.12)
    quantize = distrib.quantize_param_shard
    distrib.quantize_param_shard = lambda params, *a: quantize(params, *a) if params else None
    dispatcher: Any = importlib.import_module("megatron.core.transformer.moe.token_dispatcher")
    # makes numpy arrays of split sizes, as its callers expect, but only of cuda tensors (0.12)
    dispatcher.maybe_move_tensor_to_cpu = _as_host_splits


def _as_host_splits(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _patch_checkpointing() -> None:
    # numpy 2 dropped np.product, which dist_checkpointing 0.12 calls
    if not hasattr(numpy, "product"):
        numpy.product = numpy.prod  # type: ignore[attr-defined]
    _save_in_this_process()
    _bind_serialization_format()
    _restore_only_tensors_of_the_checkpoint()


def _save_in_this_process() -> None:
    """A synchronous save forks a writer and gets its results through a spawned manager process, once a rank, which
    re-imports the main module and outlives a killed rank. Run the writer's steps here instead (0.12).
    """
    base: Any = importlib.import_module("megatron.core.dist_checkpointing.strategies.base")
    writer: Any = importlib.import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")
    writer._get_write_results_queue = functools.cache(queue.Queue)

    def save(self: Any, state: Any, folder: Any) -> None:
        self.async_save(state, folder).execute_sync()

    base.AsyncSaveShardedStrategy.save = save


def _bind_serialization_format() -> None:
    """torch 2.9 and later hand `_write_item` a serialization format that megatron 0.12 does not know of."""
    writer: Any = importlib.import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")
    filesystem: Any = importlib.import_module("torch.distributed.checkpoint.filesystem")
    if not hasattr(filesystem, "SerializationFormat"):
        return
    original, torch_save = writer._write_item, filesystem.SerializationFormat.TORCH_SAVE
    writer._write_item = lambda *args: original(*args, torch_save)


def _restore_only_tensors_of_the_checkpoint() -> None:
    """Torch's Adam keeps a `step` in each state, which the checkpoint holds once: do not look for it there (0.12)."""
    distrib: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    original = distrib.DistributedOptimizer._set_main_param_and_optimizer_states

    def restore(self: Any, model_param: Any, tensors: dict[str, torch.Tensor]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        missing = {key: state[key] for key in ("step",) if key in state and key not in tensors}
        original(self, model_param, {**tensors, **missing})

    distrib.DistributedOptimizer._set_main_param_and_optimizer_states = restore


def quiet_imports() -> contextlib.AbstractContextManager[None]:
    """Hush megatron's import-time warnings about packages that are optional (apex, Transformer Engine)."""

    @contextlib.contextmanager
    def hush() -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        for name in ("megatron", "torch.distributed"):
            logging.getLogger(name).setLevel(logging.ERROR)

    return hush()


@contextlib.contextmanager
def compile_when_called() -> Iterator[None]:
    """Import megatron without torch's compiler, which is a third of what a CPU rank would import.

    megatron decorates with torch.compile (0.12), which loads the compiler (2.13) for functions that no recipe calls on
    a CPU. What was decorated meanwhile loads it at its first call.
    """
    original = torch.compile
    if device_kind() == "cpu":
        torch.compile = functools.partial(_compiled_when_called, original)
    try:
        yield
    finally:
        torch.compile = original


def _compiled_when_called(compiler: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.cache
    def compiled() -> Callable[..., Any]:
        made: Callable[..., Any] = compiler(function)
        return made

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
