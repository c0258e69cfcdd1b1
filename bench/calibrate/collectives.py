"""Seconds of each collective by size of group and bytes, with all ranks of the job alive, and the line through them.

A call of n bytes takes alpha + n / beta: least squares of log time, so that small calls count as much as large ones.
On a CPU, seconds are a rank's share of the cores: wall seconds x cores / ranks where ranks share them, else wall.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import least_squares

from bench.plan.measured import TimedCollective
from grok1.config.recipe import Recipe
from grok1.distributed.rendezvous import Rendezvous

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

_SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24)  # bytes of the larger side
_MOST_BYTES = 1 << 26  # of all ranks together, to keep the time bearable
_CALLS, _WARM_UP = 9, 2
OPERATIONS = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single", "send")


@dataclass(frozen=True)
class CollectiveTime:
    """One rank's median seconds of a call."""

    operation: str
    ranks: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Line:
    """alpha + bytes / beta, and the median of |log(measured / fitted)|."""

    alpha_seconds: float
    beta_bytes_per_second: float
    residual: float


def run_rank(recipe: Recipe, where: Rendezvous, emit: Callable[[CollectiveTime], None]) -> None:
    """Time every operation on groups of 2, 4, ... ranks, all groups of a size at once."""
    import torch.distributed as dist

    from grok1.distributed.groups import joined

    with joined(where, recipe.parallel, recipe.training.seed):
        size = 2
        while size <= where.world_size:
            starts = range(0, where.world_size, size)
            groups = [dist.new_group(list(range(start, start + size))) for start in starts]
            own = groups[where.rank // size]
            for operation in OPERATIONS if size == 2 else OPERATIONS[:-1]:
                for num_bytes in (each for each in _SIZES if each * where.world_size <= _MOST_BYTES):
                    emit(CollectiveTime(operation, size, num_bytes, _seconds(operation, own, size, num_bytes)))
            size *= 2


def _seconds(operation: str, group: dist.ProcessGroup, size: int, num_bytes: int) -> float:
    import torch
    import torch.distributed as dist

    from grok1.device import measuring

    device = torch.cuda.current_device()
    whole = torch.zeros(max(size, num_bytes // 4 // size * size), device=device)
    part = torch.zeros(whole.numel() // size, device=device)
    call = _call(operation, group, whole, part)
    taken = []
    dist.barrier()
    for _ in range(_WARM_UP + _CALLS):
        measuring.synchronize()
        start = time.perf_counter()
        call()
        measuring.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[_WARM_UP:])


def _call(operation: str, group: dist.ProcessGroup, whole: torch.Tensor, part: torch.Tensor) -> Callable[[], object]:
    import torch
    import torch.distributed as dist

    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if operation == "all_gather_into_tensor":
        return lambda: dist.all_gather_into_tensor(whole, part, group=group)
    if operation == "reduce_scatter_tensor":
        return lambda: dist.reduce_scatter_tensor(part, whole, group=group)
    other = torch.empty_like(whole)
    if operation == "all_to_all_single":
        return lambda: dist.all_to_all_single(other, whole, group=group)
    members = dist.get_process_group_ranks(group)
    peer = members[1 - members.index(dist.get_rank())]
    return lambda: _swap(whole, other, peer, group)


def _swap(sent: Any, received: Any, peer: int, group: Any) -> None:
    """A send and a receive, as a pipeline's neighbours exchange them; each counts as one call."""
    import torch.distributed as dist

    operations = [dist.P2POp(dist.isend, sent, peer, group), dist.P2POp(dist.irecv, received, peer, group)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


# ---- the lines -----------------------------------------------------------------------------------------


def lines(found: Sequence[CollectiveTime], job_ranks: int, cores: int | None) -> list[TimedCollective]:
    """A row for each operation and size of group; of all ranks the median. None cores: each rank has its device."""
    share = 1.0 if cores is None else min(1.0, cores / job_ranks)
    by_kind: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        calls = 2.0 if each.operation == "send" else 1.0  # what was timed is a send and a receive
        by_kind[(each.operation, each.ranks)][each.bytes].append(share * each.seconds / calls)
    rows = []
    for (operation, ranks), by_bytes in by_kind.items():
        line = fitted({size: statistics.median(seconds) for size, seconds in by_bytes.items()})
        rows.append(
            TimedCollective(
                operation=operation,
                ranks=ranks,
                job_ranks=job_ranks,
                call_seconds=line.alpha_seconds,
                bytes_a_second=line.beta_bytes_per_second,
                residual=line.residual,
            )
        )
    return rows


def fitted(seconds_by_bytes: Mapping[int, float]) -> Line:
    """alpha and beta by least squares of log time; both positive.

    Raises:
        ValueError: fewer than two sizes, or a time that is not positive.
    """
    sizes, seconds = (np.array(each, dtype=float) for each in zip(*sorted(seconds_by_bytes.items()), strict=True))
    if len(sizes) < 2 or (seconds <= 0).any():
        raise ValueError("a line needs positive times of at least two sizes; measure more sizes of this collective")
    start = np.log([seconds.min(), max(np.ptp(seconds), seconds.min()) / max(np.ptp(sizes), 1.0)])

    def misses(logs: Any) -> Any:
        return np.log(np.exp(logs[0]) + np.exp(logs[1]) * sizes) - np.log(seconds)

    found = least_squares(misses, start, x_scale="jac")
    alpha, per_byte = np.exp(found.x)
    beta = min(1e19, 1.0 / max(per_byte, 1e-19))
    return Line(float(alpha), float(beta), float(np.median(np.abs(misses(found.x)))))


def cores_of(device: str) -> int | None:
    """Cores that ranks share; none where each rank has a device."""
    return (
        len(os.sched_getaffinity(0))
        if device == "cpu" and hasattr(os, "sched_getaffinity")
        else (os.cpu_count() if device == "cpu" else None)
    )
