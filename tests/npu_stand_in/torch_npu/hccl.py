"""Stands for HCCL: a process group over gloo that goes by HCCL's name."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from grok1.device import cpu, gloo

# by the name that operators with a collective inside are given; without a reference in Python, torch would give back
# a group of gloo's own class
GROUPS: dict[str, ProcessGroupHCCL] = {}


class ProcessGroupHCCL(dist.ProcessGroupGloo):
    """gloo, with the name of a communicator."""

    class Options:
        """HCCL's settings of a group."""

        hccl_config: dict[str, object] = {}

    def get_hccl_comm_name(self, rank: int, init_comm: bool = True) -> str:
        """The name that finds this communicator again."""
        return f"stand-in-{id(self)}"


def install() -> None:
    """Make "hccl" a backend of torch.distributed, with what HCCL takes and gloo does not."""
    dist.Backend.register_backend("hccl", _create, devices=["cpu", "npu"])
    dist.is_hccl_available = lambda: True
    torch._C._get_accelerator = lambda check=None: torch.device("cpu")  # barrier asks where its tensor belongs
    leave = dist.destroy_process_group

    def destroy_process_group(group: dist.ProcessGroup | None = None) -> None:
        leave(group)
        if group is None:
            GROUPS.clear()

    dist.destroy_process_group = destroy_process_group
    cpu._pad_uneven_collectives()
    cpu._take_numpy_split_sizes()


def _create(store: object, rank: int, size: int, timeout: timedelta) -> ProcessGroupHCCL:
    options = dist.ProcessGroupGloo._Options()
    options._devices, options._threads, options._timeout = gloo._devices(), 1, timeout
    group = ProcessGroupHCCL(store, rank, size, options)
    GROUPS[group.get_hccl_comm_name(rank)] = group
    return group
