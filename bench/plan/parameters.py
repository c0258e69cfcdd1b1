"""How many parameters the ranks of each stage hold, in closed form. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.plan.layouts import Ints, Places


@dataclass(frozen=True)
class HeldParameters:
    """Of one rank, a row a place, as the ledger tells them apart."""

    dense: Ints  # attention, norms and routers
    expert: Ints
    embedding: Ints  # its rows, and the head's

    @property
    def total(self) -> Ints:
        """Their sum."""
        return self.dense + self.expert + self.embedding


def parameters(places: Places) -> HeldParameters:
    """TP splits attention's matrices and the vocabulary, EP and ETP the experts; norms and routers are whole."""
    model, of, layers = places.of.recipe.model, places.of, places.layers
    hidden = model.hidden_size
    whole = hidden * (4 + model.num_experts)  # four norms a layer, and the router
    dense = layers * (places.of.recipe.attention_parameters // of.tensor + whole) + hidden * places.is_last
    expert = layers * (model.num_experts // of.expert) * (places.of.recipe.expert_parameters // of.expert_tensor)
    # tied or not, the last stage of several has rows of its own
    ends = np.where(model.tie_embeddings & (of.pipeline == 1), 1, places.is_first + places.is_last.astype(np.int64))
    return HeldParameters(dense, expert, ends * (model.vocab_size * hidden // of.tensor))
