"""What Transformer Engine computes where a recipe chooses it, through megatron's own wrappers: on CUDA alone.

Never run on a GPU here. It was executed on a CPU: Transformer Engine's real Python code, with its Triton kernels
interpreted, and with plain torch in place of its compiled extension (tests/transformer_engine). What megatron takes
from it unasked, such as its Adam, is megatron's choice.

Legend: S sequence, B micro-batch, N tokens, S x B; V this rank's part of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from grok1.config.sections import Kernels
from grok1.megatron.door import MLPSubmodules, ModuleSpec, TEGroupedMLP, te


def check_present(kernels: Kernels) -> None:
    """megatron's own complaints are tracebacks. Checked here as well as before a launch, for runs without one.

    Raises:
        ValueError: a kernel is Transformer Engine's, and megatron finds none in this process.
    """
    for choice, remedy in kernels.of_transformer_engine():
        if te is None:
            raise ValueError(
                f"{choice}: megatron finds no Transformer Engine in this process; install it on cuda (docs/gpus.md), "
                f"or {remedy}"
            )


def grouped_experts() -> ModuleSpec:
    """megatron's TEGroupedMLP: two grouped products for all local experts, with any activation, in fp32 or bf16."""
    layers = MLPSubmodules(
        linear_fc1=_engine().TEColumnParallelGroupedLinear, linear_fc2=_engine().TERowParallelGroupedLinear
    )
    return ModuleSpec(module=TEGroupedMLP, submodules=layers)


def core_attention() -> type:
    """megatron's TEDotProductAttention: causal, no cap, as many queries as keys."""
    attention: type = _engine().TEDotProductAttention
    return attention


def cross_entropy(logits_SBV: Tensor, targets_SB: Tensor, multiplier: float, group: dist.ProcessGroup) -> Tensor:
    """-log softmax(multiplier x logits) at each target, float32 [S, B]; targets count over all ranks' parts.

    Its kernels read targets, and up to 2.10 the losses' gradient, from one address on, whatever the strides say.
    megatron's own call hands it a transposed gradient, and so mixes up tokens where a micro-batch has more than one
    sequence. Here all it gets is one row of N tokens, contiguous. It writes gradients over the logits that it gets.
    """
    scaled_NV = (logits_SBV * multiplier).flatten(0, 1)
    targets_N = targets_SB.flatten()
    losses_1N: Tensor = _engine().te_parallel_cross_entropy(scaled_NV[None], targets_N[None], group)
    if losses_1N.requires_grad:
        losses_1N.register_hook(Tensor.contiguous)  # that of a mean is one number, expanded
    return losses_1N.view(targets_SB.shape)


def _engine() -> Any:
    assert te is not None  # check_present has said so
    return te
