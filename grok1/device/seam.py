"""The seam: makes `torch.cuda` mean this device before megatron is imported.

megatron-core is written for CUDA. `activate()` runs once a process, before any import of megatron: on cuda it checks,
on npu it lets torch_npu and MindSpeed do their patching in the order they need, on cpu it applies grok1.device.cpu.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch

from grok1.device import gloo, mailboxes
from grok1.device.accelerator import (
    check_mindspeed_installed,
    import_torch_npu,
    use_cuda,
    use_npu,
)
from grok1.device.cpu import use_cpu
from grok1.device.kind import DeviceError, Kind, activated_kind, chosen_recipe, device_kind, set_activated_kind
from grok1.device.mindspeed_options import mindspeed_flags
from grok1.device.traffic import count_traffic

_BACKENDS: dict[Kind, str] = {"cpu": gloo.BACKEND, "cuda": "nccl", "npu": "hccl"}


def activate() -> Kind:
    """Make torch.cuda mean this process's device. Must run before megatron is imported; later calls do nothing."""
    if (active := activated_kind()) is not None:
        return active
    chosen = device_kind()
    if "megatron.core" in sys.modules:
        raise DeviceError("megatron was imported before grok1.device.seam; import grok1.megatron.door first")
    if chosen == "npu":
        use_npu(mindspeed_flags(chosen_recipe()), before_mindspeed=count_traffic)
    elif chosen == "cuda":
        use_cuda()
        count_traffic()
    else:
        use_cpu()
        count_traffic()
    set_activated_kind(chosen)
    return chosen


def backend() -> str:
    """The torch.distributed backend of this device."""
    if device_kind() == "cpu":
        gloo.register()
    return _BACKENDS[device_kind()]


def check_available(device: Kind, local_ranks: int) -> None:
    """Refuse a device that is absent or too small for this many ranks, before any process starts."""
    if device == "npu":
        import_torch_npu(local_ranks)
        check_mindspeed_installed()
    elif device == "cuda":
        use_cuda(local_ranks)


def memory_bytes(device: Kind) -> int:
    """Memory of the first processor of that kind on this machine."""
    module: Any = torch.cuda if device == "cuda" else importlib.import_module("torch_npu").npu
    return int(module.get_device_properties(0).total_memory)


def bind(local_rank: int, node: int = 0) -> None:
    """Give this process its processor, and say on which of the job's machines it is."""
    torch.cuda.set_device(local_rank)
    mailboxes.be_on(node)
