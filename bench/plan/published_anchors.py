"""Published jobs anchored by measured rows of the same chip and precision. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.plan.anchor import Anchor, anchor_of, anchored_interval
from bench.plan.calibration_file import CalibrationFile
from bench.plan.device import load_device
from bench.plan.frozen import key_of
from bench.plan.null_model import null_seconds
from bench.plan.published import read_published
from bench.plan.published_predictions import RowPrediction, predict_rows
from bench.plan.published_work import model_flops
from bench.plan.situations import distance, situation_of


def anchors_of_file(path: Path, calibration: CalibrationFile) -> dict[str, Anchor]:
    """Each row of a CSV file of published jobs as an anchor, by the key of its job.

    Raises:
        ValueError: the rows cannot be read, or none of them can be an anchor.
    """
    published = read_published(path)
    found, refused = predict_rows(published.rows, calibration)
    anchors = {key_of(each.row): _anchor(each) for each in found if each.row.is_time}
    if not anchors:
        why = refused[0] if refused else "it has no row of a step's time"
        raise ValueError(f"{path}: no row of it can be an anchor: {why}")
    return anchors


def _anchor(prediction: RowPrediction) -> Anchor:
    row = prediction.row
    return anchor_of(
        row.name,
        row.architecture.family,
        situation_of(row, prediction.profile),
        row.seconds,
        prediction.seconds,
        model_flops=model_flops(row),
        peak_flops=_peak(prediction),
    )


def anchored(
    predictions: Sequence[RowPrediction], anchors: dict[str, Anchor], calibration: CalibrationFile, level: float
) -> list[RowPrediction]:
    """Predictions moved by the nearest anchor of their chip and precision, of their family if there is one.

    Rows that are anchors themselves are left out, and those of which no anchor speaks stay as they are.
    """
    others = [each for each in predictions if key_of(each.row) not in anchors]
    return [_moved(each, list(anchors.values()), calibration, level) for each in others]


def _moved(
    prediction: RowPrediction, anchors: Sequence[Anchor], calibration: CalibrationFile, level: float
) -> RowPrediction:
    row, job = prediction.row, situation_of(prediction.row, prediction.profile)
    family = row.architecture.family
    speaking = [
        each
        for each in anchors
        if (each.situation.chip, each.situation.precision) == (job.chip, job.precision) and row.is_time
    ]
    if not speaking:
        return prediction
    anchor = min(speaking, key=lambda each: (each.family != family, distance(job, each.situation), each.name))
    rows = calibration.calibration_rows(without=(job.chip, family))
    null = prediction.null_seconds
    if anchor.mfu is not None:
        null = float(null_seconds([model_flops(row)], [_peak(prediction)], anchor.mfu)[0])
    return replace(
        prediction,
        seconds=prediction.seconds * anchor.factor,
        terms={name: term * anchor.factor for name, term in prediction.terms.items()},
        interval=anchored_interval(prediction.seconds, family, job, anchor, rows, level),
        null_seconds=null,
    )


def _peak(prediction: RowPrediction) -> float:
    """FLOP/s of all chips of the job."""
    dtype = "fp8" if prediction.row.is_eight_bit else "bf16"
    return load_device(prediction.profile).peak_flops(dtype) * prediction.row.world_size
