"""What a step of MindSpeed's ring of context ranks runs beside attention: its own functions, counted on a CPU, as JSON.

Under a causal mask of a step that has all queries of the rank and half of the keys, and of one that has half of the
queries and all keys; under a general one each step has all of both.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from mindspeed.core.context_parallel import utils
from mindspeed.core.context_parallel.ring_context_parallel import ring_context_parallel as ring
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from bench.ledger import operators

_TOKENS, _HEADS, _SIZE = 512, 4, 128
_WIDTH = _HEADS * _SIZE


class _Counted(TorchDispatchMode):
    """Launches and bytes, as the ledger counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, kind = func(*args, **kwargs), operators.kind_of(func)
        touched = operators.touched(kind, args, kwargs, out) if kind.is_counted else None
        if touched is not None:
            self.launches += 1
            self.bytes += sum(operators.traffic(kind.name, *touched))
        return out


def _attended(tokens: int) -> list[Tensor]:
    """An output, and the largest and the sum of its scores: [S, B, H], [B, N, S, 8] twice."""
    statistics = [torch.ones(1, _HEADS, tokens, 8) for _ in range(2)]
    return [torch.zeros(tokens, 1, _WIDTH, dtype=torch.bfloat16), *statistics]


def _forward(
    queries: int, rank: int, keys_of: int, merge: Callable[..., object], *, is_fused: bool
) -> dict[str, float]:
    now, before = _attended(queries), [*_attended(_TOKENS), {}]
    counted = _Counted()
    utils.get_args = lambda: SimpleNamespace(use_fused_ring_attention_update=is_fused)
    utils.npu_ring_attention_update = functools.partial(_fused_update, counted)
    with counted:
        merge(rank, keys_of, [*now, None, *[None] * 3], before)
    return {"launches": counted.launches, "bytes": counted.bytes / (_TOKENS * _WIDTH)}


def _fused_update(counted: _Counted, *operands: Any) -> list[Tensor]:
    """In place of the NPU's kernel: one launch that reads its six tensors once, and writes the first three anew."""
    read = [each for each in operands if isinstance(each, Tensor)]
    counted.launches += 1
    counted.bytes += sum(each.numel() * each.element_size() for each in (*read, *read[:3]))
    with _disable_current_modes():
        return [torch.empty_like(each) for each in read[:3]]


def _gradient(tokens: int, *before: int) -> Tensor:
    return torch.zeros(*before, tokens, 1, _WIDTH, dtype=torch.bfloat16)


def _backward(queries: int, rank: int, keys_of: int) -> dict[str, float]:
    keys = _TOKENS * 3 // 2 - queries
    own = [_gradient(each) for each in (queries, keys, keys)]
    whole = [_gradient(_TOKENS // 2, 2) for _ in range(3)]
    with _Counted() as counted:
        ring.causal_grad_update(rank, keys_of, *own, *whole)
    return {"launches": counted.launches, "bytes": counted.bytes / (_TOKENS * _WIDTH)}


def main() -> None:
    """Print the counts; bytes are an element of all queries of the rank."""
    halves = ((_TOKENS, 1, 0), (_TOKENS // 2, 0, 1))
    masks = {"causal": (utils.causal_out_update, halves), "general": (utils.general_out_update, halves[:1])}
    found = {
        f"forward, {mask}{', fused' * is_fused}": [_forward(*each, merge, is_fused=is_fused) for each in steps]
        for mask, (merge, steps) in masks.items()
        for is_fused in (False, True)
    }
    print(json.dumps(found | {"backward, causal": [_backward(*each) for each in halves]}))


if __name__ == "__main__":
    main()
