"""The seam: makes `torch.cuda` mean this device before megatron is imported.

megatron-core is written for CUDA. This file is the only one that patches other people's modules.
`activate()` runs once a process, before any import of megatron: on cuda it checks, on npu it lets
torch_npu and MindSpeed do their patching in the order they need, on cpu it applies `_CPU_PATCHES`.
Each patch says what, why and for which version; tests/grok1/test_device.py fails when one is no longer needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import queue
import resource
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy
import torch
import torch.distributed as dist

from grok1 import gloo
from grok1.accelerator import (
    PEAKS,
    DeviceError,
    check_mindspeed_installed,
    describe_device,
    import_torch_npu,
    installed,
    mindspeed_flags,
    use_cuda,
    use_npu,
)

Kind = Literal["cpu", "cuda", "npu"]
KINDS: tuple[Kind, ...] = ("cpu", "cuda", "npu")
KIND_VARIABLE = "GROK1_DEVICE"  # how a launcher tells its ranks; a rank cannot change its mind later

_BACKENDS: dict[Kind, str] = {"cpu": gloo.BACKEND, "cuda": "nccl", "npu": "hccl"}
_AVX512_CORES = {"SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS"}  # names of OpenBLAS's

# ---- choosing and activating -------------------------------------------------------------------------


def detect() -> Kind:
    """The device this machine has: npu, else cuda, else cpu."""
    if installed("torch_npu"):
        return "npu"
    return "cuda" if torch.cuda.device_count() else "cpu"


def kind() -> Kind:
    """The device of this process: what it was activated for, else what the launcher said, else what there is."""
    if hasattr(torch, "_grok1_device"):
        active: Kind = torch._grok1_device
        return active
    named = os.environ.get(KIND_VARIABLE, "")
    if not named:
        return detect()
    if named not in KINDS:
        raise DeviceError(f"device {named!r} is none of {', '.join(KINDS)}; unset {KIND_VARIABLE} or choose one")
    return named


def activate() -> Kind:
    """Make torch.cuda mean this process's device. Must run before megatron is imported; later calls do nothing."""
    chosen = kind()
    if getattr(torch, "_grok1_device", None) == chosen:
        return chosen
    if "megatron.core" in sys.modules:
        raise DeviceError("megatron was imported before grok1.device; import grok1.engine first")
    if chosen == "npu":
        use_npu(mindspeed_flags())
    elif chosen == "cuda":
        use_cuda()
    else:
        _use_cpu()
    _count_traffic()
    torch._grok1_device = chosen  # type: ignore[attr-defined]  # a mark on torch itself: patches are process-wide
    return chosen


def patch_megatron() -> None:
    """Patches that need megatron imported: for its dependencies' newer versions, and for a CPU."""
    _patch_checkpointing()
    if kind() == "cpu":
        _patch_megatron_for_cpu()


def backend() -> str:
    """The torch.distributed backend of this device."""
    if kind() == "cpu":
        gloo.register()
    return _BACKENDS[kind()]


def check_available(device: Kind, local_ranks: int) -> None:
    """Refuse a device that is absent or too small for this many ranks, before any process starts."""
    if device == "npu":
        import_torch_npu(local_ranks)
        check_mindspeed_installed()
    elif device == "cuda":
        use_cuda(local_ranks)


def memory_bytes(device: Kind) -> int:
    """Memory of the first processor of that kind on this machine."""
    module: Any = torch.cuda if device == "cuda" else importlib.import_module("torch_npu").npu
    return int(module.get_device_properties(0).total_memory)


def bind(local_rank: int) -> None:
    """Give this process its processor."""
    torch.cuda.set_device(local_rank)


# ---- measuring ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """What the hardware says of itself."""

    kind: Kind
    name: str
    memory_bytes: int | None
    peak_flops_per_second: float | None
    peak_source: str | None


def describe() -> Description:
    """Name, memory and bf16 peak of this process's processor."""
    chosen = kind()
    if chosen == "cpu":
        return Description("cpu", _cpu_name(), None, None, None)
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(torch.cuda.current_device())
    peak, source = PEAKS.get(name, (None, None))
    return Description(chosen, name, int(memory.total_memory), peak, source)


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "cpu"


@functools.cache
def is_openblas_as_wide() -> bool:
    """Whether scipy's OpenBLAS computes in vectors as wide as torch's: it knows the processor, unless told a lesser."""
    told = os.environ.get("OPENBLAS_CORETYPE", "").upper()
    return not told or told in _AVX512_CORES or torch.backends.cpu.get_cpu_capability() != "AVX512"


