"""A context group's ranks cut a batch as megatron's own function does."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

from grok1.data.batches import of_context_rank
from grok1.megatron.door import parallel_state

RANKS = 3


@pytest.mark.parametrize("rank", range(RANKS))
def test_the_cut_is_megatrons(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    stock = importlib.import_module("megatron.core.utils").get_batch_on_this_cp_rank
    monkeypatch.setattr(parallel_state, "get_context_parallel_world_size", lambda: RANKS)
    monkeypatch.setattr(parallel_state, "get_context_parallel_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: RANKS)  # which 0.19 asks
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: rank)
    tokens = torch.arange(2 * 24).view(2, 24)
    batch = {"tokens": tokens, "loss_weights": tokens.float()}
    words = {"is_hybrid_cp": False} if "is_hybrid_cp" in inspect.signature(stock).parameters else {}
    theirs = stock(dict(batch), **words)
    ours = of_context_rank({**batch, "key_bias": tokens.view(2, 1, 1, 24)}, RANKS, rank)
    for name, values in theirs.items():
        assert ours[name].equal(values)
    assert ours["key_bias"].shape[-1] == 24  # a query sees keys of other ranks


def test_one_rank_has_all() -> None:
    batch = {"tokens": torch.arange(5)[None]}  # of a length that is not cut
    assert of_context_rank(batch, 1, 0) is batch
