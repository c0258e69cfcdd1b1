"""Where routers send their tokens where that is planned, and not computed: evenly, by stated shares, or as drawn."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from grok1.config.levers import expert_capacity
from grok1.config.recipe import Recipe
from grok1.megatron.capacity import first_tokens
from grok1.megatron.door import MoELayer


@dataclass(frozen=True)
class Routing:
    """Each expert's share of a router's (token, expert) pairs. The shares sum to 1."""

    shares: tuple[float, ...]

    @staticmethod
    def balanced(num_experts: int) -> Routing:
        """Every expert alike."""
        return Routing((1.0 / num_experts,) * num_experts)

    def routing_map(self, num_tokens: int, experts_per_token: int) -> Tensor:
        """[T, E], True where a token goes to an expert. Every token goes to `experts_per_token` different experts.

        Raises:
            ValueError: a share asks for more than one pair per token.
        """
        pairs = num_tokens * experts_per_token
        # cumulative rounding, so that the counts add up
        ends = [round(pairs * sum(self.shares[: expert + 1])) for expert in range(len(self.shares))]
        counts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        if max(counts) > num_tokens or min(counts) < 0 or ends[-1] != pairs:
            raise ValueError(
                f"routing shares {self.shares} of {num_tokens} tokens to {experts_per_token} experts each: "
                "give one share an expert, summing to 1, none above 1 / experts per token"
            )
        # an expert's pairs are consecutive tokens and at most all of them, so no token meets it twice
        expert_of_pair = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        map_TE = torch.zeros(num_tokens, len(counts), dtype=torch.bool)
        map_TE[torch.arange(pairs) % num_tokens, expert_of_pair] = True
        return map_TE


class RoutingPlan:
    """Sends every router's tokens as planned, whatever it computes. Works on real tensors too."""

    def __init__(self, recipe: Recipe, routing: Routing) -> None:
        self._recipe, self._routing = recipe, routing
        self._maps_TE: dict[tuple[int, int], Tensor] = {}  # by router and number of tokens
        self._seed: int | None = None  # of what is drawn

    def apply(self, model: torch.nn.Module) -> None:
        """To all routers of this model."""
        for number, layer in enumerate(each for each in model.modules() if isinstance(each, MoELayer)):
            layer.router.register_forward_hook(functools.partial(self._planned, number))

    def draw(self, seed: int) -> None:
        """From now on every token goes to experts drawn with equal chances. A map stays until the next draw.

        So a layer that is computed again routes as it did. Only for ranks that exchange no tokens: where the others are
        fake, all ranks must route alike.
        """
        self._maps_TE.clear()
        self._seed = seed

    def _planned(
        self, router: int, _module: object, _inputs: object, output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        probs_TE, map_TE = output
        key = router if self._seed is not None else 0, map_TE.shape[0]
        if key not in self._maps_TE:
            with unset_fake_temporarily():
                self._maps_TE[key] = self._map(*key).to(map_TE.device)
        return probs_TE, self._maps_TE[key]

    def _map(self, router: int, num_tokens: int) -> Tensor:
        """[T, E] of one router, within the experts' capacity."""
        model, training = self._recipe.model, self._recipe.training
        if self._seed is None:
            map_TE = self._routing.routing_map(num_tokens, model.experts_per_token)
        else:
            generator = torch.Generator().manual_seed(self._seed * 1009 + router)
            map_TE = drawn_map(num_tokens, model.num_experts, model.experts_per_token, generator)
        capacity = expert_capacity(model, self._recipe.parallel, training)
        return map_TE if capacity is None else first_tokens(map_TE, capacity, training.pad_to_capacity)


def drawn_map(num_tokens: int, num_experts: int, experts_per_token: int, generator: torch.Generator) -> Tensor:
    """[T, E], True where a token goes to an expert; each token draws different experts, all with the same chance."""
    chosen_TK = torch.rand(num_tokens, num_experts, generator=generator).topk(experts_per_token).indices
    return torch.zeros(num_tokens, num_experts, dtype=torch.bool).scatter_(1, chosen_TK, True)
