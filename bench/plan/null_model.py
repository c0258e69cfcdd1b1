"""The model that a planner must beat: every job reaches the MFU that was seen before. No torch.

Its MFU is the median of the calibration rows that the planner was fitted on, or that of the anchor where one is given:
equal information on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.plan.layouts import Floats


def mfu_of(
    model_flops: Sequence[float] | Floats, seconds: Sequence[float] | Floats, peak_flops: Sequence[float] | Floats
) -> Floats:
    """Model FLOPs of a step over what all chips of the job could do in its time.

    Args:
        model_flops: of the step, over all ranks.
        seconds: of the step.
        peak_flops: of all chips of the job together, FLOP/s.
    """
    return np.asarray(np.asarray(model_flops, float) / np.asarray(seconds, float) / np.asarray(peak_flops, float))


def constant_mfu(mfus: Sequence[float] | Floats) -> float:
    """The one MFU that stands for these: their median, so that one odd row does not move it.

    Raises:
        ValueError: there is none.
    """
    values = np.asarray(mfus, float)
    if not values.size:
        raise ValueError("the null model needs the MFU of at least one measured row, or an anchor")
    return float(np.exp(np.median(np.log(values))))


def null_seconds(model_flops: Sequence[float] | Floats, peak_flops: Sequence[float] | Floats, mfu: float) -> Floats:
    """Seconds of a step at that MFU."""
    return np.asarray(np.asarray(model_flops, float) / (np.asarray(peak_flops, float) * mfu))
