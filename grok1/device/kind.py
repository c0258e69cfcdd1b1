"""Which device this process is for: cpu, cuda or npu. No torch until it is asked."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, Literal

Kind = Literal["cpu", "cuda", "npu"]
KINDS: tuple[Kind, ...] = ("cpu", "cuda", "npu")
KIND_VARIABLE = "GROK1_DEVICE"  # how a launcher tells its ranks; a rank cannot change its mind later


class DeviceError(ValueError):
    """The asked-for device cannot be used here; the message says what is missing and what to do."""


def installed(module: str) -> bool:
    """Whether it can be imported, without importing it (its parents are)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package, or a module without a spec
        return module in sys.modules


def detect() -> Kind:
    """The device this machine has: npu, else cuda, else cpu."""
    import torch

    if installed("torch_npu"):
        return "npu"
    return "cuda" if torch.cuda.device_count() else "cpu"


def device_kind() -> Kind:
    """The device of this process: what it was activated for, else what the launcher said, else what there is."""
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "_grok1_device"):
        active: Kind = torch._grok1_device
        return active
    named = os.environ.get(KIND_VARIABLE, "")
    if not named:
        return detect()
    if named not in KINDS:
        raise DeviceError(f"device {named!r} is none of {', '.join(KINDS)}; unset {KIND_VARIABLE} or choose one")
    return named


def default_device() -> str:
    """npu or cuda where the machine has one, else cpu; imports torch only where an accelerator is likely."""
    if os.path.exists("/dev/davinci_manager"):
        return "npu"
    return "cuda" if os.path.exists("/dev/nvidiactl") else "cpu"
