"""The model chunks of this rank: one, or several under an interleaved pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch

from grok1.megatron.protocols import DdpModel, GradientBuffer


class Chunks(torch.nn.ModuleList):
    """The chunks in the order of the model's layers, each in its own data-parallel buffers."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        super().__init__(chunks)

    def __iter__(self) -> Iterator[DdpModel]:
        return cast(Iterator[DdpModel], super().__iter__())

    @property
    def gradient_buffers(self) -> list[GradientBuffer]:
        """Those of all chunks, of the dense parameters and of the experts."""
        return [buffer for chunk in self for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]]

    def zero_grad_buffer(self) -> None:
        """Set all gradients to zero."""
        for chunk in self:
            chunk.zero_grad_buffer()


def chunks_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The chunks of a rank, or the one module that is all of it, as for inference."""
    return list(model) if isinstance(model, Chunks) else [model]
