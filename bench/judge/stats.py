"""From the raw samples of one record to the figures that people quote and gates judge.

Pure functions: a record in, a frozen `Summary` out. The time of a step is that of its slowest rank, because
every rank waits for it. All figures of speed are taken over the steady steps, which `find_steady` separates
from the warm-up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.records.record import Record

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
    """The figures of one record. Seconds and rates are over the `steady_steps` from `steady_from` on.

    Rates (tokens/s/p, TFLOP/s, MFU) are by the mean step: what only some steps lose is lost all the same.
    """

    step_seconds: tuple[float, ...]
    steady_from: int
    warmup_rule: WarmupRule
    steady_steps: int
    median_step_seconds: float
    mean_step_seconds: float
    p5_step_seconds: float
    p95_step_seconds: float
    cv: float
    tokens_per_second_per_processor: float
    tflops_per_second_per_processor: float
    mfu: float | None
    skew: float
    skew_seconds: float
    peak: PeakMemory
    phase_seconds: dict[str, float]
    coverage: float | None
    communication_share: float | None
    collective_seconds: dict[str, float]
    collective_calls: dict[str, int]
    collective_bytes: dict[str, int]
    module_seconds: dict[str, float]
    bubble_ideal: float
    bubble_measured: float | None
    expert_imbalance: tuple[float | None, ...]
    loss_first: float | None
    loss_last: float | None


def summarise(record: Record) -> Summary:
    """Every figure the report shows and the gate judges; needs at least one step on at least one rank."""
    if not record.steps or not record.ranks:
        raise ValueError(f"record {record.id} of {record.case} holds no steps: there is nothing to summarise")
    seconds_RS = _rows([rank.step_seconds for rank in record.ranks])
    slowest_S = seconds_RS.max(axis=0)
    step_seconds = tuple(slowest_S.tolist())
    warmup = find_steady(step_seconds)
    steady = slice(warmup.steady_from, None)
    steady_S = slowest_S[steady]
    middle_S = _medians(seconds_RS.T)[steady]
    p5, median, p95 = np.percentile(steady_S, [5, 50, 95]).tolist()
    mean = float(steady_S.mean())
    flops_per_second = record.work.model_flops_per_step / mean / record.layout.world_size
    layout, peak_flops = record.layout, record.device.peak_flops_per_second
    phases, coverage = _phases(record, seconds_RS, steady)
    return Summary(
        step_seconds=step_seconds,
        steady_from=warmup.steady_from,
        warmup_rule=warmup.rule,
        steady_steps=len(steady_S),
        median_step_seconds=median,
        mean_step_seconds=mean,
        p5_step_seconds=p5,
        p95_step_seconds=p95,
        cv=float(steady_S.std(ddof=1) / mean) if len(steady_S) > 1 else 0.0,
        tokens_per_second_per_processor=record.work.tokens_per_step / mean / record.layout.world_size,
        tflops_per_second_per_processor=flops_per_second / 1e12,
        mfu=None if peak_flops is None else flops_per_second / peak_flops,
        skew=float(_medians(steady_S / middle_S)) - 1.0,
        skew_seconds=float(_medians(steady_S - middle_S)),
        peak=_peak(record),
        phase_seconds=phases,
        coverage=coverage,
        communication_share=_communication_share(record, seconds_RS, steady),
        collective_seconds=_collective_seconds(record, steady),
        collective_calls=_collective_totals(record, "calls"),
        collective_bytes=_collective_totals(record, "bytes"),
        module_seconds=_module_seconds(record),
        bubble_ideal=ideal_bubble(layout.pipeline, record.work.num_micro_batches, layout.virtual_pipeline),
        bubble_measured=_bubble(record, steady),
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
    errors = _squared_errors(np.clip(seconds, lowest, highest), (lowest + highest) / 2)
    # Rounding noise must not order cuts of a series that does not vary at all.
    nearly_best = errors.min() * _NEARLY_BEST + 1e-18 * float(np.square(seconds).max())
    cut = 1 + int(np.argmax(errors <= nearly_best))
    # Clipping also hides how slow a slow start was: leading steps above the usual range go in any case.
    while cut < count // 2 and seconds[cut] > highest:
        cut += 1
    return Warmup(cut, "unsettled" if cut == count // 2 else "detected")


def _squared_errors(seconds: Floats, centre: float) -> Floats:
    """The squared standard error of the mean after each cut of 1 .. half of the steps, from sums over each tail.

    Clipped times are near the centre, so that the difference of squares loses no digits that matter.
    """
    half = len(seconds) // 2
    from_centre = (seconds - centre)[::-1]
    counts = np.arange(len(seconds) - 1, len(seconds) - half - 1, -1)
    sums, squares = (np.cumsum(values)[counts - 1] for values in (from_centre, np.square(from_centre)))
    return np.asarray((squares - np.square(sums) / counts) / np.square(counts), dtype=np.float64)


def _usual_range(seconds: Floats) -> tuple[float, float]:
    """3 robust standard deviations around the median of the second half."""
    tail = seconds[len(seconds) // 2 :]
    centre = float(_medians(tail))
    spread = _CLIP_SIGMAS * _MAD_TO_SIGMA * float(_medians(np.abs(tail - centre)))
    # Where most of the tail is one and the same number there is no scale; a permille is noise anywhere.
    spread = max(spread, centre * 1e-3)
    return centre - spread, centre + spread


def ideal_bubble(pipeline: int, num_micro_batches: int, chunks: int = 1) -> float:
    """The share of a step that one-forward-one-backward leaves each stage idle: (p - 1) / (m v + p - 1).

    Of p stages of v interleaved chunks, over m micro-batches; that is (p - 1) / (m v) of the time at work.
    """
    return (pipeline - 1) / (num_micro_batches * chunks + pipeline - 1)


def bubble_of_step(record: Record, index: int) -> float | None:
    """The same share as `bubble_measured`, of one step."""
    return _bubble(record, slice(index, index + 1 or None))


def _bubble(record: Record, steps: slice) -> float | None:
    """The share of the pipeline's part of a step in which stages do not work; mean over stages, median over steps.

    It lasts until the last stage to finish has run its last backward. A stage that finishes earlier waits on, in
    whichever phase comes next: that counts as well, as in the ideal. Sends and receives are not told apart from waits.
    Of a rank alone there is none: it waits for nobody.
    """
    if record.lone_rank or not all(rank.phases_seconds.keys() >= _OF_PIPELINE for rank in record.ranks):
        return None
    work, taken = [], []
    for stage in sorted({rank.stage for rank in record.ranks}):
        phases = [rank.phases_seconds for rank in record.ranks if rank.stage == stage]
        forward, backward, waits = (
            _rows([each[name] for each in phases])[:, steps].mean(axis=0)
            for name in ("forward", "backward", "pipeline")
        )
        work.append(forward + backward)
        taken.append(work[-1] + waits)
    whole_S = np.max(taken, axis=0)
    return float(_medians(1 - np.mean(work, axis=0) / whole_S)) if whole_S.all() else None


_OF_PIPELINE = {"forward", "backward", "pipeline"}


def imbalance(tokens: Sequence[int]) -> float | None:
    """The busiest expert's tokens over the mean expert's: 1 is even; None if no token came."""
    total = sum(tokens)
    return max(tokens) * len(tokens) / total if total else None


def _phases(record: Record, seconds_RS: Floats, steady: slice) -> tuple[dict[str, float], float | None]:
    """Seconds of each phase (mean over ranks, median over steady steps) and the share of the step they cover.

    A phase that a rank does not list took it no time. Coverage compares phases with each rank's own step, not
    with the slowest rank's, so that skew between ranks does not look like unmeasured time.
    """
    listed = [rank.phases_seconds for rank in record.ranks]
    names, phases_PS = _mean_over_ranks(listed, len(record.steps))
    if not names:
        return {}, None
    medians = _medians(phases_PS[:, steady])
    coverage = float(_medians((phases_PS.sum(axis=0) / seconds_RS.mean(axis=0))[steady]))
    return dict(zip(names, medians.tolist(), strict=True)), coverage


def _communication_share(record: Record, seconds_RS: Floats, steady: slice) -> float | None:
    """Time inside collectives over the step, mean over ranks; None unless every rank measured it, with the others."""
    if record.lone_rank or not all(rank.communication_seconds for rank in record.ranks):
        return None
    communication_RS = _rows([rank.communication_seconds for rank in record.ranks])
    return float(_medians((communication_RS.mean(axis=0) / seconds_RS.mean(axis=0))[steady]))


def _collective_seconds(record: Record, steady: slice) -> dict[str, float]:
    """Seconds a step inside each kind of collective, mean over ranks, median over the steady steps."""
    listed = [{name: each.seconds for name, each in rank.collectives.items()} for rank in record.ranks]
    names, collectives_CS = _mean_over_ranks(listed, len(record.steps))
    if not names:
        return {}
    return dict(zip(names, _medians(collectives_CS[:, steady]).tolist(), strict=True))


def _module_seconds(record: Record) -> dict[str, float]:
    """Seconds of the profiled step in each kind of module, forward and backward, mean over the ranks that say."""
    told = [rank.modules_seconds for rank in record.ranks if rank.modules_seconds]
    names = dict.fromkeys(name for each in told for name in each)
    return {
        name: sum(each[name].forward + each[name].backward for each in told if name in each) / len(told)
        for name in names
    }


def _mean_over_ranks(listed: Sequence[Mapping[str, Sequence[float]]], steps: int) -> tuple[list[str], Floats]:
    """Every name that a rank lists, and its mean over all ranks [names, steps]; absent is nothing."""
    names = list(dict.fromkeys(name for each in listed for name in each))
    nothing = [0.0] * steps
    values = [each.get(name, nothing) for name in names for each in listed]
    together = _rows(values).reshape(len(names), len(listed), steps)
    return names, np.asarray(together.mean(axis=1), dtype=np.float64)


def _rows(lists: Sequence[Sequence[float]]) -> Floats:
    """Lists of one length as the rows of an array: np.array's numbers, for half of the time."""
    shape = (len(lists), len(lists[0]) if lists else 0)
    return np.fromiter(itertools.chain.from_iterable(lists), np.float64, math.prod(shape)).reshape(shape)


def _medians(values: Floats) -> Floats:
    """The median along the last axis: np.median's, for a tenth of the time where there are few values."""
    ordered, count = np.sort(values, axis=-1), values.shape[-1]
    return np.asarray((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)


def _collective_totals(record: Record, field: Literal["calls", "bytes"]) -> dict[str, int]:
    """Calls or bytes of each kind of collective in all steps on all ranks: exact, without noise."""
    return {
        name: sum(getattr(rank.collectives[name], field) for rank in record.ranks if name in rank.collectives)
        for name in _collective_names(record)
    }


def _collective_names(record: Record) -> list[str]:
    return list(dict.fromkeys(name for rank in record.ranks for name in rank.collectives))


def _peak(record: Record) -> PeakMemory:
    most = max(record.ranks, key=lambda rank: rank.peak_bytes)
    least = min(record.ranks, key=lambda rank: rank.peak_bytes)
    return PeakMemory(most.peak_bytes, most.rank, least.peak_bytes, least.rank)
