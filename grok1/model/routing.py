"""A router whose choice of experts is drawn, not learned: balanced by force, for measurements alone."""

from __future__ import annotations

import torch
from torch import Tensor

from grok1.distributed.context_split import part_of_rank
from grok1.distributed.groups import context_group, tensor_group
from grok1.megatron.door import TopKRouter


class RandomRouter(TopKRouter):
    """megatron's router on drawn logits; gradients go to its weight as if the logits were its own.

    The draw is a token's by its layer, its place in the sequence and its sequence's place in the micro-batch. It is the
    same in each micro-batch and step, in each layout and when the layer is computed again.
    """

    seed: int
    layer_number: int

    def routing(self, logits: Tensor, *more: object, **options: object) -> tuple[Tensor, Tensor]:
        """(probabilities, map) [T, E] from logits [S/TP, B, E], of which the values are not used."""
        drawn = self._drawn(logits) + (logits - logits.detach())
        routed: tuple[Tensor, Tensor] = super().routing(drawn, *more, **options)
        return routed

    def _drawn(self, logits: Tensor) -> Tensor:
        """[S/TP, B, E] of this rank's tokens, from a draw for the whole sequence."""
        length, batch, experts = logits.shape
        tensor, context = tensor_group(), context_group()
        parts, part = (tensor.size(), tensor.rank()) if self.config.sequence_parallel else (1, 0)
        generator = torch.Generator(logits.device).manual_seed(self.seed * 1009 + self.layer_number)
        tokens = context.size() * parts * length
        drawn_BTE = torch.empty(batch, tokens, experts, device=logits.device).normal_(generator=generator)
        if context.size() > 1:
            drawn_BTE = part_of_rank(drawn_BTE, context.size(), context.rank())
        drawn_TBE = drawn_BTE[:, part * length :][:, :length].transpose(0, 1)
        return drawn_TBE.to(logits.dtype).contiguous()  # megatron views what is made of them as [T, E]
