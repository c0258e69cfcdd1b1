"""Speed by the field's measures: tokens a second and processor, and the share of the chip's peak. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.plan.device import OF_WIDTH, Device
from bench.plan.layouts import Floats
from bench.plan.predict import Jobs, Prediction
from bench.plan.work import Work


@dataclass(frozen=True)
class Speed:
    """A row a job."""

    tokens_per_second: Floats  # and processor
    mfu: Floats  # of the peak of `dtype`
    dtype: str
    peak_flops: float


def speed_of(prediction: Prediction, work: Work, device: Device, dtype: str | None = None) -> Speed:
    """What the predicted steps amount to.

    Args:
        dtype: of the products, where they are narrower than the activations.
    """
    jobs, name = Jobs(work), dtype or OF_WIDTH[work.width]
    processor_seconds = prediction.step_seconds * jobs.world_size
    peak = device.peak_flops(name)
    return Speed(
        tokens_per_second=np.asarray(work.tokens_per_step[jobs.start] / processor_seconds),
        mfu=np.asarray(work.model_flops[jobs.start] / processor_seconds / peak),
        dtype=name,
        peak_flops=peak,
    )
