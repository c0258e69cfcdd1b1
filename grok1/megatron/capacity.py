"""Which tokens an expert of limited capacity takes, where their position decides."""

from __future__ import annotations

import torch
from torch import Tensor


def first_tokens(map_TE: Tensor, capacity: int, is_padded: bool) -> Tensor:
    """Of a map of tokens to experts, the first `capacity` tokens of each expert; padded: exactly as many, with others.

    The others are the first tokens that did not choose that expert.
    """
    first = map_TE.int().argsort(dim=0, descending=True, stable=True)[:capacity]
    mask_TE = torch.zeros_like(map_TE).scatter(0, first, True)
    return mask_TE if is_padded else mask_TE & map_TE
