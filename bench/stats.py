"""From the raw samples of one record to the figures that people quote and gates judge.

Pure functions: a record in, a frozen `Summary` out. The time of a step is that of its slowest rank, because
every rank waits for it. All figures of speed are taken over the steady steps, which `find_steady` separates
from the warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.record import Record

Floats = npt.NDArray[np.float64]
WarmupRule = Literal["detected", "fixed share", "unsettled"]

MIN_STEPS_TO_DETECT = 6
FIXED_SHARE = 0.25
# Of the cuts that are this close to the best one, the earliest is taken: a later one wins by chance on short
# runs.
_NEARLY_BEST = 1.10
_CLIP_SIGMAS = 3.0
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Warmup:
    """Where the steady part starts (an index into the steps) and which rule said so."""

    steady_from: int
    rule: WarmupRule


@dataclass(frozen=True)
class PeakMemory:
    """Peak bytes of the rank that used most and of the one that used least."""

    max_bytes: int
    max_rank: int
    min_bytes: int
    min_rank: int


@dataclass(frozen=True)
class Summary:
    """The figures of one record. Seconds and rates are over the `steady_steps` from `steady_from` on."""

    step_seconds: tuple[float, ...]
    steady_from: int
    warmup_rule: WarmupRule
    steady_steps: int
    median_step_seconds: float
    p5_step_seconds: float
    p95_step_seconds: float
    cv: float
    tokens_per_second_per_processor: float
    tflops_per_second_per_processor: float
    mfu: float | None
    skew: float
    peak: PeakMemory
    phase_seconds: dict[str, float]
    coverage: float | None
    communication_share: float | None
    bubble_ideal: float
    expert_imbalance: tuple[float | None, ...]
    loss_first: float | None
    loss_last: float | None


def summarise(record: Record) -> Summary:
    """Every figure the report shows and the gate judges; needs at least one step on at least one rank."""
    if not record.steps or not record.ranks:
        raise ValueError(f"record {record.id} of {record.case} holds no steps: there is nothing to summarise")
    seconds_RS = np.array([rank.step_seconds for rank in record.ranks], dtype=np.float64)
    slowest_S = seconds_RS.max(axis=0)
    warmup = find_steady(slowest_S.tolist())
    steady = slice(warmup.steady_from, None)
    median = float(np.median(slowest_S[steady]))
    flops_per_second = record.work.model_flops_per_step / median / record.layout.world_size
    peak_flops = record.device.peak_flops_per_second
    phases, coverage = _phases(record, seconds_RS, steady)
    return Summary(
        step_seconds=tuple(slowest_S.tolist()),
        steady_from=warmup.steady_from,
        warmup_rule=warmup.rule,
        steady_steps=len(slowest_S[steady]),
        median_step_seconds=median,
        p5_step_seconds=float(np.percentile(slowest_S[steady], 5)),
        p95_step_seconds=float(np.percentile(slowest_S[steady], 95)),
        cv=float(slowest_S[steady].std(ddof=1) / slowest_S[steady].mean()) if len(slowest_S[steady]) > 1 else 0.0,
        tokens_per_second_per_processor=record.work.tokens_per_step / median / record.layout.world_size,
        tflops_per_second_per_processor=flops_per_second / 1e12,
        mfu=None if peak_flops is None else flops_per_second / peak_flops,
        skew=float(np.median(slowest_S[steady] / np.median(seconds_RS, axis=0)[steady])) - 1.0,
        peak=_peak(record),
        phase_seconds=phases,
        coverage=coverage,
        communication_share=_communication_share(record, seconds_RS, steady),
        bubble_ideal=ideal_bubble(record.layout.pipeline, record.work.num_micro_batches),
        expert_imbalance=tuple(imbalance(layer) for layer in record.expert_load),
        loss_first=record.steps[0].loss,
        loss_last=record.steps[-1].loss,
    )


def find_steady(step_seconds: Sequence[float]) -> Warmup:
    """Where the warm-up of a run ends, read from its own step times.

    MSER (marginal standard error rule): cut the first d steps so that the standard error of the mean of the
    rest is least, for d from 1 to half of the run; the first step always goes. Times are first clipped to 3
    robust standard deviations around the median of the second half, so that one late hiccup cannot pass for
    the end of the warm-up. If only the last allowed cut is good enough, the run never settled and says so.
    Runs of fewer than 6 steps lose a fixed quarter, at least one step; a single step is kept as it is.
    """
    count = len(step_seconds)
    if count < MIN_STEPS_TO_DETECT:
        return Warmup(min(max(1, math.ceil(count * FIXED_SHARE)), max(count - 1, 0)), "fixed share")
    seconds = np.asarray(step_seconds, dtype=np.float64)
    lowest, highest = _usual_range(seconds)
    errors = _squared_errors(np.clip(seconds, lowest, highest))
    # Rounding noise must not order cuts of a series that does not vary at all.
    nearly_best = errors.min() * _NEARLY_BEST + 1e-18 * float(np.square(step_seconds).max())
    cut = 1 + int(np.argmax(errors <= nearly_best))
    # Clipping also hides how slow a slow start was: leading steps above the usual range go in any case.
    while cut < count // 2 and seconds[cut] > highest:
        cut += 1
    return Warmup(cut, "unsettled" if cut == count // 2 else "detected")


def _squared_errors(seconds: Floats) -> Floats:
    """The squared standard error of the mean after each cut of 1 .. half of the steps."""
    return np.array([seconds[cut:].var() / (len(seconds) - cut) for cut in range(1, len(seconds) // 2 + 1)])


def _usual_range(seconds: Floats) -> tuple[float, float]:
    """3 robust standard deviations around the median of the second half."""
    tail = seconds[len(seconds) // 2 :]
    centre = float(np.median(tail))
    spread = _CLIP_SIGMAS * _MAD_TO_SIGMA * float(np.median(np.abs(tail - centre)))
    # Where most of the tail is one and the same number there is no scale; a permille is noise anywhere.
    spread = max(spread, centre * 1e-3)
    return centre - spread, centre + spread


def ideal_bubble(pipeline: int, num_micro_batches: int) -> float:
    """The share of a step that one-forward-one-backward leaves each stage idle: (p - 1) / (m + p - 1)."""
    return (pipeline - 1) / (num_micro_batches + pipeline - 1)


def imbalance(tokens: Sequence[int]) -> float | None:
    """The busiest expert's tokens over the mean expert's: 1 is even; None if no token came."""
    total = sum(tokens)
    return max(tokens) * len(tokens) / total if total else None


def _phases(record: Record, seconds_RS: Floats, steady: slice) -> tuple[dict[str, float], float | None]:
    """Seconds of each phase (mean over ranks, median over steady steps) and the share of the step they cover.

    A phase that a rank does not list took it no time. Coverage compares phases with each rank's own step, not
    with the slowest rank's, so that skew between ranks does not look like unmeasured time.
    """
    names = list(dict.fromkeys(name for rank in record.ranks for name in rank.phases_seconds))
    if not names:
        return {}, None
    nothing = [0.0] * len(record.steps)
    phases_PS = np.array(
        [np.mean([rank.phases_seconds.get(name, nothing) for rank in record.ranks], axis=0) for name in names]
    )
    medians = np.median(phases_PS[:, steady], axis=1)
    coverage = float(np.median((phases_PS.sum(axis=0) / seconds_RS.mean(axis=0))[steady]))
    return dict(zip(names, medians.tolist(), strict=True)), coverage


def _communication_share(record: Record, seconds_RS: Floats, steady: slice) -> float | None:
    """Time inside collectives over the step, mean over ranks; None unless every rank measured it."""
    if not all(rank.communication_seconds for rank in record.ranks):
        return None
    communication_RS = np.array([rank.communication_seconds for rank in record.ranks])
    return float(np.median((communication_RS.mean(axis=0) / seconds_RS.mean(axis=0))[steady]))


def _peak(record: Record) -> PeakMemory:
    most = max(record.ranks, key=lambda rank: rank.peak_bytes)
    least = min(record.ranks, key=lambda rank: rank.peak_bytes)
    return PeakMemory(most.peak_bytes, most.rank, least.peak_bytes, least.rank)
