"""Storages are counted while they live, at the size that they have at the time."""

from __future__ import annotations

import torch

from bench.ledger.live_memory import LiveMemory
from grok1.device.storages import resizes_heard


def test_a_storage_that_is_given_up_and_taken_again_counts_by_its_size() -> None:
    """As recomputation does with what it will compute again."""
    memory = LiveMemory()
    kept, other = torch.zeros(10), torch.zeros(3)
    memory.see(kept, "activations")
    memory.see(kept.view(2, 5), "temporary")  # of the same storage
    with resizes_heard(memory.resized):
        kept.untyped_storage().resize_(0)
        assert (memory.bytes, dict(memory.bytes_by_kind)) == (0, {"activations": 0})
        kept.untyped_storage().resize_(40)
        assert memory.bytes_by_kind["activations"] == memory.bytes == 40
        other.untyped_storage().resize_(0)  # of which nothing was said
        assert memory.bytes == 40
    kept.untyped_storage().resize_(0)  # nobody listens any more
    assert memory.bytes == 40
    del kept
    assert memory.bytes == 0


def test_what_is_renamed_keeps_its_size() -> None:
    memory = LiveMemory()
    weight, gradient = torch.zeros(4), torch.zeros(5)
    for tensor in (weight, gradient):
        memory.see(tensor, "temporary")
    memory.rename_all("optimizer")
    memory.rename(weight, "weights")
    assert dict(memory.bytes_by_kind) == {"optimizer": 20, "weights": 16}
    assert memory.bytes == 36
