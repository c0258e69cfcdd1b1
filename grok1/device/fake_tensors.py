"""torch's fake tensors, as their constructor makes them, in a quarter of its time. torch 2.7 to 2.13, any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


class FakeTensors:
    """Makes fake tensors of one FakeTensorMode; to be called where no dispatch mode listens."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._guard = (  # of a pointer to data that is not there
            torch._C._set_warn_deprecated_on_mutable_data_ptr
            if mode._allow_unsafe_data_ptr_access
            else torch._C._set_throw_on_mutable_data_ptr
        )
        self._alike: dict[torch.device, dict[str, Any]] = {}  # what each on a device holds beside its shape

    def make(self, bare: Tensor, device: torch.device) -> FakeTensor:
        """One on that device, with the shape and the storage of `bare`, which is on the meta device."""
        alike = self._alike.get(device)
        if alike is None:
            first = FakeTensor(self._mode, bare, device)
            self._alike[device] = dict(vars(first))
            return first
        made = Tensor._make_subclass(FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=device)
        self._guard(made)
        vars(made).update(alike)
        return made
