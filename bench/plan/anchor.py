"""One measured run as an anchor: what it took over what was predicted moves every prediction of its kind. No torch.

An anchor takes away what is common to a machine, a program and a release. What is left are the differences between
jobs, so that its intervals are made of differences between residuals: of rows of one family where the anchor is of the
job's family, else of rows of different families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.plan.conformal import weighted_quantile
from bench.plan.intervals import LEVEL, MIN_ROWS, NEW_KIND, NO_EXPERTS, CalibrationRow, Interval, nearest, refusal
from bench.plan.null_model import mfu_of
from bench.plan.situations import Situation, distance

if TYPE_CHECKING:
    from bench.records.record import Record

_UNCALIBRATED = 2.0  # of jobs that no row calibrates: fine-grained experts, experts in 8 bits, 32 bits
_MOST = 20.0  # an anchor that is off by more is of another job or unit


@dataclass(frozen=True)
class Anchor:
    """A measured run beside its prediction."""

    name: str
    family: str
    situation: Situation
    measured_seconds: float
    predicted_seconds: float
    mfu: float | None  # None where the chip's peak is not known

    @property
    def factor(self) -> float:
        """Measured over predicted: what predictions on this chip are multiplied with."""
        return self.measured_seconds / self.predicted_seconds

    @property
    def sentence(self) -> str:
        return (
            f"anchored by {self.name}: {self.measured_seconds:.4g} s measured, {self.predicted_seconds:.4g} s "
            f"predicted, so that predictions are multiplied with {self.factor:.3f}"
        )


def anchor_of(
    name: str, family: str, situation: Situation, measured_seconds: float, predicted_seconds: float, *,
    model_flops: float, peak_flops: float | None,
) -> Anchor:  # fmt: skip
    """An anchor, checked.

    Args:
        name: which run, in words.
        family: `Architecture.family` of its model.
        situation: of its job.
        measured_seconds: of a step.
        predicted_seconds: of the same step, without an anchor.
        model_flops: of the step over all ranks.
        peak_flops: of all chips of the job together; None where it is not known.

    Raises:
        ValueError: the two times cannot be of one job, or the run is faster than its chips can be.
    """
    if not (0 < measured_seconds < math.inf and 0 < predicted_seconds < math.inf):
        raise ValueError(f"{name}: seconds of a step must be positive, not {measured_seconds} and {predicted_seconds}")
    factor = measured_seconds / predicted_seconds
    if not 1 / _MOST <= factor <= _MOST:
        raise ValueError(
            f"{name}: measured {measured_seconds:.4g} s and predicted {predicted_seconds:.4g} s are more than "
            f"{_MOST:g} times apart, so it is no anchor of this job: check its recipe, chip and unit"
        )
    mfu = None if peak_flops is None else float(mfu_of([model_flops], [measured_seconds], [peak_flops])[0])
    if mfu is not None and mfu >= 1:
        raise ValueError(f"{name}: its MFU would be {mfu:.2f}, above what the chip can do: check the chip and the unit")
    return Anchor(name, family, situation, measured_seconds, predicted_seconds, mfu)


def seconds_of_record(record: Record) -> float:
    """The mean steady step of a recorded run, which its rate is of.

    Raises:
        ValueError: the record is void, holds no step, or is of steps that no job of this kind takes.
    """
    from bench.judge.stats import summarise

    if not record.valid:
        why = record.void_reasons[0] if record.void_reasons else "its run ended early"
        raise ValueError(f"record {record.id} is void ({why}): anchor with a run that is valid")
    if record.planted_percent:
        raise ValueError(
            f"record {record.id}: its steps were made {record.planted_percent:g} % longer on purpose "
            "(--plant-slowdown): anchor with a run without it"
        )
    if record.lone_rank is not None:
        raise ValueError(
            f"record {record.id} is of one rank alone, without exchanges: anchor with a run of a whole job"
        )
    return summarise(record).mean_step_seconds


def anchored_interval(
    seconds: float, family: str, job: Situation, anchor: Anchor, rows: Sequence[CalibrationRow], level: float = LEVEL
) -> Interval:
    """The interval of an anchored prediction; also of jobs that have none without an anchor.

    Args:
        seconds: predicted, without the anchor.
        family: `Architecture.family` of the job's model.
        job: what was predicted.
        anchor: the measured run.
        rows: all calibration rows, of any chip.
        level: the share of jobs that shall lie inside.

    Raises:
        ValueError: the anchor is of another chip or precision.
    """
    if (job.chip, job.precision) != (anchor.situation.chip, anchor.situation.precision):
        raise ValueError(
            f"{anchor.name} ran on {anchor.situation.chip} in {anchor.situation.precision}, the plan is for {job.chip} "
            f"in {job.precision}: anchor with a run of the same chip and precision"
        )
    is_same = family == anchor.family
    name, pairs = _pairs(job, rows, within=is_same)
    factor, widened = _widening(job, anchor, is_same=is_same)
    quantile = weighted_quantile([abs(each.log_ratio) for each in pairs], [each.family for each in pairs], level)
    predicted, bound = seconds * anchor.factor, math.exp(min(700.0, quantile * factor))
    is_known = math.isfinite(quantile)
    return Interval(
        seconds=predicted,
        low=predicted / bound if is_known else None,
        high=predicted * bound if is_known else None,
        level=level,
        rows_of=name,
        rows=len(pairs),
        families=len({each.family for each in pairs}),
        widened=widened,
        refused="" if is_known else f"{len(pairs)} pairs of calibration rows are too few for this level; lower it",
        nearest=(anchor.name, *(row.name for row in nearest(job, rows)[:2])),
    )


def _pairs(job: Situation, rows: Sequence[CalibrationRow], *, within: bool) -> tuple[str, list[CalibrationRow]]:
    """Differences of the job's chip and precision; of all chips where there are fewer than ten."""
    said = f"pairs of rows of {'one family' if within else 'different families'}"
    here = [row for row in rows if (row.situation.chip, row.situation.precision) == (job.chip, job.precision)]
    found = _differences(here, within=within)
    if len(found) >= MIN_ROWS:
        return f"{said}, {job.chip}, {job.precision}", found
    return f"{said}, all chips", _differences(rows, within=within)


