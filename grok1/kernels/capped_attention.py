"""Causal attention with tanh-capped logits, a block of queries at a time: memory grows with the sequence's length.

Each block of queries meets all the keys that it can see, and no later ones; the backward computes scores again. So
nothing of T x T exists, and nothing is kept but query, key and value.

Forward and backward are an operator each (`grok1::capped_attention`, `grok1::capped_attention_backward`), as torch's
fused attention is: what counts or profiles operators sees one of each, with the FLOPs of their products, however long
the sequence; their blocks are not in its count of memory.

c tanh(s / c) = 2 c sigmoid(2 s / c) - c, and softmax ignores the constant: the cap is a sigmoid, which on a CPU takes
a tenth of tanh's time. It is exact to 1e-5 where c = 30 in float32, a few times its rounding at c.

Legend: S sequence of queries, T of keys, V keys that a block sees, B micro-batch, H query heads, G key/value heads,
D head size, N = B G, R = S H / G queries that read a key/value head (by position, then by head), Q those of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from grok1.config.activations import LONGEST_BLOCK
from grok1.kernels.context import Context

Sizes = tuple[int, int, int]  # of a tensor, as flop formulas get them
BLOCK = 64  # positions of queries: a block's scores fit a core's cache; the causal half costs (1 + BLOCK / T) / 2
_MATRICES_FORWARD = 2  # q k^T and p v
_MATRICES_BACKWARD = 5  # q k^T again, and one for each of dv, dp, dq, dk
_SIGNATURE = "Tensor query, Tensor key, Tensor value, int group, int block, float multiplier, float cap"
_LIBRARY = torch.library.Library("grok1", "FRAGMENT")
_LIBRARY.define(f"capped_attention({_SIGNATURE}) -> Tensor")
_LIBRARY.define(f"capped_attention_backward(Tensor slope, {_SIGNATURE}) -> (Tensor, Tensor, Tensor)")


def capped_attention(query_SBHD: Tensor, key_TBGD: Tensor, value_TBGD: Tensor, multiplier: float, cap: float) -> Tensor:
    """softmax(c tanh(m q k^T / c)) v, causal, [S, B, H, D], with cap c > 0; the queries are the last S of T positions.

    Products are in the inputs' dtype, scores in at least float32. Query head h reads key/value head h // (H / G).
    """
    queries, batch, heads, size = query_SBHD.shape
    groups = key_TBGD.shape[2]
    group = heads // groups
    query_NRD = (
        query_SBHD.view(queries, batch, groups, group, size).permute(1, 2, 0, 3, 4).reshape(-1, queries * group, size)
    )
    key_NTD, value_NTD = (heads_TBGD.permute(1, 2, 0, 3).flatten(0, 1) for heads_TBGD in (key_TBGD, value_TBGD))
    block = BLOCK if query_SBHD.device.type == "cpu" else LONGEST_BLOCK  # fewer operators to start
    context_NRD: Tensor = _CappedAttention.apply(query_NRD, key_NTD, value_NTD, group, block, multiplier, cap)
    context = context_NRD.view(batch, groups, queries, group, size).permute(2, 0, 1, 3, 4)
    return context.reshape(queries, batch, heads, size)


class _Kept(Context, Protocol):
    others: tuple[float, ...]  # group, block, multiplier, cap


class _CappedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Kept, query_NRD: Tensor, key_NTD: Tensor, value_NTD: Tensor, *others: float) -> Tensor:
        ctx.save_for_backward(query_NRD, key_NTD, value_NTD)
        ctx.others = others
        context_NRD: Tensor = torch.ops.grok1.capped_attention(query_NRD, key_NTD, value_NTD, *others)
        return context_NRD

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, slope_NRD: Tensor) -> tuple[Tensor | None, ...]:
        slopes = torch.ops.grok1.capped_attention_backward(slope_NRD, *ctx.saved_tensors, *ctx.others)
        return *slopes, *(None for _ in ctx.others)


def _attend(
    query_NRD: Tensor, key_NTD: Tensor, value_NTD: Tensor, group: int, block: int, multiplier: float, cap: float
) -> Tensor:
    """[N, R, D]."""
    context_NRD = torch.empty_like(query_NRD)
    scores, weights = (_Buffer(query_NRD, key_NTD, group * block) for _ in range(2))
    future = _future(group, block, query_NRD.device)
    for at in _blocks(query_NRD, key_NTD, group, block):
        query_NQD, key_NVD, value_NVD = at.rows(query_NRD), at.keys(key_NTD), at.keys(value_NTD)
        scores_NQV, weights_NQV = scores.of(query_NQD, key_NVD), weights.of(query_NQD, key_NVD)
        _multiply(scores_NQV, query_NQD, key_NVD.transpose(1, 2), scale=2 * multiplier / cap)
        scores_NQV.sigmoid_().mul_(2 * cap)
        _softmax(weights_NQV, scores_NQV, future)
        _multiply(at.rows(context_NRD), weights_NQV.to(value_NTD.dtype), value_NVD)
    return context_NRD


def _attend_backward(
    slope_NRD: Tensor,
    query_NRD: Tensor,
    key_NTD: Tensor,
    value_NTD: Tensor,
    group: int,
    block: int,
    multiplier: float,
    cap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query [N, R, D], key and value [N, T, D]."""
    dtype = query_NRD.dtype
    query_slope_NRD = torch.empty_like(query_NRD)
    key_slope_NTD, value_slope_NTD = (torch.zeros_like(key_NTD, dtype=_wide(dtype)) for _ in range(2))
    shares, weights, slopes = (_Buffer(query_NRD, key_NTD, group * block) for _ in range(3))
    future = _future(group, block, query_NRD.device)
    for at in _blocks(query_NRD, key_NTD, group, block):
        query_NQD, key_NVD, value_NVD = at.rows(query_NRD), at.keys(key_NTD), at.keys(value_NTD)
        shares_NQV, weights_NQV, slopes_NQV = (kind.of(query_NQD, key_NVD) for kind in (shares, weights, slopes))
        _multiply(shares_NQV, query_NQD, key_NVD.transpose(1, 2), scale=2 * multiplier / cap)
        shares_NQV.sigmoid_()
        _softmax(weights_NQV, torch.mul(shares_NQV, 2 * cap, out=slopes_NQV), future)
        slope_NQD = at.rows(slope_NRD)
        _multiply(at.keys(value_slope_NTD), weights_NQV.to(dtype).transpose(1, 2), slope_NQD, is_added=True)
        _multiply(slopes_NQV, slope_NQD, value_NVD.transpose(1, 2))
        # each in place: of the weights, of the scores, of the sigmoid's argument
        torch._softmax_backward_data(slopes_NQV, weights_NQV, -1, slopes_NQV.dtype, grad_input=slopes_NQV)
        torch.ops.aten.sigmoid_backward.grad_input(slopes_NQV, shares_NQV, grad_input=slopes_NQV)
        narrow_NQV, scale = slopes_NQV.to(dtype), 4 * multiplier
        _multiply(at.rows(query_slope_NRD), narrow_NQV, key_NVD, scale=scale)
        _multiply(at.keys(key_slope_NTD), narrow_NQV.transpose(1, 2), query_NQD, scale=scale, is_added=True)
    return query_slope_NRD, key_slope_NTD.to(dtype), value_slope_NTD.to(dtype)