def stamp() -> Any:
    """A point in this device's time: seconds on a CPU, an event in the stream elsewhere (no synchronisation)."""
    if kind() == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Seconds from one stamp to another; off the CPU both must have been reached (see `synchronize`)."""
    if isinstance(start, float):
        return float(end - start)
    return float(start.elapsed_time(end)) / 1e3


def synchronize() -> None:
    """Wait for all that was issued to this device."""
    torch.cuda.synchronize()


def profiler() -> tuple[Any, list[Any]]:
    """The module with this device's `profile`, and the activities that it is to record."""
    if kind() == "npu":
        module = importlib.import_module("torch_npu.profiler")
        return module, [module.ProfilerActivity.CPU, module.ProfilerActivity.NPU]
    module = importlib.import_module("torch.profiler")
    here = [] if kind() == "cpu" else [module.ProfilerActivity.CUDA]
    return module, [module.ProfilerActivity.CPU, *here]


def peak_bytes() -> tuple[int, int | None]:
    """(peak allocated, peak reserved) bytes. On a CPU: the process's peak resident size, and None."""
    if kind() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())


class Listener(Protocol):
    """Hears of each communication call; the call is made inside the context that it returns."""

    def __call__(
        self, operation: str, group: Any, num_bytes: int, dtype: torch.dtype | None
    ) -> contextlib.AbstractContextManager[None]:
        """`num_bytes` as Traffic counts them; a group of None is the whole job."""
        ...


Pause = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass
class Communication:
    """What some collectives were together; bytes are of the larger side of each call."""

    seconds: float = 0.0
    calls: int = 0
    bytes: int = 0


class Traffic:
    """Counts the collectives that this process issues, with their bytes and their time.

    Bytes are those of the larger side of each call (the gathered output, the unreduced input).
    """

    def __init__(self) -> None:
        self.enabled = True  # off only to measure what counting costs
        # (bytes, start, end) of each call, by its operation and group; sorted out once a step, in `drain`
        self._calls: dict[tuple[str, Any], list[tuple[int, Any, Any]]] = defaultdict(list)
        self.listener: Listener | None = None  # hears of each call, pipeline sends and receives included

    @property
    def calls(self) -> int:
        """How many since the last drain."""
        return sum(map(len, self._calls.values()))

    def drain(self, group_names: Mapping[Any, str]) -> dict[str, Communication]:
        """What was issued since the last drain, by "group operation"; a group without a name is "other".

        Off the CPU, call after the device was synchronised.
        """
        drained: dict[str, Communication] = {}
        for (operation, group), calls in self._calls.items():
            sums = drained.setdefault(f"{group_names.get(group, 'other')} {operation}", Communication())
            sums.seconds += sum(seconds_between(start, end) for _, start, end in calls)
            sums.calls += len(calls)
            sums.bytes += sum(num_bytes for num_bytes, _, _ in calls)
        self.forget()
        return drained

    def forget(self) -> None:
        """Start again from nothing."""
        self._calls.clear()

    @contextlib.contextmanager
    def heard_by(self, listener: Listener, pause: Pause) -> Iterator[None]:
        """Tell the listener of every call meanwhile; waiting for one to end happens inside `pause()`.

        (Part of a reduction on gloo is tensor operators, some of which run while it is waited for.)
        """
        waits = {each: each.wait for each in (dist.Work, gloo.Exchange)}

        def paused(wait: Callable[..., Any]) -> Callable[..., Any]:
            def call(work: Any, *args: Any, **kwargs: Any) -> Any:
                with pause():
                    return wait(work, *args, **kwargs)

            return call

        self.listener = listener
        for each, wait in waits.items():
            each.wait = paused(wait)  # type: ignore[method-assign]  # a patch, for as long as is listened
        try:
            yield
        finally:
            self.listener = None
            for each, wait in waits.items():
                each.wait = wait  # type: ignore[method-assign]  # as it was

    def add(self, operation: str, group: Any, num_bytes: int, start: Any, end: Any) -> None:
        self._calls[operation, group].append((num_bytes, start, end))


TRAFFIC = Traffic()  # one a process, as torch.distributed itself is

_COUNTED = (
    "all_reduce",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "_all_gather_base",
    "_reduce_scatter_base",
    "all_gather",
    "reduce_scatter",
    "all_to_all_single",
    "broadcast",
)


