"""gloo for many ranks on a few cores: a process's groups share one connection loop, and each has one worker.

torch gives every group a loop thread of its own, which wakes up a hundred times a second whether there is traffic or
not: with megatron's 17 groups a rank and 16 ranks that is 27,000 wake-ups a second (torch 2.13). And it gives every
group two worker threads, which a group whose operations wait for each other anyway has no use for.
"""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist

BACKEND = "shared_gloo"  # torch refuses a second backend of gloo's own name


@functools.cache
def register() -> None:
    """Make the backend known to torch.distributed; the first group connects it."""
    dist.Backend.register_backend(BACKEND, _create, devices=["cpu"])


def _create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices, options._threads, options._timeout = _devices(), 1, timeout
    return gloo(store, rank, size, options)


@functools.cache
def _devices() -> list[Any]:
    """One for each interface of GLOO_SOCKET_IFNAME, as in torch's own gloo; without it, the host name's."""
    names = os.environ.get("GLOO_SOCKET_IFNAME")
    if not names:
        return [dist.ProcessGroupGloo.create_default_device()]
    return [dist.ProcessGroupGloo.create_device(interface=name) for name in names.split(",")]
