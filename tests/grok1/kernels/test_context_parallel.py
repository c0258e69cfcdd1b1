"""How a sequence is cut for a context group and put together again, without ranks."""

from __future__ import annotations

import pytest
import torch

from grok1.distributed.context_split import chunks_of_rank, part_of_rank
from grok1.kernels.context_parallel import by_rank, in_order


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_rank_has_as_many_pairs_of_query_and_key(ranks: int) -> None:
    """A query in chunk n sees n whole chunks of keys and half of its own."""
    chunks = [chunks_of_rank(ranks, rank) for rank in range(ranks)]
    assert sorted(number for pair in chunks for number in pair) == list(range(2 * ranks))
    assert len({sum(pair) for pair in chunks}) == 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_a_sequence_put_together_from_its_parts_is_the_sequence(ranks: int) -> None:
    tokens = torch.arange(2 * ranks * 5)
    parts = [part_of_rank(tokens[None], ranks, rank)[0] for rank in range(ranks)]
    of_ranks = by_rank(tokens.unflatten(0, (2 * ranks, -1)))
    assert all(mine.flatten().equal(part) for mine, part in zip(of_ranks, parts, strict=True))
    assert in_order(of_ranks).flatten().equal(tokens)
    assert in_order(torch.stack((of_ranks, of_ranks)), dim=1).flatten(1).equal(torch.stack((tokens, tokens)))