def _count_traffic() -> None:
    """Wrap torch.distributed's collectives; megatron binds some at import, so this runs before."""
    for name in _COUNTED:
        original = getattr(dist, name, None)
        if original is not None:
            setattr(dist, name, _counted(original))
    dist.batch_isend_irecv = _heard(dist.batch_isend_irecv)


def _counted(original: Callable[..., Any]) -> Callable[..., Any]:
    operation = original.__name__

    def call(*args: Any, **kwargs: Any) -> Any:
        if TRAFFIC.listener is not None:
            with TRAFFIC.listener(*_described(operation, args, kwargs)):
                return original(*args, **kwargs)
        if not TRAFFIC.enabled:
            return original(*args, **kwargs)
        start = stamp()
        result = original(*args, **kwargs)
        end = stamp()
        num_bytes = max(_bytes_of(args[0]), _bytes_of(args[1])) if len(args) > 1 else _bytes_of(args[0]) if args else 0
        for value in kwargs.values():
            num_bytes = max(num_bytes, _bytes_of(value))
        TRAFFIC.add(operation, _group_of(args, kwargs), num_bytes, start, end)
        return result

    call.__name__ = operation
    call.__wrapped__ = original  # type: ignore[attr-defined]
    return call


def _described(operation: str, args: Any, kwargs: Any) -> tuple[str, Any, int, torch.dtype | None]:
    """What a listener hears of a collective."""
    arguments = [*args, *kwargs.values()]
    tensors = [tensor for each in arguments for tensor in _tensors_of(each)]
    num_bytes = max(map(_bytes_of, [*args[:2], *kwargs.values()]), default=0)
    return operation, _group_of(args, kwargs), num_bytes, tensors[0].dtype if tensors else None


