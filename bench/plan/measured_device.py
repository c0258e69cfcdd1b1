"""A step on a device whose operators were timed: calls from the table or from their kin, host, exchanges. No torch.

What a rank does is counted, not run: operators by signature, collectives by group. Calls of a signature that was timed
take what they took. Others are interpolated among the timed calls of their kind: a + b FLOPs + c bytes, none of them
negative, bent through the calls that were timed, and so that more work never takes less. Where ranks share cores (R
ranks on C < R), a step takes the sum of all ranks' seconds over C, else the slowest stage's, with its bubble.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from bench.plan.device import Device
from bench.plan.measured import Crowding, TimedCollective, TimedOperator, same_exchange

_PASSES = ("forward", "backward", "recompute")  # what a micro-batch costs; all else is once a step
_ASIDE = ("looked up", "calls of exchange")  # parts of other terms
_LEAST_SECONDS = 1e-12
_FEWEST = 4  # timed calls of a kind, below which it is interpolated among all operators


@dataclass(frozen=True)
class OperatorCalls:
    """Calls of one operator with one set of shapes in a step of one rank; FLOPs and bytes are of one call."""

    phase: str
    component: str
    signature: str
    kind: str
    flops: int
    bytes: int
    calls: int


@dataclass(frozen=True)
class CollectiveCalls:
    """Calls of one collective in a step of one rank; bytes are of the larger sides, all calls together."""

    phase: str
    group: str
    ranks: int
    operation: str
    calls: int
    bytes: int


@dataclass(frozen=True)
class StepCounts:
    """What one rank does in a step, for itself and those alike."""

    rank: int
    stage: int
    ranks_alike: int
    operators: tuple[OperatorCalls, ...]
    collectives: tuple[CollectiveCalls, ...]


@dataclass(frozen=True)
class Shape:
    """Of the job: what its pipeline and the cores need to know."""

    world_size: int
    pipeline: int
    virtual_pipeline: int
    micro_batches: int


@dataclass(frozen=True)
class MeasuredPrediction:
    """A step's seconds, its terms over all ranks on the critical path, and how much of it was looked up."""

    step_seconds: float
    processor_seconds: float  # of all ranks, exchanges left out
    terms: Mapping[str, float]
    looked_up: float  # share of operators' seconds whose very signature was timed
    crowded_seconds: float  # of the step before crowding, what takes longer where ranks run beside each other


class OperatorTable:
    """Seconds of a call: looked up, or interpolated among the calls of its kind."""

    def __init__(self, timed: Sequence[TimedOperator]) -> None:
        if not timed:
            raise ValueError(
                "the profile holds no timed operators; write one with `python -m bench calibrate -o FILE.json`"
            )
        self._seconds = {each.signature: each.seconds for each in timed}
        by_kind: dict[str, list[TimedOperator]] = defaultdict(list)
        for each in timed:
            by_kind[each.kind].append(each)
            by_kind[_operator(each.kind)].append(each)
        self._curves = {kind: Curve(each) for kind, each in by_kind.items() if len(each) >= _FEWEST}
        self._any = Curve(timed)

    def is_timed(self, signature: str) -> bool:
        """Whether this very signature was timed."""
        return signature in self._seconds

    def seconds(self, calls: OperatorCalls) -> float:
        """Of one call."""
        known = self._seconds.get(calls.signature)
        return known if known is not None else self.interpolated(calls.kind, calls.flops, calls.bytes)

    def interpolated(self, kind: str, flops: int, num_bytes: int) -> float:
        """Of one call of that kind, by its work alone."""
        curve = self._curves.get(kind, self._curves.get(_operator(kind), self._any))
        return curve.seconds(flops, num_bytes)


class Curve:
    """Seconds of calls of one kind by their work: their line, bent so that it passes through what was timed.

    Along the line, times are made monotone: the mean of the highest so far and of the lowest to come, in logarithms.
    Beyond what was timed, the line's own slope goes on.
    """

    def __init__(self, timed: Sequence[TimedOperator]) -> None:
        self._line = line_of(timed)
        along = np.array([self._along(each.flops, each.bytes) for each in timed])
        seconds = np.log([each.seconds for each in timed])
        self._x, place = np.unique(along, return_inverse=True)
        means = np.bincount(place, seconds) / np.bincount(place)
        lowest_to_come = np.minimum.accumulate(means[::-1])[::-1]
        self._y = (np.maximum.accumulate(means) + lowest_to_come) / 2

    def _along(self, flops: int, num_bytes: int) -> float:
        return float(np.log(max(_LEAST_SECONDS, float(self._line @ _columns(flops, num_bytes)))))

    def seconds(self, flops: int, num_bytes: int) -> float:
        """Of one call with this work."""
        along = self._along(flops, num_bytes)
        beyond = along - min(max(along, self._x[0]), self._x[-1])
        return float(np.exp(np.interp(along, self._x, self._y) + beyond))


def line_of(timed: Iterable[TimedOperator]) -> npt.NDArray[np.float64]:
    """(a, b, c) of a + b FLOPs + c bytes, none negative: least squares of relative errors."""
    rows = np.array([_columns(each.flops, each.bytes) / each.seconds for each in timed])
    scale = rows.max(axis=0)
    scale[scale == 0.0] = 1.0
    found, _ = nnls(rows / scale, np.ones(len(rows)))
    return np.asarray(found / scale)


