"""Collectives in each kind of group of the layout: right numbers first, then the time of a call.

A call of n bytes takes alpha + n / beta: alpha [s] is what a small call costs, beta [bytes/s] what a large one moves.
Bytes are those that one rank sends in the best algorithm (2 (g - 1) / g of an all-reduce in a group of g), so that beta
compares with a link's speed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.doctor.findings import Finding, failed, measured, passed
from grok1.config.recipe import Recipe
from grok1.device.kind import device_kind
from grok1.distributed.rendezvous import Rendezvous

if TYPE_CHECKING:
    import torch.distributed as dist

# what a group inside one machine reaches over any direct link; with less, it goes through the host or the network
LEAST_BYTES_PER_SECOND = 2e9
MOST_ALPHA_SECONDS = 1e-3
_ELEMENTS = (256, 16 << 10, 1 << 18)  # fp32, of an all-reduce on a CPU
_ACCELERATOR_ELEMENTS = (256, 64 << 10, 4 << 20, 32 << 20)
_CALLS = 5


@dataclass(frozen=True)
class GroupTimes:
    """One rank's calls in one group: what was wrong, and seconds by the bytes that a rank sends."""

    group: str
    size: int
    rank: int
    wrong: str
    seconds_by_bytes: dict[float, float]


@dataclass(frozen=True)
class Line:
    """The fitted cost of a call."""

    alpha_seconds: float
    beta_bytes_per_second: float


def run_rank(recipe: Recipe, where: Rendezvous, emit: Callable[[GroupTimes], None]) -> None:
    """Try every kind of group that has more than one rank."""
    from grok1.distributed.groups import group_names, joined

    with joined(where, recipe.parallel, recipe.training.seed):
        by_name: dict[str, dist.ProcessGroup | None] = {}
        for group, name in group_names().items():  # several groups may have one name; they have the same ranks
            by_name.setdefault(name, group)
        for name, group in by_name.items():
            try_group(group, name, where.rank, emit)


def try_group(group: dist.ProcessGroup | None, name: str, rank: int, emit: Callable[[GroupTimes], None]) -> None:
    """Check and time one group; None is the whole job. Groups of one rank exchange nothing."""
    import torch.distributed as dist

    members = dist.get_process_group_ranks(dist.group.WORLD if group is None else group)
    if len(members) < 2:
        return
    wrong = next(iter(wrong_results(group, members, rank)), "")
    seconds = _seconds_by_bytes(group, len(members))  # also after a wrong result: the others wait for this rank
    emit(GroupTimes(name, len(members), rank, wrong, seconds))