def _heard(original: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the listener of each send and receive in a batch of them; its time is the pipeline phase's, not counted."""

    def call(operations: list[Any]) -> Any:
        listener = TRAFFIC.listener
        if listener is None:
            return original(operations)
        with contextlib.ExitStack() as stack:
            for each in operations:
                name = "send" if each.op in (dist.isend, dist.send) else "receive"
                stack.enter_context(listener(name, each.group, _bytes_of(each.tensor), each.tensor.dtype))
            return original(operations)

    call.__name__ = original.__name__
    call.__wrapped__ = original  # type: ignore[attr-defined]
    return call


def _group_of(args: Any, kwargs: Any) -> Any:
    """The group that a collective was called on; None is the whole job."""
    if "group" in kwargs:
        return kwargs["group"]
    return next((each for each in args if isinstance(each, dist.ProcessGroup)), None)


def _tensors_of(argument: Any) -> list[torch.Tensor]:
    items = argument if isinstance(argument, list | tuple) else [argument]
    return [item for item in items if isinstance(item, torch.Tensor)]


def _bytes_of(argument: Any) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    if isinstance(argument, list | tuple):
        return sum(_bytes_of(item) for item in argument if isinstance(item, torch.Tensor))
    return 0


# ---- no data (see grok1.dry) ---------------------------------------------------------------------------


def init_fake_process_group(rank: int, world_size: int) -> None:
    """Join a job whose other ranks do not exist: every collective returns at once."""
    fake: Any = importlib.import_module("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake.FakeStore(), rank=rank, world_size=world_size)


HOST_READS = 2.0  # what the host reads where there is no data


def _without_tensors(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_without_tensors(each) for each in data]
    return HOST_READS if isinstance(data, torch.Tensor) and data.is_floating_point() else data


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """What torch 2.13's fake tensors cannot do and a training step does; put back at the end."""
    tensor, bfloat16 = torch.tensor, torch.nn.Module.bfloat16

    def unread(data: Any, *args: Any, **kwargs: Any) -> Any:
        """torch.tensor of (lists of) tensors reads their values; megatron's gradient norm calls it so (0.12)."""
        return tensor(_without_tensors(data), *args, **kwargs)

    def already_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
        """Module.bfloat16 swaps a fake parameter for its copy, which weak references forbid; ours need no copy."""
        others = {str(each.dtype) for each in module.parameters()} - {"torch.bfloat16"}
        assert not others, f"parameters of {others} would have to be converted"
        return module

    torch.tensor, torch.nn.Module.bfloat16 = unread, already_bfloat16  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.tensor, torch.nn.Module.bfloat16 = tensor, bfloat16  # type: ignore[method-assign]


# ---- cpu ---------------------------------------------------------------------------------------------


class _Stream:
    """Stands for a CUDA stream: a CPU has one, and it is always done."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def wait_stream(self, _other: Any) -> None: ...

    def wait_event(self, _event: Any) -> None: ...

    def synchronize(self) -> None: ...


_CPU = torch.device("cpu")
_THE_STREAM = _Stream()


@contextlib.contextmanager
def _stream_context(_stream: Any) -> Iterator[None]:
    yield


# torch.cuda names that megatron-core 0.12 calls without asking whether there is a GPU
_CPU_CUDA_NAMES: dict[str, Any] = {
    "current_device": lambda: _CPU,
    "synchronize": lambda *_: None,
    "set_device": lambda *_: None,
    "Stream": _Stream,
    "current_stream": lambda *_: _THE_STREAM,
    "default_stream": lambda *_: _THE_STREAM,
    "stream": _stream_context,
    "manual_seed": torch.manual_seed,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda state, *_: torch.set_rng_state(state),
}

# factories that megatron-core 0.12 calls with device="cuda"
_CPU_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "empty_like", "zeros_like")


def _use_cpu() -> None:
    for name, value in _CPU_CUDA_NAMES.items():
        setattr(torch.cuda, name, value)
    for name in _CPU_FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    # Tensor.cuda / Module.cuda: "move to the device", where it already is (schedules, ddp)
    torch.Tensor.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    _name_types_as_cuda()
    _adapt_collectives_to_gloo()


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    call.__name__ = factory.__name__
    call.__wrapped__ = factory  # type: ignore[attr-defined]
    return call


def _name_types_as_cuda() -> None:
    """Tensor.type(): the distributed optimizer of 0.12 sorts parameters by 'torch.cuda.FloatTensor' and the like."""
    original = torch.Tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.", 1) if isinstance(result, str) else result

    torch.Tensor.type = type_name  # type: ignore[method-assign,assignment]


def _adapt_collectives_to_gloo() -> None:
    """gloo refuses uneven all_gather and reduce_scatter lists, which split experts need: pad, call, cut (2.13)."""
    gather, scatter = dist.all_gather, dist.reduce_scatter

    def all_gather(outputs: list[torch.Tensor], tensor: torch.Tensor, **kwargs: Any) -> Any:
        longest = max(output.shape[0] for output in outputs)
        if all(output.shape[0] == longest for output in outputs):
            return gather(outputs, tensor, **kwargs)
        padded = [tensor.new_empty((longest, *tensor.shape[1:])) for _ in outputs]
        work = gather(padded, _padded(tensor, longest), **kwargs)
        for output, whole in zip(outputs, padded, strict=True):
            output.copy_(whole[: output.shape[0]])
        return work

    def reduce_scatter(output: torch.Tensor, inputs: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        longest = max(part.shape[0] for part in inputs)
        if all(part.shape[0] == longest for part in inputs):
            return scatter(output, inputs, *args, **kwargs)
        padded = output.new_empty((longest, *output.shape[1:]))
        work = scatter(padded, [_padded(part, longest) for part in inputs], *args, **kwargs)
        output.copy_(padded[: output.shape[0]])
        return work

    exchange = dist.all_to_all_single

    def all_to_all_single(*args: Any, **kwargs: Any) -> Any:
        # megatron 0.12 hands numpy split sizes on, gloo wants lists of ints
        for key in ("output_split_sizes", "input_split_sizes"):
            if isinstance(kwargs.get(key), numpy.ndarray):
                kwargs[key] = kwargs[key].tolist()
        return exchange(*args, **kwargs)

    for replacement in (all_gather, reduce_scatter, all_to_all_single, *gloo.directly(dist)):
        setattr(dist, replacement.__name__, replacement)


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """`tensor` with zero rows appended up to `length` rows."""
    result = tensor.new_zeros((length, *tensor.shape[1:]))
    result[: tensor.shape[0]] = tensor
    return result


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


# ---- megatron's checkpoints beside newer torch and numpy ----------------------------------------------


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
    if kind() == "cpu":
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


def versions(
    packages: Sequence[str] = ("torch", "megatron-core", "torch-npu", "mindspeed", "numpy"), with_python: bool = True
) -> dict[str, str]:
    """Versions of the software that can move the numbers; packages that are absent are left out."""
    metadata = importlib.import_module("importlib.metadata")
    found = {"python": ".".join(map(str, sys.version_info[:3]))} if with_python else {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package.replace("-", "_")] = metadata.version(package)
    chosen = kind()
    if chosen != "cpu":
        skip = ("kind", "name", "memory_bytes")
        found |= {key: str(value) for key, value in describe_device(chosen).items() if value and key not in skip}
    return found
