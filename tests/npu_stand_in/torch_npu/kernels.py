"""Stands for torch_npu's fused operators, in plain torch maths.

Shapes: S sequence, B batch, H heads, G key/value heads, D width of a head, T tokens, R ranks of a group.
What an operator refuses on an NPU is refused here; what none of MindSpeed's callers gives is not implemented.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from torch_npu.hccl import GROUPS

__all__ = [
    "npu_all_gather_base_mm",
    "npu_fusion_attention",
    "npu_mm_reduce_scatter_base",
    "npu_rms_norm",
    "npu_rotary_mul",
    "npu_scaled_masked_softmax",
    "npu_swiglu",
]

CALLS: dict[str, int] = {}  # how often each operator ran in this process; tests read it
_LEFT_UP_CAUSAL = 2  # sparse_mode: a lower triangle, which the kernel makes from a compressed mask
_MASK_OF_MODE_2 = (2048, 2048)


def _count(name: str) -> None:
    CALLS[name] = CALLS.get(name, 0) + 1


def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: object = None,
    actual_seq_qlen: object = None,
    actual_seq_kvlen: object = None,
    sparse_mode: int = 0,
) -> tuple[Tensor, ...]:
    """Attention over SBH or BNSD; the mask is 1 (True) where a score is dropped."""
    _count("npu_fusion_attention")
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise RuntimeError(f"npu_fusion_attention: dtype {query.dtype} is not supported")
    if pse is not None or padding_mask is not None or keep_prob != 1.0:
        raise NotImplementedError("the stand-in has no pse, padding mask or dropout")
    if input_layout != "SBH":
        raise NotImplementedError(f"the stand-in has no layout {input_layout}")
    width = query.shape[2] // head_num  # D
    query_BHSD, key_BGSD, value_BGSD = (
        each.reshape(each.shape[0], each.shape[1], -1, width).permute(1, 2, 0, 3) for each in (query, key, value)
    )
    repeats = head_num // key_BGSD.shape[1]
    output_BHSD = F.scaled_dot_product_attention(
        query_BHSD,
        key_BGSD.repeat_interleave(repeats, 1),
        value_BGSD.repeat_interleave(repeats, 1),
        attn_mask=_kept(atten_mask, sparse_mode, query.shape[0], key.shape[0]),
        scale=scale,
    )
    nothing = query.new_empty(0)
    return output_BHSD.permute(2, 0, 1, 3).reshape(query.shape), nothing, nothing, nothing


def _kept(atten_mask: Tensor | None, sparse_mode: int, queries: int, keys: int) -> Tensor | None:
    """True where a score counts. Mode 0: what the mask leaves, of those in the band; mode 2: the lower triangle."""
    if sparse_mode == _LEFT_UP_CAUSAL:
        if atten_mask is None or tuple(atten_mask.shape) != _MASK_OF_MODE_2 or atten_mask.dtype != torch.bool:
            raise RuntimeError("npu_fusion_attention: sparse_mode 2 needs the compressed mask, bool [2048, 2048]")
        has_content = not isinstance(atten_mask, FakeTensor)
        if has_content and not torch.equal(atten_mask, torch.ones(_MASK_OF_MODE_2, dtype=torch.bool).triu(1)):
            raise RuntimeError("npu_fusion_attention: the compressed mask of sparse_mode 2 is an upper triangle")
        return torch.ones(queries, keys, dtype=torch.bool).tril()
    if sparse_mode != 0:
        raise NotImplementedError(f"the stand-in has no sparse_mode {sparse_mode}")
    return None if atten_mask is None else ~atten_mask.bool()


def npu_rms_norm(self: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(normed, 1 / rms): the kernel computes in fp32 and rounds once."""
    _count("npu_rms_norm")
    wide = self.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * scale * gamma.float()).to(self.dtype), scale


def npu_rotary_mul(self: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half") -> Tensor:
    """x cos + rotate(x) sin."""
    _count("npu_rotary_mul")
    return rotated(self, r1, r2, 0 if rotary_mode == "half" else 1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, mode: int) -> Tensor:
    """RoPE: mode 0 turns halves (GPT-NeoX), mode 1 neighbours (GPT-J)."""
    if x.dtype != cos.dtype or x.dtype != sin.dtype:
        raise RuntimeError(f"rotary position embedding: x is {x.dtype}, cos {cos.dtype}, sin {sin.dtype}")
    if mode == 0:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin


def npu_swiglu(self: Tensor, dim: int = -1) -> Tensor:
    """silu(first half) times the second."""
    _count("npu_swiglu")
    first, second = self.chunk(2, dim=dim)
    return F.silu(first) * second


def npu_scaled_masked_softmax(x: Tensor, mask: Tensor, scale: float = 1.0, fixed_triu_mask: bool = False) -> Tensor:
    """Softmax of scale * x where the mask is 0."""
    _count("npu_scaled_masked_softmax")
    if x.dim() != 4 or x.shape[-1] % 16 or x.shape[-2] % 16:
        raise RuntimeError(f"npu_scaled_masked_softmax: shape {tuple(x.shape)} is not 4-D with multiples of 16")
    dropped = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1) if fixed_triu_mask else mask.bool()
    return (x.float() * scale).masked_fill(dropped, -10000.0).softmax(-1).to(x.dtype)


def npu_all_gather_base_mm(
    self: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    bias: Tensor | None = None,
    gather_index: int = 0,
    gather_output: bool = True,
    comm_turn: int = 0,
) -> tuple[Tensor, Tensor]:
    """(gathered [R T, K] @ x2, gathered): an all-gather inside a product."""
    _count("npu_all_gather_base_mm")
    if bias is not None or gather_index != 0:
        raise RuntimeError("npu_all_gather_base_mm takes no bias and gathers the first input only")
    gathered = self.new_empty((world_size * self.shape[0], *self.shape[1:]))
    GROUPS[hcom]._allgather_base(gathered, self.contiguous()).wait()
    return gathered @ x2, gathered if gather_output else self.new_empty(0)


def npu_mm_reduce_scatter_base(
    self: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    comm_turn: int = 0,
) -> Tensor:
    """This rank's rows of the sum over ranks of self @ x2: a reduce-scatter behind a product."""
    _count("npu_mm_reduce_scatter_base")
    if bias is not None or reduce_op != "sum":
        raise RuntimeError("npu_mm_reduce_scatter_base sums, without a bias")
    product = (self @ x2).contiguous()
    GROUPS[hcom].allreduce([product], dist.AllreduceOptions()).wait()
    return product.chunk(world_size)[GROUPS[hcom].rank()].clone()


def install() -> None:
    """torch's fused AdamW with the step that an NPU takes: one int64 tensor for all parameters."""
    torch._fused_adamw_ = _fused_adamw_


@torch.no_grad()
def _fused_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
) -> None:
    """AdamW, Loshchilov and Hutter, algorithm 2, in the order of torch's own loop."""
    _count("_fused_adamw_")
    if amsgrad or maximize:
        raise NotImplementedError("the stand-in has neither amsgrad nor maximize")
    step = float(state_steps[0])
    for param, grad, average, square in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        param.mul_(1 - lr * weight_decay)
        average.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (square.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
        param.addcdiv_(average, scale, value=-lr / (1 - beta1**step))