def _columns(flops: int, num_bytes: int) -> npt.NDArray[np.float64]:
    return np.array([1.0, flops, num_bytes])


def _operator(kind: str) -> str:
    return kind.partition(" ")[0]


def predict_measured(counts: Sequence[StepCounts], shape: Shape, device: Device) -> MeasuredPrediction:
    """The step of a job whose ranks' work is counted, on a device that was calibrated.

    Raises:
        ValueError: the profile holds no timed operators.
    """
    measured = device.measured
    table = OperatorTable(measured.operators if measured is not None else ())
    ranks = [_rank_terms(each, table, shape, device) for each in counts]
    weights = [each.ranks_alike for each in counts]
    cores = device.cores or shape.world_size
    total = _summed(zip(ranks, weights, strict=True))
    processor = sum(value for term, value in total.items() if term not in ("exchange", *_ASIDE))
    if shape.world_size > cores:
        terms = {term: value / cores for term, value in total.items()}
        terms["exchange"] -= terms["calls of exchange"]  # who waits leaves its core to others
        crowded, computing = _seconds_of(terms) - terms["exchange"], 0.0
    else:
        terms = max((_in_turn(each, shape) for each in ranks), key=_seconds_of)
        crowded, computing = terms["calls of exchange"], _seconds_of(terms) - terms["exchange"]
    factor, of_computing = crowding_factors(measured.crowding if measured is not None else (), shape.world_size)
    more = (factor - 1.0) * crowded + (of_computing - 1.0) * computing
    shown = {term: value for term, value in terms.items() if term not in _ASIDE} | {"crowding": more}
    operators = total["passes"] + total["once"]
    looked_up = total["looked up"] / operators if operators else 0.0
    return MeasuredPrediction(sum(shown.values()), processor, shown, looked_up, crowded)


def crowding_factors(rows: Sequence[Crowding], ranks: int) -> tuple[float, float]:
    """`factor` and `computing_factor` of a job of so many ranks, between the jobs that were run; 1 of one rank."""
    if not rows or ranks == 1:
        return 1.0, 1.0
    by_ranks = sorted((each.job_ranks, each.factor, each.computing_factor) for each in rows)
    sizes, *factors = np.log(by_ranks).T
    factor, of_computing = (float(np.exp(np.interp(np.log(ranks), sizes, each))) for each in factors)
    return factor, of_computing


def _seconds_of(terms: Mapping[str, float]) -> float:
    return sum(value for term, value in terms.items() if term not in _ASIDE)


def _summed(ranks: Iterable[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for terms, weight in ranks:
        for term, value in terms.items():
            total[term] += weight * value
    return total


def _rank_terms(counts: StepCounts, table: OperatorTable, shape: Shape, device: Device) -> dict[str, float]:
    """Seconds of one rank: operators in the passes and once a step, the host's in both, exchanges."""
    terms = dict.fromkeys(("passes", "once", "host of passes", "host", "exchange", *_ASIDE), 0.0)
    a_call = device.host.seconds_a_call.value
    for each in counts.operators:
        seconds = each.calls * table.seconds(each)
        in_passes = each.phase in _PASSES
        terms["passes" if in_passes else "once"] += seconds
        terms["host of passes" if in_passes else "host"] += each.calls * a_call
        terms["looked up"] += seconds * table.is_timed(each.signature)
    terms["host"] += device.host.seconds_a_step.value
    measured = device.measured
    exchanges = measured.collectives if measured is not None else []
    for calls in counts.collectives:
        terms["exchange"] += exchange_seconds(calls, shape.world_size, exchanges, device)
        terms["calls of exchange"] += exchange_seconds(replace(calls, bytes=0), shape.world_size, exchanges, device)
    return terms


def _in_turn(terms: Mapping[str, float], shape: Shape) -> dict[str, float]:
    """Terms of a stage whose ranks have cores of their own, and the bubble that the pipeline adds."""
    passes = terms["passes"] + terms["host of passes"]
    bubble = passes * (shape.pipeline - 1) / (shape.virtual_pipeline * shape.micro_batches)
    return {**terms, "bubble": bubble}


def exchange_seconds(calls: CollectiveCalls, job_ranks: int, timed: Sequence[TimedCollective], device: Device) -> float:
    """A rank's seconds in these calls: wall where the job's ranks have cores of their own, else its share of them."""
    if calls.ranks < 2 or not calls.calls:
        return 0.0
    found = _nearest(calls, job_ranks, timed)
    if found is None:
        links = device.links
        each = links.call_seconds.value + (calls.ranks - 1) * links.rank_seconds.value
        return calls.calls * each + calls.bytes / links.bytes_a_second.value
    return calls.calls * found.call_seconds + calls.bytes / found.bytes_a_second


def _nearest(calls: CollectiveCalls, job_ranks: int, timed: Sequence[TimedCollective]) -> TimedCollective | None:
    """The measurement of this operation on the group and in the job that are nearest in size."""
    operation = same_exchange(calls.operation)
    group = 2 if operation == "send" else calls.ranks

    def distance(each: TimedCollective) -> tuple[float, float]:
        jobs = 0.0 if each.job_ranks is None else abs(np.log(each.job_ranks / job_ranks))
        return float(jobs), float(abs(np.log(each.ranks / group)))

    return min((each for each in timed if each.operation == operation), key=distance, default=None)
