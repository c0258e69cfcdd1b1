"""What the data sheets say of a chip's memory, by the exact name that its driver prints. Bytes per second.

The peak of its matrix products is in grok1.device.accelerator. A name that is not listed has no entry: never a guess.
Left out on purpose: Ascend910B4, which has two memory sizes, and what the peaks leave out.
"""

from __future__ import annotations

_ASCEND = "Ascend msmodeling tensor_cast/device.py, 1.6 TiB/s"
BANDWIDTHS: dict[str, tuple[float, str]] = {
    "Ascend910B2": (1.6 * 2**40, _ASCEND),
    "Ascend910B3": (1.6 * 2**40, _ASCEND),
    "NVIDIA A100-SXM4-40GB": (1555e9, "NVIDIA A100 data sheet"),
    "NVIDIA A100-SXM4-80GB": (2039e9, "NVIDIA A100 data sheet"),
    "NVIDIA A100-PCIE-40GB": (1555e9, "NVIDIA A100 data sheet"),
    "NVIDIA A100 80GB PCIe": (1935e9, "NVIDIA A100 data sheet"),
    "NVIDIA H100 80GB HBM3": (3350e9, "NVIDIA H100 data sheet, SXM"),
    "NVIDIA H100 PCIe": (2000e9, "NVIDIA H100 data sheet, PCIe"),
    "NVIDIA H200": (4800e9, "NVIDIA H200 data sheet"),
}
