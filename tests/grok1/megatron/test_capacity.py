"""Which pairs an expert of limited capacity takes, counted by hand, by the function that megatron's router calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grok1.megatron import door  # patches megatron
from grok1.megatron.capacity import first_tokens
from tests.lines import LINE

# tokens by rows; each goes to one expert: five to expert 0, three to expert 1
LOGITS_TE = torch.tensor(
    [[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [2.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 3.0]]
)
CHOICES = [0, 0, 1, 0, 0, 1, 0, 1]
FACTOR = 0.5  # of 8 pairs for 2 experts: 2 tokens each


def kept(policy: str, is_padded: bool) -> tuple[list[list[int]], torch.Tensor]:
    """(tokens that each expert takes, probabilities [T, E])."""
    from megatron.core.transformer.moe import router

    module: Any = router
    if LINE == "0.12":
        probs, taken, _ = module.topk_softmax_with_capacity(
            LOGITS_TE, 1, capacity_factor=FACTOR, drop_policy=policy, pad_to_capacity=is_padded, use_pre_softmax=True
        )
    else:
        chosen = torch.nn.functional.one_hot(torch.tensor(CHOICES), 2).bool()
        probs, taken = module.apply_router_token_dropping(
            LOGITS_TE.softmax(-1) * chosen, chosen, 1, FACTOR, policy, is_padded
        )
    return [taken[:, expert].nonzero().flatten().tolist() for expert in (0, 1)], probs


def test_by_probability_the_least_likely_are_dropped() -> None:
    taken, _ = kept("probs", is_padded=False)
    assert taken == [[3, 6], [2, 7]]


def test_by_position_the_last_are_dropped() -> None:
    taken, probs = kept("position", is_padded=False)
    assert taken == [[0, 1], [2, 5]]
    assert probs[0, 0].item() == pytest.approx(torch.tensor([3.0, 0.0]).softmax(-1)[0].item())
    assert (probs != 0).sum() == 4


def test_any_number_of_tokens_keeps_its_first() -> None:
    """Of 8 ones and of 64, torch's top-k takes the last ones and some in the middle."""
    for tokens in (8, 64, 512):
        everywhere = torch.ones(tokens, 2, dtype=torch.bool)
        assert first_tokens(everywhere, 4, is_padded=False)[:, 0].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_padding_fills_up_with_others_of_probability_zero() -> None:
    few = torch.tensor([[0, 1], [1, 1], [0, 1], [0, 0]]).bool()
    assert first_tokens(few, 2, is_padded=False).sum(dim=0).tolist() == [1, 2]
    assert first_tokens(few, 2, is_padded=True).int().T.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    taken, probs = kept("position", is_padded=True)
    assert [len(tokens) for tokens in taken] == [2, 2]
    assert (probs != 0).sum() == 4


def test_the_patch_is_the_lines() -> None:
    names = {getattr(patch, "func", patch).__name__ for patch in door.PATCHES}  # some are partial ones
    assert ("drop_the_last_tokens" if LINE == "0.12" else "drop_the_last_tokens_of_a_map") in names
