"""Stands for torch_npu.utils.collect_env."""


def get_cann_version() -> str:
    """CANN's version."""
    return "9.0.0"
