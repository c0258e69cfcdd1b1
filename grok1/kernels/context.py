"""The type of autograd's `ctx`, which torch does not declare whole. Each function's own adds what it keeps there."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Context(Protocol):
    """What `forward` keeps for `backward`."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors, None too."""
        ...
