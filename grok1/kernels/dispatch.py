"""Tokens to their experts and back: by index instead of by mask, and in one exchange instead of several.

megatron's all-to-all dispatcher sends tokens, then probabilities, over the expert ranks; gathers both over the ranks
that share an expert; and sums what comes back before it returns it: thirteen collectives a layer and micro-batch, those
over the sharing ranks padded to the longest on gloo. Here a token goes straight to each rank that holds a part of its
expert, and the parts of a result are summed where the token came from: five collectives, one of them the counts. The
probabilities stay at home, where the results are weighted.

Legend: T this rank's tokens, K experts a token, P = T x K (token, expert) pairs, R pairs received, H hidden, E all
experts, L experts of this rank, G ranks of the group that shares all experts: each expert's ranks together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.kernels.context import Context
from grok1.megatron.door import WholeDispatcher


class MergedDispatcher(WholeDispatcher):
    """megatron's dropless all-to-all dispatcher, with its own way there and back."""

    def send(self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens [R, H] sorted by local expert, how many each expert got [L] on the host, weights of 1 [R]).

        From hidden_states [S/TP, B, H], probs and routing_map [T, E].
        """
        self.hidden_shape = hidden_states.shape
        tokens_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
        expert_P = routing_map.nonzero()[:, 1]  # by token
        experts_TK = expert_P.view(len(tokens_TH), -1)
        self._weights = probs.gather(1, experts_TK)
        counts_E = routing_map.sum(dim=0)
        exchange = self._plan(counts_E) if self.tp_size * self.ep_size > 1 else None
        by_expert = expert_P.argsort(stable=True)
        self._route = _Route(by_expert, by_expert.argsort(), experts_TK.shape[1], exchange)
        tokens_TKH = tokens_TH[:, None].expand(*experts_TK.shape, -1)
        pairs_RH = _Linear.apply(tokens_TKH, self._route.there, self._route.back)
        counts_L = counts_E if exchange is None else exchange.tokens_per_expert
        return pairs_RH, counts_L.cpu(), torch.ones(len(pairs_RH), dtype=probs.dtype, device=probs.device)

    def bring_back(self, hidden_states: Tensor) -> Tensor:
        """Each token's results, weighted and summed, in the shape of the tokens that came."""
        results_TKH = _Linear.apply(hidden_states, self._route.back, self._route.there)
        output_TH = (results_TKH * self._weights[..., None]).sum(dim=1)
        return output_TH.to(hidden_states.dtype).view(self.hidden_shape)

    def _plan(self, counts_E: Tensor) -> _Exchange:
        gathered = counts_E.new_empty(self.tp_size * self.ep_size * self.num_experts)
        dist.all_gather_into_tensor(gathered, counts_E, group=self.tp_ep_group)
        counts_GE = gathered.view(-1, self.num_experts)
        return _Exchange.plan(
            sent=counts_E.view(self.ep_size, -1).sum(dim=1).tolist(),
            copies=self.tp_size,
            received_GL=counts_GE[:, self.local_expert_indices[0] :][:, : self.num_local_experts],
            group=self.tp_ep_group,
        )


class _Kept(Context, Protocol):
    back: Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """A linear map, whose gradient is its transpose."""

    @staticmethod
    def forward(
        ctx: _Kept, source: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.back = back
        return there(source)

    @staticmethod
    def backward(ctx: _Kept, upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(upstream), None, None


@dataclass(frozen=True)
class _Route:
    """One micro-batch's pairs, from their tokens to their experts and back; each is the other's transpose."""

    by_expert: Tensor  # [P], of each pair sorted by expert, its place by token
    by_token: Tensor  # [P], the other way
    experts_per_token: int
    exchange: _Exchange | None

    def there(self, pairs_TKH: Tensor) -> Tensor:
        """[R, H], sorted by local expert."""
        pairs_PH = pairs_TKH.flatten(0, 1).index_select(0, self.by_expert)
        return pairs_PH if self.exchange is None else self.exchange.spread(pairs_PH)

    def back(self, pairs_RH: Tensor) -> Tensor:
        """[T, K, H]."""
        pairs_PH = pairs_RH if self.exchange is None else self.exchange.collect(pairs_RH)
        return pairs_PH.index_select(0, self.by_token).view(-1, self.experts_per_token, pairs_RH.shape[1])


@dataclass(frozen=True)
class _Exchange:
    """What goes where: this rank's pairs to every rank that holds a part of their expert, and the others' here."""

    sent: list[int]  # pairs for the experts of each expert rank, which go to `copies` ranks
    copies: int
    received: list[int]  # pairs from each rank of the group
    by_expert: Tensor  # [R], of each received pair sorted by local expert, its place as it came
    as_it_came: Tensor  # [R], the other way
    tokens_per_expert: Tensor  # [L]
    group: dist.ProcessGroup

    @staticmethod
    def plan(sent: list[int], copies: int, received_GL: Tensor, group: dist.ProcessGroup) -> _Exchange:
        ranks, experts = received_GL.shape
        expert_GL = torch.arange(experts, device=received_GL.device).repeat(ranks)
        by_expert = expert_GL.repeat_interleave(received_GL.flatten()).argsort(stable=True)
        return _Exchange(
            sent=sent,
            copies=copies,
            received=received_GL.sum(dim=1).tolist(),
            by_expert=by_expert,
            as_it_came=by_expert.argsort(),
            tokens_per_expert=received_GL.sum(dim=0),
            group=group,
        )

    def spread(self, pairs_PH: Tensor) -> Tensor:
        """[R, H], sorted by local expert."""
        outgoing = torch.cat([part for part in pairs_PH.split(self.sent) for _ in range(self.copies)])
        incoming_RH = pairs_PH.new_empty(sum(self.received), pairs_PH.shape[1])
        dist.all_to_all_single(incoming_RH, outgoing, self.received, self._sizes(), group=self.group)
        return incoming_RH.index_select(0, self.by_expert)

    def collect(self, pairs_RH: Tensor) -> Tensor:
        """[P, H], summed in float32 over the ranks that each pair went to."""
        outgoing_RH, sizes = pairs_RH.index_select(0, self.as_it_came), self._sizes()
        incoming = pairs_RH.new_empty(sum(sizes), pairs_RH.shape[1])
        dist.all_to_all_single(incoming, outgoing_RH, sizes, self.received, group=self.group)
        if self.copies == 1:
            return incoming
        parts = incoming.split([self.copies * rows for rows in self.sent])
        sums = [part.view(self.copies, -1, part.shape[1]).sum(dim=0, dtype=torch.float32) for part in parts]
        return torch.cat(sums).to(pairs_RH.dtype)

    def _sizes(self) -> list[int]:
        return [rows for rows in self.sent for _ in range(self.copies)]