def wrong_results(group: Any, members: Sequence[int], rank: int) -> list[str]:
    """What is not what it must be, of small calls whose results are whole numbers."""
    import torch
    import torch.distributed as dist

    here = torch.cuda.current_device()
    size, place = len(members), list(members).index(rank)
    own = torch.full((4,), float(rank + 1), device=here)
    total, every = float(sum(members) + size), [float(each + 1) for each in members]

    wrong: list[str] = []
    reduced = own.clone()
    dist.all_reduce(reduced, group=group)
    wrong += _differs("all_reduce", reduced, [total] * 4)
    gathered = torch.empty(4 * size, device=here)
    dist.all_gather_into_tensor(gathered, own, group=group)
    wrong += _differs("all_gather_into_tensor", gathered, [each for each in every for _ in range(4)])
    part = torch.empty(4, device=here)
    dist.reduce_scatter_tensor(part, own.repeat(size), group=group)
    wrong += _differs("reduce_scatter_tensor", part, [total] * 4)
    sent = torch.arange(size, device=here, dtype=torch.float32) + 100.0 * rank
    received = torch.empty(size, device=here)
    dist.all_to_all_single(received, sent, group=group)
    wrong += _differs("all_to_all_single", received, [100.0 * each + place for each in members])
    from_left = torch.empty(4, device=here)
    right, left = members[(place + 1) % size], members[place - 1]
    operations = [dist.P2POp(dist.isend, own, right, group), dist.P2POp(dist.irecv, from_left, left, group)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    wrong += _differs("send and receive", from_left, [float(left + 1)] * 4)
    return wrong


def _differs(operation: str, found: Any, due: list[float]) -> list[str]:
    values = found.tolist()
    return [] if values == due else [f"{operation} gives {values[:4]} where {due[:4]} is due"]


def _seconds_by_bytes(group: Any, size: int) -> dict[float, float]:
    import torch
    import torch.distributed as dist

    from grok1.device import measuring

    sizes = _ELEMENTS if device_kind() == "cpu" else _ACCELERATOR_ELEMENTS
    found = {}
    for elements in sizes:
        values = torch.zeros(elements, device=torch.cuda.current_device())
        best = float("inf")
        for _ in range(_CALLS):
            measuring.synchronize()
            start = time.perf_counter()
            dist.all_reduce(values, group=group)
            measuring.synchronize()
            best = min(best, time.perf_counter() - start)
        found[2.0 * (size - 1) / size * 4 * elements] = best
    return found


# ---- verdicts ------------------------------------------------------------------------------------------


def fitted(seconds_by_bytes: dict[float, float]) -> Line:
    """Least squares of relative errors, so that small calls count as much as large ones; alpha is not negative."""
    sizes, seconds = (np.array(each) for each in zip(*sorted(seconds_by_bytes.items()), strict=True))
    columns = np.stack([1.0 / seconds, sizes / seconds], axis=1)
    (alpha, per_byte), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)
    if per_byte <= 0:  # the large call was no slower than the small one
        return Line(float(seconds.min()), float((sizes / seconds).max()))
    return Line(max(0.0, float(alpha)), float(1.0 / per_byte))


def judge(found: Sequence[GroupTimes], is_accelerator: bool, tool: str) -> list[Finding]:
    """One finding a kind of group, of its slowest rank. On a CPU numbers are judged, and speed is not."""
    by_name: dict[str, list[GroupTimes]] = defaultdict(list)
    for each in found:
        by_name[each.group].append(each)
    return [_judge_group(name, ranks, is_accelerator, tool) for name, ranks in by_name.items()]


def _judge_group(name: str, ranks: Sequence[GroupTimes], is_accelerator: bool, tool: str) -> Finding:
    check, size = f"collectives {name}", ranks[0].size
    wrong = next((each for each in ranks if each.wrong), None)
    if wrong is not None:
        remedy = f"trust no number of a job on this machine; check the links ({tool}), and send this line back"
        return failed(check, f"rank {wrong.rank} of {size}: {wrong.wrong}", remedy)
    slowest = {
        size_bytes: max(each.seconds_by_bytes[size_bytes] for each in ranks) for size_bytes in ranks[0].seconds_by_bytes
    }
    line = fitted(slowest)
    said = f"{size} ranks: alpha {line.alpha_seconds * 1e6:,.1f} us, beta {line.beta_bytes_per_second / 1e9:,.2f} GB/s"
    figures = {
        "group_size": float(size),
        "alpha_seconds": line.alpha_seconds,
        "beta_bytes_per_second": line.beta_bytes_per_second,
    }
    if not is_accelerator:
        return measured(check, f"{said}; the numbers are right", figures)
    if line.beta_bytes_per_second < LEAST_BYTES_PER_SECOND or line.alpha_seconds > MOST_ALPHA_SECONDS:
        said += f"; at least {LEAST_BYTES_PER_SECOND / 1e9:g} GB/s within {MOST_ALPHA_SECONDS * 1e6:,.0f} us is due"
        remedy = f"the group does not use the direct links: look at {tool}, and at what docs/first-run.md lists"
        return failed(check, said, remedy, figures, blocks=False)
    return passed(check, f"{said}; the numbers are right", figures)
