"""What the cap of attention's logits costs beside torch's fused attention without one. Figures to read, not a gate.

Legend: S sequence, B micro-batch, H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from bench.session import BenchSession

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH, _BATCH, _HEADS, _GROUPS, _SIZE = 2048, 1, 8, 2, 64
_MULTIPLIER, _CAP = 0.125, 30.0  # Grok-1's cap
_ROUNDS = 7
_SECONDS = 300


@pytest.fixture
def device(session: BenchSession) -> str:
    """Where the tensors are: both are torch's own operators, which an NPU's attention is not."""
    if session.device == "npu":
        pytest.skip("an NPU's attention is MindSpeed's: bench/test_ops.py times it")
    return session.device


@pytest.mark.timeout(_SECONDS)
def test_capped_attention_beside_fused(benchmark: Any, device: str) -> None:
    """Forward and backward of both by turns, from the same inputs; a round is one of each."""
    import torch

    from grok1.kernels.capped_attention import capped_attention

    inputs = _inputs(_LENGTH, device)
    seconds: dict[str, list[float]] = {"fused": [], "capped": []}

    def both() -> None:
        for name, attention in (("fused", _fused), ("capped", capped_attention)):
            start = time.perf_counter()
            _forward_backward(attention, inputs)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(both, rounds=_ROUNDS, warmup_rounds=1)
    timed = {name: each[1:] for name, each in seconds.items()}  # the first of each warms up
    medians = {name: statistics.median(each) for name, each in timed.items()}
    each = ", ".join(
        f"{name} {medians[name] * 1e3:.0f} ms ({min(timed[name]) * 1e3:.0f} to {max(timed[name]) * 1e3:.0f})"
        for name in timed
    )
    print(f"sequence {_LENGTH}, {_ROUNDS} rounds: {each}; ratio of medians {medians['capped'] / medians['fused']:.2f}")


@pytest.mark.parametrize("length", [_LENGTH // 2, _LENGTH, 2 * _LENGTH])
def test_capped_attentions_memory(length: int, benchmark: Any, device: str) -> None:
    """Elements kept for the backward, and of the largest tensor that forward or backward makes."""
    import torch

    from grok1.kernels.capped_attention import capped_attention

    kept: list[int] = []
    largest = _largest_output()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    def count() -> None:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), largest:
            _forward_backward(capped_attention, _inputs(length, device))

    benchmark.pedantic(count, rounds=1)
    whole = 4 * _BATCH * _HEADS * length**2
    print(
        f"sequence {length}: kept {sum(kept) / 2**20:.1f} MiB, largest tensor {largest.nbytes / 2**20:.1f} MiB; "
        f"a matrix of all scores would be {whole / 2**20:.0f} MiB"
    )


def _inputs(length: int, device: str) -> tuple[Tensor, ...]:
    """Query [S, B, H, D], key and value [S, B, G, D], in float32."""
    import torch

    generator = torch.Generator().manual_seed(length)
    return tuple(
        torch.randn(length, _BATCH, heads, _SIZE, generator=generator).to(device).requires_grad_()
        for heads in (_HEADS, _GROUPS, _GROUPS)
    )


def _fused(query_SBHD: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, multiplier: float, _cap: float) -> Tensor:
    """As grok1.model.attention calls it where there is no cap."""
    from torch.nn import functional as F

    query, key, value = (heads.permute(1, 2, 0, 3) for heads in (query_SBHD, key_SBGD, value_SBGD))
    key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for heads in (key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=multiplier).permute(2, 0, 1, 3)


def _forward_backward(attention: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    import torch

    context = attention(*inputs, _MULTIPLIER, _CAP)
    torch.autograd.grad(context, inputs, torch.ones_like(context))


def _largest_output() -> Any:
    """A dispatch mode whose `nbytes` is the most that one operator's output takes."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    from grok1.kernels.capped_attention import OPERATORS

    class Largest(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "grok1":  # ours: what it runs
                with self:
                    return OPERATORS[func._opname](*args)
            output = func(*args, **(kwargs or {}))
            if isinstance(output, Tensor):
                self.nbytes = max(self.nbytes, output.nbytes)
            return output

    return Largest()
