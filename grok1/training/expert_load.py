"""How many tokens each expert got in each layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from grok1.megatron.door import MoELayer
from grok1.megatron.protocols import Router


class ExpertLoad:
    """Counts the tokens that this rank's routers send to each expert, by layer."""

    def __init__(self, model: torch.nn.Module, is_padded: bool) -> None:
        self._is_padded = is_padded  # routing maps hold tokens of probability 0, which count as none
        self._maps_by_layer: dict[int, list[Tensor]] = {}
        self._routers = [module.router for module in model.modules() if isinstance(module, MoELayer)]
        self._counts_by_layer = self._nothing()
        self._watch()

    def _nothing(self) -> dict[int, Tensor]:
        """No tokens of any expert."""
        device = torch.cuda.current_device()
        return {
            _layer(each): torch.zeros(each.config.num_moe_experts, dtype=torch.int64, device=device)
            for each in self._routers
        }

    def _watch(self) -> None:
        self._hooks = [router.register_forward_hook(self._keep) for router in self._routers]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave the routers alone inside, as if nobody counted."""
        for hook in self._hooks:
            hook.remove()
        try:
            yield
        finally:
            self._watch()

    def _keep(self, router: Router, _inputs: object, output: tuple[Tensor, Tensor]) -> None:
        if torch.is_grad_enabled():  # recomputation runs the router twice, first without gradients
            probs_TE, map_TE = output
            self._maps_by_layer.setdefault(_layer(router), []).append(
                map_TE & (probs_TE != 0) if self._is_padded else map_TE
            )

    def settle(self) -> list[tuple[int, Tensor]]:
        """Count the routing maps kept since the last call: each layer's tokens, and how many each expert got [E].

        Once a step is cheaper than once a router.
        """
        tokens = [sum(map(len, maps_TE)) for maps_TE in self._maps_by_layer.values()]
        new = {layer: torch.cat(maps_TE).sum(dim=0) for layer, maps_TE in self._maps_by_layer.items()}
        for layer, counts_E in new.items():
            self._counts_by_layer[layer].add_(counts_E)
        self._maps_by_layer = {}
        return list(zip(tokens, new.values(), strict=True))

    def drain(self) -> dict[int, list[int]]:
        """Tokens per expert by layer index since the last drain."""
        self.settle()
        counts = {layer: counts_E.tolist() for layer, counts_E in self._counts_by_layer.items()}
        self._counts_by_layer = self._nothing()
        return counts


def _layer(router: Router) -> int:
    return int(router.layer_number) - 1  # megatron counts layers from 1