def _widening(job: Situation, anchor: Anchor, *, is_same: bool) -> tuple[float, tuple[str, ...]]:
    factor, reasons = 1.0, []
    if job.experts != anchor.situation.experts:
        factor *= NO_EXPERTS
        reasons.append(f"the anchor's model is {anchor.situation.experts}, this one {job.experts} (x{NO_EXPERTS:g})")
    if refusal(job):
        factor *= _UNCALIBRATED
        reasons.append(f"{job.experts} in {job.precision}: no row but the anchor (x{_UNCALIBRATED:g})")
    missing = sorted(job.kinds - anchor.situation.kinds)
    if missing and is_same:
        factor *= NEW_KIND
        reasons.append(f"the anchor has no {', '.join(missing)} (x{NEW_KIND:g})")
    return factor, tuple(reasons)


def _differences(rows: Sequence[CalibrationRow], *, within: bool) -> list[CalibrationRow]:
    """Each row against the nearest row of its chip, precision and release: of its family, or of another."""
    found = []
    for row in rows:
        others = [
            each
            for each in rows
            if each is not row and (each.family == row.family) == within and _same_machine(each, row)
        ]
        if others:
            near = min(others, key=lambda each: (distance(row.situation, each.situation), each.name))
            found.append(replace(row, log_ratio=row.log_ratio - near.log_ratio))
    return found


def _same_machine(one: CalibrationRow, other: CalibrationRow) -> bool:
    first, second = one.situation, other.situation
    return (first.chip, first.precision, first.release) == (second.chip, second.precision, second.release)
