"""Matrix products and copies: how fast each device is alone, against its data sheet.

All devices compute at the same time, without talking to each other, so that one slow card is found too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.doctor.findings import Finding, failed, measured, passed
from grok1.device.kind import device_kind
from grok1.distributed.rendezvous import Rendezvous

LEAST_SHARE = 0.5  # of the data sheet's figure; a healthy device reaches more than 0.7 of either
LEAST_OF_MEDIAN = 0.8  # of the devices' median: all of one machine are alike
_ROUNDS = 5
_SIZES = {"cpu": (1024, 64 << 20)}  # (rows of a square matrix, bytes copied)
_ACCELERATOR_SIZES = (8192, 1 << 30)


@dataclass(frozen=True)
class DeviceSpeed:
    """One device alone: FLOP/s of a square matrix product, bytes per second read and written by a copy."""

    rank: int
    flops_per_second: float
    bytes_per_second: float
    dtype: str


def run_rank(_job: object, where: Rendezvous, emit: Callable[[DeviceSpeed], None]) -> None:
    """Measure this rank's device. Joins nobody: a broken network must not look like a slow device."""
    import torch

    from grok1.device import measuring, seam

    kind = seam.activate()
    seam.bind(where.local_rank)
    rows, num_bytes = _SIZES.get(kind, _ACCELERATOR_SIZES)
    dtype = torch.float32 if kind == "cpu" else torch.bfloat16
    here = torch.cuda.current_device()
    left, right = (torch.ones(rows, rows, dtype=dtype, device=here) for _ in range(2))
    out = torch.empty_like(left)
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=here)
    target = torch.empty_like(source)
    product = _best_seconds(lambda: torch.matmul(left, right, out=out), measuring.synchronize)
    copy = _best_seconds(lambda: target.copy_(source), measuring.synchronize)
    if float(out[0, 0]) != rows or float(target[-1]) != 1.0:
        raise RuntimeError(f"a product of ones is {float(out[0, 0])} where {rows} is due: this device computes wrongly")
    emit(DeviceSpeed(where.rank, 2.0 * rows**3 / product, 2.0 * num_bytes / copy, str(dtype).removeprefix("torch.")))


def _best_seconds(call: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """The fastest of some rounds, each of enough calls to last; the first round only warms up."""
    calls, best = 1, float("inf")
    least = 0.05 if device_kind() == "cpu" else 0.2
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        seconds = (time.perf_counter() - start) / calls
        best = min(best, seconds)
        calls = max(calls, int(least / seconds))
    return best


# ---- verdicts ------------------------------------------------------------------------------------------

_UNITS: Mapping[str, tuple[str, str, float]] = {
    "matrix products": ("flops_per_second", "GFLOP/s", 1e9),
    "memory bandwidth": ("bytes_per_second", "GB/s", 1e9),
}
_REMEDY = (
    "stop other programs on this device, check its clock, power limit and temperature ({tool}), and run again; "
    "a card that stays slow is not measured with the others"
)


def judge(check: str, found: Sequence[DeviceSpeed], sheet: tuple[float, str] | None, tool: str) -> Finding:
    """Holds the slowest device against the data sheet, and against the others.

    `check` is "matrix products" or "memory bandwidth". A device that is not on a data sheet is measured only.
    """
    name, unit, scale = _UNITS[check]
    rates = {each.rank: getattr(each, name) for each in found}
    slowest = min(rates, key=lambda rank: rates[rank])
    median = sorted(rates.values())[len(rates) // 2]
    said = f"{rates[slowest] / scale:,.1f} {unit} {found[0].dtype if 'matrix' in check else ''}".rstrip()
    said += f" (the slowest of {len(rates)}, device {slowest})" if len(rates) > 1 else ""
    figures = {name: rates[slowest], f"median_{name}": median}
    remedy = _REMEDY.format(tool=tool)
    if rates[slowest] < LEAST_OF_MEDIAN * median:
        said += f", {rates[slowest] / median:.0%} of the median {median / scale:,.1f}"
        return failed(check, said, remedy, figures, blocks=False)
    if sheet is None:
        return measured(check, f"{said}; no data sheet figure is known, so there is no verdict", figures)
    share = rates[slowest] / sheet[0]
    said += f", {share:.0%} of {sheet[0] / scale:,.1f} ({sheet[1]})"
    if share < LEAST_SHARE:
        return failed(check, f"{said}; at least {LEAST_SHARE:.0%} is due", remedy, figures, blocks=False)
    if share > 1.05:
        remedy = "the clock or the data sheet's entry is wrong: report it, and trust no MFU of this device"
        return failed(check, f"{said}: more than there is", remedy, figures, blocks=False)
    return passed(check, said, figures)
