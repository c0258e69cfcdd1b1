"""Notices when a tensor's memory is given up, or taken again, while the tensor lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def resizes_heard(hear: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Call `hear` after each change of a storage's size inside, as recomputation makes."""
    resize = torch.UntypedStorage.resize_

    def resize_and_tell(storage: torch.UntypedStorage, size: int) -> None:
        resize(storage, size)
        hear(storage)

    torch.UntypedStorage.resize_ = resize_and_tell  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
