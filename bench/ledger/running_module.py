"""Which module of the model runs now, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class RunningModule:
    """Forward it is known by hooks; backward by what a node saved, which remembers the module it was in.

    A node that saved nothing (a view, a sum) counts as its predecessor's. torch's own ModuleTracker loses its way at
    a module that returns its input, as megatron's IdentityOp does, and keeps inputs of pipeline stages alive.
    """

    def __init__(self) -> None:
        self.forward: list[str] = []
        self._backward = ""
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> RunningModule:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def watch(self, model: torch.nn.Module) -> None:
        """Follow the modules of a model, by the names of their paths."""
        for path, module in model.named_modules():
            name = path.replace("module.", "")
            module.register_forward_pre_hook(functools.partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def innermost(self, is_backward: bool) -> str:
        """The path of the innermost module that runs; empty outside all of them."""
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
