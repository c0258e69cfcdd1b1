"""What a step of MindSpeed's ring of context ranks runs beside attention: its own functions, counted on a CPU, as JSON.

Of a step that has all queries of the rank and half of the keys, and of one that has half of the queries and all keys.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from mindspeed.core.context_parallel import utils
from mindspeed.core.context_parallel.ring_context_parallel import ring_context_parallel as ring
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def _forward(queries: int, rank: int, keys_of: int) -> dict[str, float]:
    now, before = _attended(queries), [*_attended(_TOKENS), {}]
    with _Counted() as counted:
        utils.causal_out_update(rank, keys_of, now, before)
    return {"launches": counted.launches, "bytes": counted.bytes / (_TOKENS * _WIDTH)}


def _backward(queries: int, rank: int, keys_of: int) -> dict[str, float]:
    def gradient(tokens: int, *before: int) -> Tensor:
        return torch.zeros(*before, tokens, 1, _WIDTH, dtype=torch.bfloat16)

    keys = _TOKENS * 3 // 2 - queries
    own = [gradient(each) for each in (queries, keys, keys)]
    whole = [gradient(_TOKENS // 2, 2) for _ in range(3)]
    with _Counted() as counted:
        ring.causal_grad_update(rank, keys_of, *own, *whole)
    return {"launches": counted.launches, "bytes": counted.bytes / (_TOKENS * _WIDTH)}


def main() -> None:
    """Print the counts; bytes are an element of all queries of the rank."""
    utils.get_args = SimpleNamespace
    steps = ((_TOKENS, 1, 0), (_TOKENS // 2, 0, 1))
    print(
        json.dumps({"forward": [_forward(*each) for each in steps], "backward": [_backward(*each) for each in steps]})
    )


if __name__ == "__main__":
    main()
