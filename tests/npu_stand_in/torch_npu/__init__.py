"""Stands for torch_npu: its "npu" is the CPU. Tests import it in place of Ascend's; see README.md beside it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

__version__ = "2.7.1.post6"

# torch_npu's own import warns, of which a program that makes warnings errors must not die
warnings.warn("the owner of CANN's folder is not this user", UserWarning, stacklevel=2)
os.environ.setdefault("ASCEND_HOME_PATH", str(Path(__file__).parent))  # MindSpeed asks where its compiler is

torch.utils.rename_privateuse1_backend("npu")

from torch_npu import compiled, hccl, kernels, npu, profiler  # noqa: E402
from torch_npu._C import _distributed_c10d  # noqa: E402
from torch_npu.kernels import *  # noqa: E402, F403

unsupported_dtype = [torch.quint8, torch.quint4x2, torch.quint2x4, torch.qint32, torch.qint8]
torch.npu = npu
compiled.install()
hccl.install()
kernels.install()

__all__ = ["kernels", "npu", "profiler"]
