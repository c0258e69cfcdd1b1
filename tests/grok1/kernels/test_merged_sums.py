"""The merged dispatch adds parts in float32 and rounds once, in bfloat16 too; and routes there and back by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grok1.kernels.dispatch import MergedDispatcher, _Exchange, _Route


class SumsSeen(TorchDispatchMode):
    """The types that additions under it gave: sums, and one tensor to another."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if str(func).startswith(("aten.sum", "aten.add")):
            self.types.append(found.dtype)
        return found


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """An exchange that brings back what is sent, as far as it fits, and keeps the sizes."""
    sizes: list[tuple[list[int], list[int]]] = []

    def exchange(incoming: Tensor, outgoing: Tensor, received: list[int], sent: list[int], group: Any) -> None:
        sizes.append((received, sent))
        assert (len(incoming), len(outgoing)) == (sum(received), sum(sent))
        incoming.copy_(outgoing)

    monkeypatch.setattr(torch.distributed, "all_to_all_single", exchange)
    return sizes


def exchange_of(pairs: int, copies: int) -> _Exchange:
    """Two ranks hold experts, each expert cut over `copies` ranks; this rank gets what it sends."""
    experts = torch.tensor([[pairs]] * (2 * copies))
    return _Exchange.plan(sent=[pairs, pairs], copies=copies, received_GL=experts, group=None)  # type: ignore[arg-type]  # `wire` needs none


def test_parts_of_a_result_are_added_in_float32_and_rounded_once(wire: list[Any]) -> None:
    """In bfloat16 each 1 that is added to 256 would be lost."""
    parts = torch.tensor([256.0, 1.0, 1.0, 2.0, 512.0, 1.0, 1.0, 1.0])  # four ranks with the first expert, four
    plan = exchange_of(1, copies=4)
    with SumsSeen() as seen:
        result = plan.collect(parts[:, None].to(torch.bfloat16))
    assert result.dtype == torch.bfloat16
    assert result.flatten().tolist() == [260.0, 516.0]
    assert seen.types
    assert set(seen.types) == {torch.float32}, "on other devices torch may add in the type that it is given"
    assert wire == [([1] * 8, [1] * 8)]


def test_each_part_is_added_to_those_of_its_own_pair(wire: list[Any]) -> None:
    """Two pairs for each of two experts, which two ranks share: the parts come back by rank, then by pair."""
    plan = exchange_of(2, copies=2)
    assert plan.collect(torch.tensor([1.0, 2, 10, 20, 100, 200, 1000, 2000])[:, None]).flatten().tolist() == [
        11.0,
        22.0,
        1100.0,
        2200.0,
    ]


def test_a_pair_goes_to_every_rank_that_holds_a_part_of_its_expert(wire: list[Any]) -> None:
    plan = exchange_of(1, copies=3)
    assert plan.spread(torch.tensor([[1.0], [2.0]])).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert plan.tokens_per_expert.tolist() == [6]


def test_received_pairs_are_sorted_by_expert_in_the_order_of_ranks_and_go_back_as_they_came() -> None:
    plan = _Exchange.plan([0, 0], 1, torch.tensor([[1, 2], [2, 0], [0, 1]]), None)  # type: ignore[arg-type]  # nothing is sent
    came = torch.arange(6)  # one pair for the first expert and two for the second, then two, then one
    assert plan.received == [3, 2, 1]
    assert plan.tokens_per_expert.tolist() == [3, 3]
    by_expert = came[plan.by_expert]
    assert by_expert.tolist() == [0, 3, 4, 1, 2, 5]
    assert by_expert[plan.as_it_came].tolist() == came.tolist()


def test_a_rank_gets_of_every_rank_the_pairs_of_its_own_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three expert ranks of two experts each, cut over two ranks; this one is of the second two experts."""
    counts_GE = torch.arange(36).view(6, 6)
    mine_E = counts_GE[3]

    def gather(gathered: Tensor, mine: Tensor, group: Any) -> None:
        assert mine.equal(mine_E)
        gathered.copy_(counts_GE.flatten())

    monkeypatch.setattr(torch.distributed, "all_gather_into_tensor", gather)
    monkeypatch.setattr(MergedDispatcher, "tp_ep_group", None, raising=False)
    dispatcher = MergedDispatcher.__new__(MergedDispatcher)
    dispatcher.tp_size, dispatcher.ep_size = 2, 3
    dispatcher.num_experts, dispatcher.num_local_experts, dispatcher.local_expert_indices = 6, 2, [2, 3]
    plan = dispatcher._plan(mine_E)
    assert plan.sent == [18 + 19, 20 + 21, 22 + 23]
    assert plan.copies == 2
    assert plan.received == [2 + 3, 8 + 9, 14 + 15, 20 + 21, 26 + 27, 32 + 33]
    assert plan.tokens_per_expert.tolist() == [2 + 8 + 14 + 20 + 26 + 32, 3 + 9 + 15 + 21 + 27 + 33]


def test_a_tokens_results_are_weighted_and_added_in_float32() -> None:
    """256 of one expert and halves of four others, whose sum is 2; the weights are float32, as the router's are."""
    dispatcher = MergedDispatcher.__new__(MergedDispatcher)
    dispatcher.hidden_shape = torch.Size([1, 1, 1])
    dispatcher._weights = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]]) * (1 + 2**-12)
    order = torch.arange(5)
    dispatcher._route = _Route(order, order, 5, None)
    results = torch.tensor([[256.0], [1.0], [1.0], [1.0], [1.0]], dtype=torch.bfloat16)
    with SumsSeen() as seen:
        output = dispatcher.bring_back(results)
    assert (output.dtype, output.shape) == (torch.bfloat16, (1, 1, 1))
    assert output.item() == 258.0
    assert set(seen.types) == {torch.float32}


def test_on_one_rank_tokens_go_to_their_experts_and_back_with_their_gradients() -> None:
    """Expert e multiplies by e + 1, as a sum over experts without any dispatch does."""
    torch.manual_seed(0)
    hidden_SBH = torch.randn(3, 2, 5, requires_grad=True)
    routing_map = torch.zeros(6, 4, dtype=torch.bool).scatter_(1, torch.rand(6, 4).topk(2).indices, True)
    probs_TE = (torch.rand(6, 4) * routing_map).requires_grad_()
    dispatcher = MergedDispatcher.__new__(MergedDispatcher)
    dispatcher.tp_size = dispatcher.ep_size = 1
    tokens_RH, counts_L, weights_R = dispatcher.send(hidden_SBH, probs_TE, routing_map)
    assert counts_L.tolist() == routing_map.sum(dim=0).tolist()
    assert weights_R.tolist() == [1.0] * 12
    expert_R = torch.arange(4).repeat_interleave(counts_L)
    output = dispatcher.bring_back(tokens_RH * (expert_R[:, None] + 1))
    expected = ((probs_TE * (torch.arange(4) + 1)).sum(dim=1)[:, None] * hidden_SBH.view(6, 5)).view(3, 2, 5)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn(3, 2, 5)
    ours = torch.autograd.grad(output, (hidden_SBH, probs_TE), upstream)
    theirs = torch.autograd.grad(expected, (hidden_SBH, probs_TE), upstream)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1][routing_map], theirs[1][routing_map])
