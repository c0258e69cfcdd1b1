"""The nights after a baseline, out of records: one night is one session. Pure functions."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from bench.judge.baseline import Baseline
from bench.judge.difference import MIN_SESSIONS
from bench.judge.disturbance import disturbed
from bench.judge.metrics import MEAN, STEP, family, figures_of
from bench.judge.nightly import Series
from bench.judge.recorded_run import RecordedRun
from bench.judge.sessions import labels, stamp_of
from bench.judge.stats import summarise
from bench.judge.void import why_invalid, why_void
from bench.records.fields import utc_moment
from bench.records.record import Record

JUDGED = (MEAN, STEP)  # the mean step is tokens/s/p


@dataclass(frozen=True)
class Nights:
    """The nights since a baseline was recorded, the oldest first, each with its runs; and what was left out, in words.

    `sessions` is the session of each run of the baseline.
    """

    baseline: Baseline
    sessions: tuple[str, ...]
    nights: tuple[tuple[Record, ...], ...]
    left_out: tuple[str, ...]

    @property
    def number_of_sessions(self) -> int:
        return len(set(self.sessions))

    def series(self) -> dict[str, Series]:
        """The figures that are judged."""
        theirs = [run.known_figures for run in self.baseline.runs]
        ours = [figures_of(summarise(run)) for night in self.nights for run in night]
        places = [place for place, night in enumerate(self.nights) for _ in night]
        found = family(theirs, ours or theirs)
        return {
            name: Series(
                _means([run[name] for run in theirs], self.sessions),
                _means([run[name] for run in ours], places),
                found[name].resolution,
            )
            for name in JUDGED
        }


def nights_of(runs: Sequence[Record], baselines: Sequence[Baseline]) -> Nights:
    """The nights of one case, since the last run of the newest night's baseline.

    Raises:
        ValueError: no baseline of this key and software, too few sessions in it, or no night after it.
    """
    runs = sorted(runs, key=lambda run: utc_moment(run.created_at))
    baseline = _baseline_of(runs[-1], baselines)
    names = labels([*map(stamp_of, baseline.runs)], [*map(stamp_of, runs)])
    sessions = tuple(names[: len(baseline.runs)])
    if len(set(sessions)) < MIN_SESSIONS:
        raise ValueError(
            f"{baseline.label!r} holds {len(set(sessions))} session{'s' * (len(set(sessions)) > 1)}, at least "
            f"{MIN_SESSIONS} needed to know how far sessions are apart; add some: "
            "`python -m bench baseline add LABEL RECORDS`"
        )
    return _sorted(baseline, sessions, list(zip(runs, names[len(baseline.runs) :], strict=True)))


def _baseline_of(run: Record, baselines: Sequence[Baseline]) -> Baseline:
    related = [each for each in baselines if each.kind == "recorded" and each.role == "judge" and each.case == run.case]
    if not related:
        raise ValueError(f"{run.case} has no recorded baseline that judges; {_ANEW}")
    nearest = min(related, key=lambda each: len(each.differences(run)))
    _require_key(run, nearest)
    return nearest


_ANEW = (
    "leave older runs out with --since DAY, or record a baseline of such runs: "
    "`python -m bench baseline record RECORDS`"
)


def _require_key(run: Record, baseline: Baseline) -> None:
    if differences := baseline.differences(run):
        raise ValueError(f"record {run.id} is no night of {baseline.label!r}: {differences[0]}; {_ANEW}")


def _sorted(baseline: Baseline, sessions: tuple[str, ...], named: list[tuple[Record, str]]) -> Nights:
    """Which runs are judged. It never depends on how fast a run was: that would choose the error."""
    last = max(_moment(run) for run in baseline.runs)
    why, nights = Counter[str](), dict[str, list[Record]]()
    for run, name in named:
        if name in sessions or utc_moment(run.created_at) <= last:
            why["from before the baseline's last, or of its sessions"] += 1
        elif reason := _why_not_judged(run, baseline):
            why[reason] += 1
        else:
            nights.setdefault(name, []).append(run)
    # A night of fewer runs varies more than the baseline's sessions do.
    least = statistics.median_low(Counter(sessions).values())
    few = sum(len(night) < least for night in nights.values())
    told = [f"{count} run{'s' * (count > 1)} {reason}" for reason, count in why.items()]
    told += [f"{few} night{'s' * (few > 1)} of fewer runs than the baseline's sessions ({least})"] if few else []
    whole = tuple(tuple(night) for night in nights.values() if len(night) >= least)
    if not whole:
        raise ValueError(
            f"{baseline.case} has no night to judge after {baseline.label!r}{': left out ' * bool(told)}"
            f"{', '.join(told)}; every night: "
            f"`pytest bench/ --benchmark --case {shlex.quote(baseline.case)} --runs {least}`"
        )
    return Nights(baseline, sessions, whole, tuple(told))


def _moment(run: RecordedRun) -> datetime:
    try:
        return utc_moment(run.created_at)
    except ValueError as error:
        raise ValueError(f"the baseline's run {run.record_id}: created_at {run.created_at!r} {error}") from None


def _why_not_judged(run: Record, baseline: Baseline) -> str | None:
    _require_key(run, baseline)
    if why_invalid(run) or why_void(run, summarise(run)):
        return "void"
    return "disturbed from outside" if disturbed(run) else None


def _means(values: Sequence[float], sessions: Iterable[object]) -> list[float]:
    """Of the logarithms, for each session, in the order of their first runs."""
    by_session: dict[object, list[float]] = {}
    for value, session in zip(np.log(values).tolist(), sessions, strict=True):
        by_session.setdefault(session, []).append(value)
    return [statistics.fmean(each) for each in by_session.values()]
