"""Stands for torch_npu.utils.flops_count."""


class FlopsCounter:
    """MindSpeed makes one while it patches; no recipe counts with it."""
