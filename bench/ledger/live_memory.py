"""Bytes of the tensor storages that are alive, by what they are. What a kernel allocates inside itself is not seen."""

from __future__ import annotations

import weakref
from collections import defaultdict

from torch import Tensor, UntypedStorage


class LiveMemory:
    """All storages that were seen and have not been freed since; a kind is weights, gradients, activations, ..."""

    def __init__(self) -> None:
        self.bytes = 0
        self.bytes_by_kind: dict[str, int] = defaultdict(int)
        self._kinds: dict[int, tuple[str, int]] = {}  # by the storage's identity while it lives

    def see(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor's storage from now on, until it is freed; one that is known keeps its kind."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._kinds or not size:
            return
        self._kinds[key] = (kind, size)
        self.bytes += size
        self.bytes_by_kind[kind] += size
        weakref.finalize(storage, self._free, key)

    def rename(self, tensor: Tensor, kind: str) -> None:
        """Say what a live tensor is."""
        key = tensor.untyped_storage()._cdata
        old, size = self._kinds.get(key, (kind, 0))
        self._kinds[key] = (kind, size)
        self.bytes_by_kind[old] -= size
        self.bytes_by_kind[kind] += size

    def rename_all(self, kind: str) -> None:
        """Say that all that is alive is of this kind."""
        self._kinds = {key: (kind, size) for key, (_, size) in self._kinds.items()}
        self.bytes_by_kind = defaultdict(int, {kind: self.bytes})

    def resized(self, storage: UntypedStorage) -> None:
        """A storage that is known has another size now."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._kinds:
            kind, before = self._kinds[key]
            self._kinds[key] = (kind, size)
            self.bytes += size - before
            self.bytes_by_kind[kind] += size - before

    def _free(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        self.bytes -= size
        self.bytes_by_kind[kind] -= size