class _Block(NamedTuple):
    """Queries `start` to `stop` of some heads, which see `visible` keys."""

    heads: slice
    start: int
    stop: int
    visible: int

    def rows(self, rows_NRD: Tensor) -> Tensor:
        """[N, Q, D]."""
        return rows_NRD[self.heads, self.start : self.stop]

    def keys(self, keys_NTD: Tensor) -> Tensor:
        """[N, V, D]."""
        return keys_NTD[self.heads, : self.visible]


def _blocks(query_NRD: Tensor, key_NTD: Tensor, group: int, block: int) -> Iterator[_Block]:
    heads, at_once = query_NRD.shape[0], _heads_at_once(query_NRD)
    for head in range(0, heads, at_once):
        for start, stop, visible in _spans(query_NRD.shape[1], key_NTD.shape[1], group, block):
            yield _Block(slice(head, head + at_once), start, stop, visible)


def _spans(rows: int, keys: int, group: int, block: int) -> Iterator[tuple[int, int, int]]:
    """(first row, one past the last, keys seen) of each block of a head's rows."""
    earlier = keys - rows // group
    for start in range(0, rows, block * group):
        stop = min(start + block * group, rows)
        yield start, stop, earlier + stop // group


def _heads_at_once(query_NRD: Tensor) -> int:
    """One on a CPU, for its cache; all on what takes long to start an operator."""
    return 1 if query_NRD.device.type == "cpu" else query_NRD.shape[0]


