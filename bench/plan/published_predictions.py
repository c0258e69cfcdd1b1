"""Predictions of published jobs: the time, its terms and its interval, with the null model beside. No torch.

A row that was fitted is predicted as if it were new: by the fit that left its family out, with an interval of the other
families' rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.plan.calibration_file import CalibrationFile, StoredRow
from bench.plan.chips import profile_of
from bench.plan.device import load_device
from bench.plan.fitted_profiles import SPEAKS_FOR
from bench.plan.frozen import FrozenPrediction, freeze, key_of
from bench.plan.intervals import LEVEL, Interval, interval_of
from bench.plan.null_model import null_seconds
from bench.plan.predict import predict
from bench.plan.published import PublishedRow
from bench.plan.published_fit import ALONE, device_with, is_fused
from bench.plan.published_work import model_flops, published_work
from bench.plan.score import Scored
from bench.plan.situations import precision_of, situation_of
from bench.records.terminal import plain

_MOST_TEXT = 900  # of the words of a frozen prediction


@dataclass(frozen=True)
class RowPrediction:
    """Of one published row."""

    row: PublishedRow
    profile: str
    seconds: float
    terms: dict[str, float]  # seconds of the step, none where the fit left the row's family out
    interval: Interval
    null_seconds: float | None
    was_fitted: bool

    def scored(self) -> Scored:
        """Against what the row states."""
        return Scored(self.row, self.seconds, self.interval.low, self.interval.high, self.null_seconds)


def predict_rows(
    rows: Sequence[PublishedRow], calibration: CalibrationFile, level: float = LEVEL
) -> tuple[list[RowPrediction], list[str]]:
    """A prediction of each row whose chip has a profile, and a line for each other row.

    Rows of memory are left out: they have no time.
    """
    found, refused = [], []
    for row in rows:
        if not (row.is_time or row.is_layer_alone):
            continue
        try:
            found.append(_predicted(row, calibration, level))
        except ValueError as error:
            refused.append(f"row {row.line} ({row.model}): {error}")
    return found, refused


def _predicted(row: PublishedRow, calibration: CalibrationFile, level: float) -> RowPrediction:
    fitted = calibration.row_of(row)
    return _unseen(row, fitted, calibration, level) if fitted else _new(row, calibration, level)


def _unseen(row: PublishedRow, fitted: StoredRow, calibration: CalibrationFile, level: float) -> RowPrediction:
    others = calibration.calibration_rows(without=(fitted.chip, fitted.family))
    interval = interval_of(fitted.unseen_seconds, situation_of(row, fitted.chip), others, level)
    return RowPrediction(
        row, fitted.chip, fitted.unseen_seconds, {}, interval, fitted.unseen_null_seconds, was_fitted=True
    )


def _new(row: PublishedRow, calibration: CalibrationFile, level: float) -> RowPrediction:
    profile = profile_of(row.chip)
    device, fit = load_device(profile), calibration.fit_of(profile, row.is_eight_bit)
    speaking = fit or calibration.fit_of(SPEAKS_FOR.get(profile, profile), row.is_eight_bit)
    values = speaking.efficiencies if speaking else {}
    dtype = "fp8" if row.is_eight_bit else None
    prediction = predict(published_work([row]), device_with(device, values, is_fused=is_fused(row)), dtype)
    alone = values.get(ALONE, 1.0) if row.is_layer_alone else 1.0
    seconds = float(prediction.step_seconds[0]) * alone
    peak = device.peak_flops(dtype or "bf16") * row.world_size
    return RowPrediction(
        row=row,
        profile=profile,
        seconds=seconds,
        terms={name: float(term[0]) * alone for name, term in prediction.terms.items()},
        interval=interval_of(seconds, situation_of(row, profile), calibration.calibration_rows(), level),
        null_seconds=float(null_seconds([model_flops(row)], [peak], fit.null_mfu)[0]) if fit else None,
        was_fitted=False,
    )


def freeze_rows(path: Path, predictions: Sequence[RowPrediction], calibration: CalibrationFile, level: float) -> str:
    """Write predictions to a file that must not exist; its hash. Rows of one job are one prediction.

    Raises:
        ValueError: the file exists, cannot be written, or there is nothing to freeze.
    """
    figures = {
        f"{fit.chip} {precision_of(fit.is_eight_bit)} {name}": value
        for fit in calibration.fits
        for name, value in fit.efficiencies.items()
    }
    by_key = {key_of(each.row): each for each in predictions}
    frozen = [as_frozen(each) for each in by_key.values()]
    return freeze(path, level, {"calibration": calibration.source}, figures, frozen)


def as_frozen(prediction: RowPrediction) -> FrozenPrediction:
    """As it is written down."""
    interval = prediction.interval
    return FrozenPrediction(
        row=prediction.row.name[:200],
        key=key_of(prediction.row),
        seconds=prediction.seconds,
        low=interval.low,
        high=interval.high,
        null_seconds=prediction.null_seconds,
        said=plain("; ".join(interval.sentences), _MOST_TEXT),
    )
