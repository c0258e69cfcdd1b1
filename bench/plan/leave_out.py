"""Calibration on published rows: a fit for a chip and precision, and residuals of fits without each family. No torch.

A fit looks good on the rows that it was made of. What it is off on a model that it never saw is what a user meets, so
every residual here is of a fit that left out the row's family: all rows with the same layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.fit import Fitted, Predicted, Prior, fit
from bench.plan.intervals import CalibrationRow
from bench.plan.layouts import Floats
from bench.plan.null_model import constant_mfu, mfu_of, null_seconds
from bench.plan.published import PublishedRow
from bench.plan.published_peaks import within
from bench.plan.published_work import model_flops
from bench.plan.situations import situation_of


@dataclass(frozen=True)
class Chip:
    """A device profile as a fit sees it."""

    name: str
    peak_flops: float  # of the products' precision, FLOP/s
    priors: Mapping[str, Prior]
    seconds_of: Callable[[Sequence[PublishedRow]], Predicted]  # of these rows, as a function of the efficiencies


@dataclass(frozen=True)
class Calibrated:
    """A chip's fit on all its rows, and each row as one that was not seen."""

    chip: Chip
    fitted: Fitted
    mfu: float  # of the null model on the same rows, but layers alone where there are steps
    rows: tuple[CalibrationRow, ...]


def fit_rows(rows: Sequence[PublishedRow], chip: Chip) -> Fitted:
    """The chip's efficiencies from these rows.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError(f"{chip.name} has no published row to fit")
    return fit(chip.seconds_of(rows), [row.seconds for row in rows], chip.priors)


def calibrated(rows: Sequence[PublishedRow], chip: Chip) -> Calibrated:
    """The chip's fit, and the residual of each row by a fit, and by a null model, without the row's family.

    A chip with one family has no such fit: its rows are predicted with the priors.
    """
    mfu = constant_mfu(_mfus(_steps(rows), chip))
    return Calibrated(chip, fit_rows(rows, chip), mfu, tuple(_unseen(rows, chip)))


def _steps(rows: Sequence[PublishedRow]) -> Sequence[PublishedRow]:
    """Rows of whole steps: with layers alone among them the null model would be worse than it need be."""
    return [row for row in rows if row.is_time] or rows


def _unseen(rows: Sequence[PublishedRow], chip: Chip) -> list[CalibrationRow]:
    found: dict[int, CalibrationRow] = {}
    for family in dict.fromkeys(row.architecture.family for row in rows):
        left_out = [place for place, row in enumerate(rows) if row.architecture.family == family]
        others = [row for row in rows if row.architecture.family != family]
        them = [rows[place] for place in left_out]
        values = fit_rows(others, chip).values if others else prior_values(chip.priors)
        off, null_off = log_ratios(them, chip, values), _null_log_ratios(them, others or them, chip)
        for place, row, ratio, null_ratio in zip(left_out, them, off, null_off, strict=True):
            found[place] = CalibrationRow(row.name, family, situation_of(row, chip.name), ratio, null_ratio)
    return [found[place] for place in range(len(rows))]


def prior_values(priors: Mapping[str, Prior]) -> dict[str, float]:
    """Efficiencies before any row was seen."""
    return {name: prior.value for name, prior in priors.items()}


def log_ratios(rows: Sequence[PublishedRow], chip: Chip, values: Mapping[str, float]) -> list[float]:
    """Of measured over predicted seconds, with these efficiencies."""
    predicted = chip.seconds_of(rows)(values)
    measured = np.array([row.seconds for row in rows])
    return [float(each) for each in np.log(measured) - np.log(predicted)]


def _null_log_ratios(rows: Sequence[PublishedRow], others: Sequence[PublishedRow], chip: Chip) -> list[float]:
    mfu = constant_mfu(_mfus(_steps(others), chip))
    flops, peaks = [model_flops(row) for row in rows], [chip.peak_flops * row.world_size for row in rows]
    measured = np.array([row.seconds for row in rows])
    return [float(each) for each in np.log(measured) - np.log(null_seconds(flops, peaks, mfu))]


def _mfus(rows: Sequence[PublishedRow], chip: Chip) -> Floats:
    peaks = [chip.peak_flops * row.world_size for row in rows]
    return mfu_of([model_flops(row) for row in rows], [row.seconds for row in rows], peaks)


def plausible(rows: Sequence[PublishedRow], chip: Chip) -> tuple[list[PublishedRow], list[str]]:
    """Rows whose MFU is below 1, and a line for each that claims more than the chip can do."""
    return within(rows, lambda _: (chip.name, chip.peak_flops))
