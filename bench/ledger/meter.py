"""Counts what runs: operators, FLOPs, bytes, collectives and live memory, on real or fake tensors alike.

Conventions. Matrix FLOPs: 2 a multiply-add; a causal attention counts half of the full matrix, its fused backward 2.5
times its forward (the scores are computed again); an attention with a cap states what its blocks multiply. Vector
FLOPs: one an element of the larger side. Bytes: each tensor that an operator reads or writes once, views free; a
lookup reads what it takes, not the table. Memory: live tensor storages; what a kernel allocates inside itself is not
seen. An operator that is in no list is unknown.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import group_names
from grok1.training.timers import PhaseTimers

_ATTENTION_MATRICES_FORWARD = 2  # q k^T and p v
_ATTENTION_MATRICES_BACKWARD = 5  # q k^T again, and one for each of dv, dp, dq, dk

# copies, allocations, lookups: bytes, no arithmetic
_MOVES = {
    "_pin_memory", "_to_copy", "alias", "arange", "bernoulli_", "cat", "clone", "constant_pad_nd", "copy_", "detach_",
    "embedding", "empty", "empty_like", "empty_strided", "expand_copy", "fill", "fill_", "full", "full_like", "gather",
    "index", "index_copy_", "index_put", "index_put_", "index_select", "is_pinned", "lift_fresh", "masked_fill",
    "masked_fill_", "masked_scatter", "masked_select", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "normal_", "one_hot", "ones", "ones_like", "permute_copy", "rand", "randint", "repeat",
    "repeat_interleave", "resize_", "roll", "scalar_tensor", "scatter", "scatter_", "select_backward", "set_",
    "slice_backward", "slice_scatter", "stack", "triu", "tril", "tril_", "triu_", "uniform_", "unfold_backward",
    "where", "zero", "zero_", "zeros", "zeros_like",
}  # fmt: skip
# arithmetic that torch does not tag as pointwise
_VECTOR = {
    "_fused_rms_norm", "_fused_rms_norm_backward", "_log_softmax", "_log_softmax_backward_data", "_softmax",
    "_softmax_backward_data", "all", "amax", "amin", "any", "argmax", "argsort", "bincount", "count_nonzero", "cumsum",
    "embedding_dense_backward", "gelu_backward", "index_add", "index_add_", "index_reduce", "linalg_vector_norm",
    "logsumexp", "max", "mean", "min", "nonzero", "norm", "prod", "scatter_add", "scatter_add_", "sort", "sum", "topk",
    "var", "var_mean",
}  # fmt: skip
# questions of the host, and the two that make a scalar or a number of a tensor
_FREE = {"_local_scalar_dense", "device", "is_same_size", "sym_size", "sym_numel", "sym_stride", "equal"}
_NAMESPACES = {"aten", "prims", "grok1"}  # grok1: products of grok1.kernels.gemm, whichever library computes them
_LOOKUPS = {"embedding", "gather", "index", "index_select", "masked_select"}
# lists of tensors updated in place, nothing returned: which arguments are written; one FLOP an element of the first
_LIST_UPDATES = {"_fused_adamw_": (0, 2, 3, 4), "_foreach_add_": (0,)}
_GRADIENTS = 1  # which argument of _fused_adamw_ they are


@dataclass
class Cost:
    """What some operators cost together."""

    calls: int = 0
    matrix_flops: int = 0
    vector_flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def add(self, matrix: int, vector: int, read: int, written: int) -> None:
        self.calls += 1
        self.matrix_flops += matrix
        self.vector_flops += vector
        self.bytes_read += read
        self.bytes_written += written


@dataclass
class Moved:
    """What some collectives moved together; bytes are of the larger side of each call."""

    calls: int = 0
    bytes: int = 0


@dataclass
class Counts:
    """Everything since the meter was last reset."""

    costs: dict[tuple[str, str], Cost] = field(default_factory=lambda: defaultdict(Cost))  # (phase, module)
    collectives: dict[tuple[str, str, str, str], Moved] = field(default_factory=lambda: defaultdict(Moved))
    unknown: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peak_bytes: int = 0
    peak_at: tuple[str, str] = ("", "")
    peak_split: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[str, str, int]] = field(default_factory=list)  # (phase, module, most bytes while there)


class MarkedPhases(PhaseTimers):
    """The step's own phase marks, told to the meter as they pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def __call__(self, name: str, log_level: int | None = None) -> Any:
        span = super().__call__(name, log_level)
        phase = next((each for each, spans in self._spans.items() if span._spans is spans), None)
        return span if phase is None else _MarkedSpan(span, phase, self.stack)

    def phase(self, name: str) -> Any:
        return _MarkedPhase(super().phase(name), name, self.stack)

    @property
    def current(self) -> str:
        """The innermost phase that has begun and not ended."""
        return self.stack[-1] if self.stack else "between"


