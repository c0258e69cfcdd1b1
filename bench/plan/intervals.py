"""How far a prediction may be off: conformal intervals, wider where nothing like it was calibrated, or none. No torch.

Each calibration row carries the residual of a fit that left its family out, so that it is as new to the fit as a user's
job is. Rows of the same chip, precision and kind of model speak for a job; where they are fewer than ten, those of a
wider class do. What no row of the class has widens the interval by a stated factor, a judgement and not a measurement;
what the model of a step is known to get wrong is refused an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.plan.conformal import weighted_quantile
from bench.plan.situations import LAYER_ALONE, OWN_EXCHANGES, Situation, distance

LEVEL = 0.9
MIN_ROWS = 10
NEAREST = 3
OTHER_CHIP = 2.0
NO_EXPERTS = 1.5
NEW_KIND = 1.25
OTHER_RELEASE = 1.25


@dataclass(frozen=True)
class CalibrationRow:
    """A measured row, and how far a fit without its family was from it."""

    name: str
    family: str
    situation: Situation
    log_ratio: float  # of measured over predicted seconds
    null_log_ratio: float  # the same of the null model, by the MFU of the other families' rows


@dataclass(frozen=True)
class Interval:
    """Seconds between which a job is expected at that level; no bounds where they are refused, and then why."""

    seconds: float
    low: float | None
    high: float | None
    level: float
    rows_of: str  # the class that speaks for the job
    rows: int
    families: int
    widened: tuple[str, ...]  # what was extrapolated, a sentence each
    refused: str  # empty where there is an interval
    nearest: tuple[str, ...]  # calibration rows, the nearest first

    @property
    def half_width(self) -> float | None:
        """How far the high bound is above the prediction, as a share of it."""
        return None if self.high is None else self.high / self.seconds - 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a reader must know of it."""
        if self.refused:
            return (f"no interval: {self.refused}",)
        basis = f"{self.level:.0%} interval from {self.rows} rows of {self.families} families: {self.rows_of}"
        return (basis, *(f"wider: {reason}" for reason in self.widened))


def interval_of(seconds: float, job: Situation, rows: Sequence[CalibrationRow], level: float = LEVEL) -> Interval:
    """The interval of a predicted time.

    Args:
        seconds: predicted.
        job: what was predicted.
        rows: all calibration rows, of any chip.
        level: the share of jobs that shall lie inside.
    """
    name, chosen = class_of(job, rows)
    factor, widened = widening(job, chosen)
    quantile = weighted_quantile([abs(row.log_ratio) for row in chosen], [row.family for row in chosen], level)
    refused = refusal(job) or _too_few(quantile, chosen)
    bound = math.exp(min(700.0, quantile * factor))
    return Interval(
        seconds=seconds,
        low=None if refused else seconds / bound,
        high=None if refused else seconds * bound,
        level=level,
        rows_of=name,
        rows=len(chosen),
        families=len({row.family for row in chosen}),
        widened=widened,
        refused=refused,
        nearest=tuple(row.name for row in nearest(job, rows)),
    )


def class_of(job: Situation, rows: Sequence[CalibrationRow]) -> tuple[str, list[CalibrationRow]]:
    """The narrowest class of the job that has ten rows, in words, and its rows; else all rows."""
    for name, belongs in _classes(job):
        chosen = [row for row in rows if belongs(row.situation)]
        if len(chosen) >= MIN_ROWS:
            return name, chosen
    return "all chips, precisions and models", list(rows)


def _classes(job: Situation) -> list[tuple[str, Callable[[Situation], bool]]]:
    def same_chip(each: Situation) -> bool:
        return each.chip == job.chip

    def same_precision(each: Situation) -> bool:
        return each.precision == job.precision

    def same_experts(each: Situation) -> bool:
        return each.experts == job.experts

    return [
        (
            f"{job.chip}, {job.precision}, {job.experts}",
            lambda each: same_chip(each) and same_precision(each) and same_experts(each),
        ),
        (f"{job.chip}, {job.precision}", lambda each: same_chip(each) and same_precision(each)),
        (f"{job.chip}", same_chip),
        (f"all chips, {job.precision}, {job.experts}", lambda each: same_precision(each) and same_experts(each)),
        (f"all chips, {job.precision}", same_precision),
    ]


def refusal(job: Situation) -> str:
    """Why no interval is promised; empty where one is."""
    if job.experts == "fine-grained experts":
        return (
            f"{job.num_experts} experts are fine-grained: the model is off by tens of percent in either direction, and "
            "no row calibrates it; measure one run and give it with --anchor"
        )
    if job.precision == "8 bits" and job.experts != "dense":
        return (
            "experts in 8 bits: casts and transposes of their weights are not in the model, and no row calibrates "
            "them; measure one run and give it with --anchor"
        )
    if job.precision == "32 bits":
        return (
            "products in 32 bits: no row calibrates what is reached of their peak; measure one run and give it with "
            "--anchor"
        )
    own = sorted(job.kinds & set(OWN_EXCHANGES))
    if own:
        return f"{own[0]} exchanges tokens by a kernel of its own, which no row calibrates; give one run with --anchor"
    return ""


def _too_few(quantile: float, chosen: Sequence[CalibrationRow]) -> str:
    if math.isfinite(quantile):
        return ""
    return f"{len(chosen)} calibration rows are too few for this level; lower it, or calibrate on more"


def widening(job: Situation, chosen: Sequence[CalibrationRow]) -> tuple[float, tuple[str, ...]]:
    """The factor by which an interval is wider than its class, and the reasons."""
    situations = [row.situation for row in chosen]
    factor, reasons = 1.0, []
    if not any(each.chip == job.chip for each in situations):
        factor *= OTHER_CHIP
        reasons.append(f"no row of {job.chip} (x{OTHER_CHIP:g})")
    if job.experts != "dense" and not any(_tells_of_experts(each, job) for each in situations):
        factor *= NO_EXPERTS
        reasons.append(f"no row of a step with experts: their exchange and routing are from priors (x{NO_EXPERTS:g})")
    missing = sorted(job.kinds - set[str]().union(*(each.kinds for each in situations)) - {"EP", "ETP"})
    if missing:
        factor *= NEW_KIND
        reasons.append(f"no row with {', '.join(missing)} (x{NEW_KIND:g})")
    if not any(job.release and each.release == job.release for each in situations):
        factor *= OTHER_RELEASE
        said = f"no row of {job.release}" if job.release else "the release of the program is not stated"
        reasons.append(f"{said} (x{OTHER_RELEASE:g})")
    return factor, tuple(reasons)


def _tells_of_experts(row: Situation, job: Situation) -> bool:
    """A layer of experts that was timed alone tells of another, and not of a step."""
    return row.experts == job.experts and (LAYER_ALONE in row.kinds) <= (LAYER_ALONE in job.kinds)


def nearest(job: Situation, rows: Sequence[CalibrationRow], most: int = NEAREST) -> list[CalibrationRow]:
    """The calibration rows most like the job, a family once, the nearest first."""
    found: list[CalibrationRow] = []
    for row in sorted(rows, key=lambda each: (distance(job, each.situation), each.name)):
        if len(found) == most:
            break
        if row.family not in {each.family for each in found}:
            found.append(row)
    return found
