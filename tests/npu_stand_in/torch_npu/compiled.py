"""Stands for the operators that MindSpeed compiles with CANN's compiler at their first use, and for torchair."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import cpp_extension

from torch_npu import kernels


class RotaryPositionEmbedding:
    """ops/csrc/cann/npu_rotary_position_embedding.cpp."""

    @staticmethod
    def npu_rotary_position_embedding(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
        kernels._count("npu_rotary_position_embedding")
        return kernels.rotated(x, cos, sin, mode)


class GroupedMatmul:
    """ops/csrc/cann/gmm.cpp: rows of x in groups, each with its own matrix. `ends` are the groups' last rows + 1."""

    @staticmethod
    def npu_gmm(
        x: list[Tensor], weight: list[Tensor], bias: list[Tensor], ends: object, group_type: int, group_list_type: int
    ) -> list[Tensor]:
        kernels._count("npu_gmm")
        rows, matrices = x[0], weight[0]
        if rows.dtype == torch.float32 or rows.dtype != matrices.dtype:
            raise RuntimeError(f"aclnnGroupedMatmul: dtypes {rows.dtype} and {matrices.dtype} are not supported")
        parts = [rows[a:b] @ matrix for (a, b), matrix in zip(_spans(ends), matrices, strict=True)]
        return [torch.cat(parts) if parts else rows.new_empty((0, matrices.shape[-1]))]

    @staticmethod
    def npu_gmm_backward(
        grads: list[Tensor], x: list[Tensor], weight: list[Tensor], ends: object, group_list_type: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        kernels._count("npu_gmm_backward")
        spans = _spans(ends)
        to_x = [grads[0][a:b] @ matrix.T for (a, b), matrix in zip(spans, weight[0], strict=True)]
        to_weight = [x[0][a:b].T @ grads[0][a:b] for a, b in spans]
        return [torch.cat(to_x)], [torch.stack(to_weight)], []


def _spans(ends: Any) -> list[tuple[int, int]]:
    last = [int(each) for each in ends]
    return list(zip([0, *last[:-1]], last, strict=True))


class MatmulAdd:
    """ops/csrc/cann/npu_matmul_add.cpp: adds a weight's gradient to the fp32 buffer."""

    @staticmethod
    def npu_matmul_add_fp32(grad_output: Tensor, total_input: Tensor, grad: Tensor) -> None:
        kernels._count("npu_matmul_add_fp32")
        if grad.dtype != torch.float32:
            raise RuntimeError(f"npu_matmul_add_fp32: the buffer is {grad.dtype}")
        grad.addmm_(grad_output.T.float(), total_input.float())


class Algorithm:
    """ops/csrc/algorithm/algorithm.cpp: a tensor goes on in the memory of another, of any dtype."""

    @staticmethod
    def reuse_data_ptr(des: Tensor, src: Tensor, offset: int) -> None:
        if offset < 0 or (offset + des.numel()) * des.element_size() > src.numel() * src.element_size():
            raise RuntimeError(f"Offsets overflow, got: offset {offset * des.element_size()}")
        first = src.untyped_storage()
        with torch.no_grad():
            des.set_(first, offset, des.shape, des.stride())


_COMPILED = {
    "algorithm": Algorithm,
    "npu_rotary_position_embedding": RotaryPositionEmbedding,
    "grouped_matmul": GroupedMatmul,
    "npu_matmul_add_fp32": MatmulAdd,
}


def install() -> None:
    """What would be compiled is found above; what is registered for an NPU's tensors is for a CPU's; no torchair."""
    compile_with_gcc = cpp_extension.load

    def load(name: str, *args: object, **kwargs: object) -> object:
        return _COMPILED[name] if name in _COMPILED else compile_with_gcc(name, *args, **kwargs)

    cpp_extension.load = load
    impl = torch.library.Library.impl

    def impl_on_cpu(
        self: torch.library.Library, name: object, function: object, dispatch_key: str = "", **kw: Any
    ) -> None:
        is_for_an_npu = self.ns == "mindspeed" and dispatch_key == "PrivateUse1"
        impl(self, name, function, "CPU" if is_for_an_npu else dispatch_key, **kw)

    torch.library.Library.impl = impl_on_cpu
    sys.meta_path.insert(0, _Torchair())


class _Anything:
    """Decorators, base classes and constants of a graph compiler that nobody runs."""

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __call__(self, function: object = None, *_args: object, **_kwargs: object) -> object:
        return function

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _AnythingModule(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {}) if name[0].isupper() else _as_decorator


def _as_decorator(*_args: object, **_kwargs: object) -> Callable[[object], object]:
    return lambda function: function


class _Torchair(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchair, the graph compiler that MindSpeed's operators register themselves with at import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "torchair":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _AnythingModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...
