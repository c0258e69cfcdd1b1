"""Why a run may not become part of a baseline: signs that it measured noise of the machine, not the program.

Every later verdict rests on the baseline's between-run spread, so a noisy run in it hides slowdowns for as long as it
is stored. Pure functions, no torch: a record in, sentences out, each with the value and its bound.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

from bench.judge.stats import Summary, summarise
from bench.records.record import Host, Record

MAX_CV_PERCENT = 5.0
MAX_DRIFT_PERCENT = 2.0  # of a step, from the first third of the steady steps to the last
DRIFT_ERROR = 0.01  # the chance to see a drift in independent steps that have none
MAX_LOST_PERCENT = 1.0  # of the run's time, and of its cores' time
MAX_JUMP = 10.0  # one steady step over their median


def complaints(record: Record, *, max_cv_percent: float = MAX_CV_PERCENT) -> list[str]:
    """Why this run is too noisy for a baseline; nothing where it is quiet. A void run says why it is void."""
    if not record.valid:
        return [f"the run is void: {reason}" for reason in record.void_reasons]
    summary = summarise(record)
    return [*_of_steps(summary, max_cv_percent), *_of_warmup(summary), *_of_host(record, summary)]


def _of_steps(summary: Summary, max_cv_percent: float) -> Iterator[str]:
    steady = np.asarray(summary.step_seconds[summary.steady_from :], dtype=np.float64)
    if 100 * summary.cv > max_cv_percent:
        yield (
            f"steady steps vary by {100 * summary.cv:.1f} % (coefficient of variation), "
            f"more than the {max_cv_percent:g} % allowed"
        )
    if (drift := _drift_percent(steady)) is not None:
        yield (
            f"steady steps drift by {drift:+.1f} % from their first third to their last "
            f"(significant at {DRIFT_ERROR:.0%}), more than the {MAX_DRIFT_PERCENT:g} % allowed"
        )
    slowest = int(steady.argmax())
    if steady[slowest] > MAX_JUMP * summary.median_step_seconds:
        yield (
            f"step {summary.steady_from + slowest + 1} of {len(summary.step_seconds)} took {steady[slowest]:.4g} s, "
            f"more than {MAX_JUMP:g} times the median of {summary.median_step_seconds:.4g} s: "
            "it stalled, or the clock jumped"
        )


def _drift_percent(steady: npt.NDArray[np.float64]) -> float | None:
    """How far the steps drifted, if that is significant and too far.

    Kendall's rank test is exact for short runs, where Spearman's approximation calls five rising steps certain.
    """
    third = len(steady) // 3
    if third < 1:
        return None
    first, last = np.median(steady[:third]), np.median(steady[-third:])
    moved = float(100 * (last - first) / np.median(steady))
    trend = distributions.kendalltau(np.arange(len(steady)), steady)
    # of steps that are all alike the chance is not a number, which is below nothing
    return moved if trend.pvalue < DRIFT_ERROR and abs(moved) > MAX_DRIFT_PERCENT else None


def _of_warmup(summary: Summary) -> Iterator[str]:
    if summary.warmup_rule == "unsettled":
        yield (
            f"the warm-up never settled: step times still changed after {summary.steady_from} of "
            f"{len(summary.step_seconds)} steps, and at most half may be warm-up; run more steps"
        )


def _of_host(record: Record, summary: Summary) -> Iterator[str]:
    """What the system says was lost. A record of a foreign log has no host, so that nothing is known of it."""
    host = record.host
    if host is None:
        return
    seconds = sum(summary.step_seconds) + (record.startup_seconds or 0.0)
    yield from _lost(host, seconds)
    if record.device.kind == "cpu" and host.load_average_1m > host.cores:
        yield (
            f"the load average before the start was {host.load_average_1m:.1f}, more than the {host.cores} cores: "
            "others used this machine, or the run before had just ended"
        )


def _lost(host: Host, seconds: float) -> Iterator[str]:
    throttled, stolen = host.throttled_seconds or 0.0, host.stolen_seconds or 0.0
    if 100 * throttled > MAX_LOST_PERCENT * seconds:
        yield (
            f"throttled for {throttled:.4g} s of a run of {seconds:.4g} s by its CPU quota, "
            f"more than the {MAX_LOST_PERCENT:g} % allowed"
        )
    if 100 * stolen > MAX_LOST_PERCENT * seconds * host.cores:
        yield (
            f"the hypervisor stole {stolen:.4g} s of {host.cores} cores x {seconds:.4g} s, "
            f"more than the {MAX_LOST_PERCENT:g} % allowed"
        )
