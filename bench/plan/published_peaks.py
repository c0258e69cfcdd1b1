"""Published rows that claim more than their chip can do. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from bench.plan.chips import profile_of
from bench.plan.device import load_device
from bench.plan.published import MEMORY, PublishedRow
from bench.plan.published_work import model_flops


def within_peak(rows: Sequence[PublishedRow]) -> tuple[list[PublishedRow], list[str]]:
    """Rows whose MFU is below 1, and a line for each other one. What has no profile or peak is left to others."""
    kept, refused = [], []
    for row in rows:
        mfu = _mfu(row)
        if mfu is None or mfu < 1:
            kept.append(row)
        else:
            claim = f"its {row.value:g} {row.metric} would be an MFU of {mfu:.3g}"
            refused.append(f"row {row.line} ({row.model}): {claim}, above what {profile_of(row.chip)} can do")
    return kept, refused


def _mfu(row: PublishedRow) -> float | None:
    if row.metric == MEMORY:
        return None
    try:
        peak = load_device(profile_of(row.chip)).peak_flops("fp8" if row.is_eight_bit else "bf16")
    except ValueError:
        return None
    return model_flops(row) / (peak * row.world_size * row.seconds)