class _MarkedSpan:
    def __init__(self, span: Any, phase: str, stack: list[str]) -> None:
        self._span, self._phase, self._stack = span, phase, stack

    def start(self, barrier: bool = False) -> None:
        self._stack.append(self._phase)
        self._span.start(barrier)

    def stop(self, barrier: bool = False) -> None:
        self._span.stop(barrier)
        self._stack.remove(self._phase)


class _MarkedPhase:
    def __init__(self, context: Any, phase: str, stack: list[str]) -> None:
        self._context, self._phase, self._stack = context, phase, stack

    def __enter__(self) -> None:
        self._stack.append(self._phase)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        self._stack.remove(self._phase)


class Meter(TorchDispatchMode):
    """A dispatch mode that counts while it is entered. Reset it between steps."""

    def __init__(self, phases: MarkedPhases) -> None:
        super().__init__()
        self.counts = Counts()
        self._phases = phases
        self._modules = _Modules()
        self._memory = _LiveMemory()
        self._groups: dict[Any, str] = {}
        self._entered = ExitStack()
        self._inside_calls = 0

    def __enter__(self) -> Meter:
        self._groups = group_names()
        self._entered.enter_context(self._modules)
        self._entered.enter_context(TRAFFIC.heard_by(self._hear, self._pause))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    def watch(self, model: torch.nn.Module) -> None:
        """Name the model's modules in what is counted from now on."""
        self._modules.watch(model)

    def reset(self) -> None:
        """Forget what was counted; what is alive stays known, and is what the peak starts from."""
        self.counts = Counts()
        self._note_memory()

    def classify(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what live tensors are: weights, gradients, optimizer state. What is not said was made by the step."""
        for tensor in tensors:
            self._memory.see(tensor, kind)
            self._memory.rename(tensor, kind)

    def rename_all(self, kind: str) -> None:
        """Say that everything alive is of this kind."""
        self._memory.rename_all(kind)

    def live_bytes(self, kind: str) -> int:
        """Bytes of that kind now."""
        return self._memory.bytes_by_kind.get(kind, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._inside_calls or func.namespace not in _NAMESPACES:
            return out
        name = func._schema.name.split("::")[1]
        results = [leaf for leaf in tree_leaves(_written(name, args, kwargs, out)) if isinstance(leaf, Tensor)]
        if name in _FREE or _is_view(func):
            return out
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not (func._schema.is_mutable or _makes_storage(inputs, results)):
            return out  # a view that does not call itself one
        for result in results:
            self._memory.see(result, "activations" if self._phase() == "forward" else "temporary")
        self._note_memory()
        where = (self._phase(), self._module())
        self.counts.costs[where].add(
            *self._flops(func, name, args, kwargs, inputs, results, out), *_traffic(name, inputs, results)
        )
        return out

    def _flops(
        self, func: Any, name: str, args: Any, kwargs: Any, inputs: list[Tensor], results: list[Tensor], out: Any
    ) -> tuple[int, int]:
        if name in _ATTENTION:
            return _ATTENTION[name](args, kwargs), 0
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            return int(formula(*args, **kwargs, out_val=out)), 0
        if name in _MOVES:
            return 0, 0
        if name in _LIST_UPDATES:
            return 0, sum(tensor.numel() for tensor in args[0])
        if torch.Tag.pointwise in func.tags or name in _VECTOR:
            return 0, max((tensor.numel() for tensor in [*inputs, *results]), default=0)
        self.counts.unknown[name] += 1
        return 0, 0

    def _phase(self) -> str:
        phase = self._phases.current
        # a module runs forward inside a backward where activations are computed again
        return "recompute" if phase == "backward" and self._modules.forward else phase

    def _module(self) -> str:
        """The innermost module, its layer and expert numbers left out."""
        name = self._modules.innermost(is_backward=self._phases.current == "backward")
        return _NUMBER.sub(".*", name) or "(outside the model)"

    @contextmanager
    def _hear(self, operation: str, group: Any, num_bytes: int, dtype: torch.dtype | None) -> Iterator[None]:
        """Count a communication call; what its backend does with tensors meanwhile is the backend's own."""
        self._count_call(operation, group, num_bytes, dtype)
        with self._pause():
            yield

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self._inside_calls += 1
        try:
            yield
        finally:
            self._inside_calls -= 1

    def _count_call(self, operation: str, group: Any, num_bytes: int, dtype: torch.dtype | None) -> None:
        group = group if group is not None else torch.distributed.group.WORLD
        kind = self._groups.get(group, "other")
        if kind != "other" and group.size() == 1:
            return  # a group of one moves nothing
        key = (self._phase(), kind, operation, str(dtype).removeprefix("torch."))
        moved: Moved = self.counts.collectives[key]
        moved.calls += 1
        moved.bytes += num_bytes

    def _note_memory(self) -> None:
        counts: Counts = self.counts
        live = self._memory.bytes
        where = (self._phase(), self._module())
        if live > counts.peak_bytes:
            counts.peak_bytes, counts.peak_at = live, where
            counts.peak_split = dict(self._memory.bytes_by_kind)
        if counts.timeline and counts.timeline[-1][:2] == where:
            counts.timeline[-1] = (*where, max(live, counts.timeline[-1][2]))
        else:
            counts.timeline.append((*where, live))


class _Modules:
    """Which module runs: forward by its hooks; backward by what a node saved, which remembers the module it was in.

    A node that saved nothing (a view, a sum) counts as its predecessor's. torch's own ModuleTracker loses its way at
    a module that returns its input, as megatron's IdentityOp does, and keeps inputs of pipeline stages alive.
    """

    def __init__(self) -> None:
        self.forward: list[str] = []
        self._backward = ""
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> _Modules:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def watch(self, model: torch.nn.Module) -> None:
        for path, module in model.named_modules():
            name = path.replace("module.", "")
            module.register_forward_pre_hook(functools.partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def innermost(self, is_backward: bool) -> str:
        if not is_backward:
            self._backward = ""
        return self.forward[-1] if self.forward else self._backward

    def _enter(self, name: str, _module: Any, _inputs: Any) -> None:
        self.forward.append(name)

    def _leave(self, _module: Any, _inputs: Any, _output: Any) -> None:
        self.forward.pop()

    def _pack(self, tensor: Tensor) -> tuple[Tensor, str]:
        return tensor, self.forward[-1] if self.forward else ""

    def _unpack(self, packed: tuple[Tensor, str]) -> Tensor:
        tensor, self._backward = packed
        return tensor


_NUMBER = re.compile(r"\.\d+(?=\.|$)")


class _LiveMemory:
    """Bytes of the tensor storages that are alive, by kind."""

    def __init__(self) -> None:
        self.bytes = 0
        self.bytes_by_kind: dict[str, int] = defaultdict(int)
        self._kinds: dict[int, tuple[str, int]] = {}  # by the storage's identity while it lives

    def see(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._kinds or not size:
            return
        self._kinds[key] = (kind, size)
        self.bytes += size
        self.bytes_by_kind[kind] += size
        weakref.finalize(storage, self._free, key)

    def rename(self, tensor: Tensor, kind: str) -> None:
        key = tensor.untyped_storage()._cdata
        old, size = self._kinds.get(key, (kind, 0))
        self._kinds[key] = (kind, size)
        self.bytes_by_kind[old] -= size
        self.bytes_by_kind[kind] += size

    def rename_all(self, kind: str) -> None:
        self._kinds = {key: (kind, size) for key, (_, size) in self._kinds.items()}
        self.bytes_by_kind = defaultdict(int, {kind: self.bytes})

    def _free(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        self.bytes -= size
        self.bytes_by_kind[kind] -= size


def _written(name: str, args: Any, kwargs: Any, out: Any) -> Any:
    """What an operator writes: what it returns, or lists that it updates."""
    if name not in _LIST_UPDATES:
        return out
    clipped = [args[_GRADIENTS]] if kwargs.get("grad_scale") is not None else []  # scaled in place on the way
    return [*(args[index] for index in _LIST_UPDATES[name]), *clipped]


def _is_view(func: Any) -> bool:
    return bool(func.is_view) or func._schema.name in ("aten::detach", "aten::_unsafe_view", "aten::_reshape_alias")


def _makes_storage(inputs: list[Tensor], results: list[Tensor]) -> bool:
    known = {tensor.untyped_storage()._cdata for tensor in inputs}
    return any(result.untyped_storage()._cdata not in known for result in results)


def _traffic(name: str, inputs: list[Tensor], results: list[Tensor]) -> tuple[int, int]:
    """(bytes read, bytes written)."""
    written = sum(map(_bytes, results))
    if name in _LOOKUPS:
        return written + sum(_bytes(tensor) for tensor in inputs if not tensor.is_floating_point()), written
    return sum(map(_bytes, inputs)), written


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention_flops(matrices: int, first: int, causal_argument: int) -> Callable[[Any, Any], int]:
    """FLOPs of a fused attention whose query [B, H, S, D] and key [B, H, T, D] are arguments first and first + 1."""

    def flops(args: Any, kwargs: Any) -> int:
        query, key = args[first], args[first + 1]
        batch, heads, length, size = query.shape
        causal = kwargs.get("is_causal", args[causal_argument] if len(args) > causal_argument else False)
        full = 2 * matrices * batch * heads * length * key.shape[-2] * size
        return int(full // 2 if causal else full)

    return flops


_ATTENTION: dict[str, Callable[[Any, Any], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention_flops(_ATTENTION_MATRICES_FORWARD, 0, 4),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_flops(_ATTENTION_MATRICES_BACKWARD, 1, 7),
}
