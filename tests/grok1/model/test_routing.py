"""Drawn routes: the same for a token wherever it lies, others in each layer, and gradients to the router's logits."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grok1.distributed.context_split import part_of_rank
from grok1.megatron.door import TopKRouter
from grok1.model import routing
from grok1.model.routing import RandomRouter

TOKENS, BATCH, EXPERTS = 16, 2, 4


def drawn(
    patch: pytest.MonkeyPatch, tensor: tuple[int, int] = (1, 0), context: tuple[int, int] = (1, 0), **changes: int
) -> torch.Tensor:
    """[S, B, E] of a rank; (size, rank) of its groups."""
    for name, (size, rank) in (("tensor_group", tensor), ("context_group", context)):
        group = SimpleNamespace(size=lambda size=size: size, rank=lambda rank=rank: rank)
        patch.setattr(routing, name, lambda group=group: group)
    router: Any = SimpleNamespace(
        config=SimpleNamespace(sequence_parallel=tensor[0] > 1), **{"seed": 5, "layer_number": 1} | changes
    )
    return RandomRouter._drawn(router, torch.zeros(TOKENS // tensor[0] // context[0], BATCH, EXPERTS))


def test_ranks_that_split_a_sequence_draw_their_parts_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(monkeypatch)
    of_tensor = [drawn(monkeypatch, tensor=(4, rank)) for rank in range(4)]
    assert torch.cat(of_tensor).equal(whole)
    for rank in range(2):
        part = part_of_rank(whole.transpose(0, 1), 2, rank).transpose(0, 1)
        assert drawn(monkeypatch, context=(2, rank)).equal(part)
        both = [drawn(monkeypatch, tensor=(2, place), context=(2, rank)) for place in range(2)]
        assert torch.cat(both).equal(part)


def test_the_draw_is_repeated_and_another_for_each_layer_seed_and_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn(monkeypatch)
    assert first.equal(drawn(monkeypatch))
    assert not any(first.equal(other) for other in _others(monkeypatch))
    assert not first[:, 0].equal(first[:, 1])


def _others(patch: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    yield drawn(patch, layer_number=2)
    yield drawn(patch, seed=6)


def test_gradients_go_to_the_logits_as_if_they_had_been_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopKRouter, "routing", lambda _self, logits: (logits.softmax(-1), logits > 0))
    values = torch.tensor([[[0.5, -1.0, 2.0, 0.0]]])
    monkeypatch.setattr(RandomRouter, "_drawn", lambda _self, _logits: values)
    logits = torch.full_like(values, 7.0, requires_grad=True)
    probs, _ = RandomRouter.routing(object.__new__(RandomRouter), logits)
    assert probs.equal(values.softmax(-1))
    probs[..., 0].sum().backward()
    expected = values.clone().requires_grad_()
    expected.softmax(-1)[..., 0].sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected.grad)
