"""Stands for torch_npu.npu.amp: nobody casts automatically, so torch's own will do."""

from torch.cuda.amp import autocast_mode, common, grad_scaler

__all__ = ["autocast_mode", "common", "grad_scaler"]
