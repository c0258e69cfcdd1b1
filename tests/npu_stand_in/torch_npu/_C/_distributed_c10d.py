"""Stands for torch_npu._C._distributed_c10d."""

from torch_npu.hccl import ProcessGroupHCCL

__all__ = ["ProcessGroupHCCL"]
