"""Published rows that claim more than their chip can do. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.plan.chips import profile_of
from bench.plan.device import load_device
from bench.plan.published import MEMORY, PublishedRow
from bench.plan.published_work import model_flops

Peak = tuple[str, float]  # a chip and its FLOP/s


def within(
    rows: Sequence[PublishedRow], peak_of: Callable[[PublishedRow], Peak | None]
) -> tuple[list[PublishedRow], list[str]]:
    """Rows whose MFU is below 1, and a line for each other one. What has no peak is kept."""
    kept, refused = [], []
    for row in rows:
        peak = peak_of(row)
        mfu = 0.0 if peak is None else model_flops(row) / (peak[1] * row.world_size * row.seconds)
        if peak is None or mfu < 1:
            kept.append(row)
        else:
            claim = f"its {row.value:g} {row.metric} would be an MFU of {mfu:.2f}"
            refused.append(f"row {row.line} ({row.model}): {claim}, above what {peak[0]} can do")
    return kept, refused


def within_peak(rows: Sequence[PublishedRow]) -> tuple[list[PublishedRow], list[str]]:
    """The same by the profiles of the rows' chips. What has no profile or peak is left to others."""
    return within(rows, _peak)


def _peak(row: PublishedRow) -> Peak | None:
    if row.metric == MEMORY:
        return None
    try:
        profile = profile_of(row.chip)
        return profile, load_device(profile).peak_flops("fp8" if row.is_eight_bit else "bf16")
    except ValueError:
        return None