class _Buffer:
    """Memory for one block's scores, used again by the next."""

    def __init__(self, query_NRD: Tensor, key_NTD: Tensor, rows: int) -> None:
        size = _heads_at_once(query_NRD) * min(query_NRD.shape[1], rows) * key_NTD.shape[1]
        self._memory = torch.empty(size, dtype=_wide(query_NRD.dtype), device=query_NRD.device)

    def of(self, query_NQD: Tensor, key_NVD: Tensor) -> Tensor:
        """[N, Q, V], with whatever it held."""
        sizes = (*query_NQD.shape[:2], key_NVD.shape[1])
        return self._memory[: math.prod(sizes)].view(sizes)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Of scores, and of what is summed over blocks."""
    return torch.promote_types(dtype, torch.float32)


def _future(group: int, block: int, device: torch.device) -> Tensor:
    """True [block H / G, block] where a block's key lies after its query."""
    return torch.ones(block, block, dtype=torch.bool, device=device).triu(1).repeat_interleave(group, dim=0)


def _softmax(weights_NQV: Tensor, scores_NQV: Tensor, future: Tensor) -> None:
    """weights = softmax of the scores, whose last keys are at the queries' own positions; overwrites the scores."""
    rows = scores_NQV.shape[1]
    positions = rows * future.shape[1] // future.shape[0]
    scores_NQV[..., -positions:].masked_fill_(future[:rows, :positions], -math.inf)
    torch.ops.aten._softmax.out(scores_NQV, -1, False, out=weights_NQV)


def _multiply(out: Tensor, left: Tensor, right: Tensor, scale: float = 1.0, is_added: bool = False) -> None:
    """out = scale left @ right, or that much more, by batches; the product is in the factors' dtype."""
    if out.dtype == left.dtype:
        torch.baddbmm(out, left, right, beta=float(is_added), alpha=scale, out=out)
    elif is_added:
        out.add_(torch.bmm(left, right), alpha=scale)
    else:
        out.copy_(torch.bmm(left, right)).mul_(scale)


# what each operator runs
OPERATORS: dict[str, Callable[..., object]] = {
    "capped_attention": _attend,
    "capped_attention_backward": _attend_backward,
}
for _name, _function in OPERATORS.items():
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")


@torch.library.register_fake("grok1::capped_attention", lib=_LIBRARY)
def _fake(query_NRD: Tensor, *_others: object) -> Tensor:
    return torch.empty_like(query_NRD)


@torch.library.register_fake("grok1::capped_attention_backward", lib=_LIBRARY)
def _fake_backward(
    slope_NRD: Tensor, query_NRD: Tensor, key_NTD: Tensor, value_NTD: Tensor, *_others: object
) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, (query_NRD, key_NTD, value_NTD)))


@register_flop_formula(torch.ops.grok1.capped_attention)
def _flop(query: Sizes, key: Sizes, _value: Sizes, group: int, block: int, *_args: object, **_kwargs: object) -> int:
    return _MATRICES_FORWARD * _matrix_flops(query, key, group, block)


@register_flop_formula(torch.ops.grok1.capped_attention_backward)
def _flop_backward(
    _slope: Sizes, query: Sizes, key: Sizes, _value: Sizes, group: int, block: int, *_args: object, **_kwargs: object
) -> int:
    return _MATRICES_BACKWARD * _matrix_flops(query, key, group, block)


def _matrix_flops(query: Sizes, key: Sizes, group: int, block: int) -> int:
    """2 a multiply-add, of the keys that each block sees; query [N, R, D] and key [N, T, D] as sizes."""
    heads, rows, size = query
    return 2 * heads * size * sum((stop - at) * seen for at, stop, seen in _spans(rows, key[1], group, block))
