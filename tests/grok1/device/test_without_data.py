"""The fake process group of a rank alone: every number that it leaves was written by somebody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from grok1.device.without_data import init_fake_process_group, noise_received, own_share_received


@pytest.fixture
def second_of_four() -> Iterator[None]:
    init_fake_process_group(rank=1, world_size=4)
    yield
    dist.destroy_process_group()


def scatter(output: torch.Tensor, whole: torch.Tensor) -> None:
    """As dist.reduce_scatter_tensor does, whose name is another in later versions of torch."""
    group: Any = dist.group.WORLD
    group._reduce_scatter_base(output, whole).wait()


@pytest.mark.usefixtures("second_of_four")
def test_a_rank_receives_its_own_share() -> None:
    """On each torch; of equal parts ours leaves what 2.13 leaves itself, of others what it holds."""
    with own_share_received():
        received = torch.full((2,), torch.nan)
        scatter(received, torch.arange(8.0))
        assert received.tolist() == [2.0, 3.0]
        exchanged = torch.full((8,), torch.nan)
        dist.all_to_all_single(exchanged, torch.arange(8.0))
        assert exchanged.tolist() == list(range(8))
        uneven = torch.full((6,), torch.nan)
        dist.all_to_all_single(uneven, torch.arange(4.0), [1, 2, 1, 2], [1, 1, 1, 1])
        assert uneven.isfinite().all()


@pytest.mark.usefixtures("second_of_four")
def test_nothing_that_a_rank_alone_receives_is_left_as_it_was() -> None:
    with noise_received():
        received, exchanged, sent = (
            torch.full((2,), torch.nan),
            torch.full((8,), torch.nan),
            torch.full((3,), torch.nan),
        )
        scatter(received, torch.arange(8.0))
        dist.all_to_all_single(exchanged, torch.arange(8.0))
        dist.irecv(sent, 0)
    for each in (received, exchanged, sent):
        assert each.isfinite().all()
