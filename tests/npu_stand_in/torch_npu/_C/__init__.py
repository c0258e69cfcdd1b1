"""Stands for torch_npu._C."""
