"""The sessions of a baseline: which they are, whether they may stand together, what more of them add, what they show.

A session is one machine, boot, day and job (bench.judge.sessions). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.judge.baseline import Baseline, other_versions, recorded_label
from bench.judge.difference import MIN_BASELINE_RUNS, MIN_SESSIONS, Comparison
from bench.judge.evidence import weigh
from bench.judge.gate import judge
from bench.judge.metrics import MEAN
from bench.judge.recorded_run import RecordedRun, recorded_run, why_edited
from bench.judge.sessions import (
    OF_A_VIRTUAL_MACHINE,
    Level,
    are_virtual,
    assumed_level,
    labels,
    session_name,
    stamp_of,
)
from bench.judge.words import smallest
from bench.records.fields import utc_moment
from bench.records.jsonfile import first_fault
from bench.records.record import Record, Session

_NEW_RUNS = 5  # of another session, whose smallest visible slowdown is stated
_SAME_SECOND = 1.0  # a time is stated to the second


@dataclass(frozen=True)
class RunSession:
    """The runs of one session, in the order of time; `start` and `end` in seconds are None where no time says."""

    session: Session | None
    runs: tuple[Record | RecordedRun, ...]
    start: float | None
    end: float | None

    @property
    def name(self) -> str:
        """What tells it from others."""
        return session_name(self.runs[0])

    @property
    def told(self) -> str:
        """The name, and how many runs were made when."""
        first, last = self.runs[0].created_at, self.runs[-1].created_at
        when = first if first == last else f"{first} to {last}"
        return f"{self.name} {len(self.runs)} run{'s' * (len(self.runs) > 1)}, {when}"


def sessions_of(runs: Sequence[Record] | Sequence[RecordedRun]) -> list[RunSession]:
    """The sessions of some runs, in the order of their first run's time."""
    found: dict[str, list[Record | RecordedRun]] = {}
    known: list[Record | RecordedRun] = [*runs]
    named = zip(labels([stamp_of(run) for run in known]), known, strict=True)
    for name, run in sorted(named, key=lambda pair: pair[1].created_at):
        found.setdefault(name, []).append(run)
    return [_session(each) for each in found.values()]


def _session(runs: Sequence[Record | RecordedRun]) -> RunSession:
    try:
        ends = [utc_moment(run.created_at).timestamp() for run in runs]
    except ValueError:  # a time that is not in UTC says nothing
        return RunSession(runs[0].session, tuple(runs), None, None)
    starts = [end - stamp_of(run).seconds for end, run in zip(ends, runs, strict=True)]
    return RunSession(runs[0].session, tuple(runs), min(starts), max(ends))


def require_sessions(records: Sequence[Record], least: int) -> None:
    """Refuse runs of fewer sessions than that, and say which they are of."""
    found = sessions_of(records)
    if len(found) < least:
        told = "; ".join(each.told for each in found)
        raise ValueError(
            f"the runs are of {len(found)} session{'s' * (len(found) != 1)}, and --sessions {least} asks for {least} "
            f"({told}); run again on another day, after a restart, or in another job"
        )


def require_sound(runs: Sequence[Record] | Sequence[RecordedRun]) -> None:
    """Refuse sessions that differ in software or sources, or that were on one machine at one time, and name both."""
    if edited := why_edited(runs):
        raise ValueError(edited)
    found = sessions_of(runs)
    for each in found[1:]:
        if moved := other_versions(each.runs[0].software, found[0].runs[0].software):
            name, its, first = moved[0]
            raise ValueError(
                f"two sessions differ in software: {name} is {first} in {found[0].name} and {its} in {each.name}; "
                "record a baseline for each"
            )
    if pair := overlapping(found):
        raise ValueError(
            f"two sessions overlap on one machine: {pair[0].told}, and {pair[1].told}; two jobs at once disturb "
            "each other, so run them again, one after the other"
        )


def overlapping(sessions: Sequence[RunSession]) -> tuple[RunSession, RunSession] | None:
    """Two sessions that were on one machine at one time."""
    known = [(each, each.start, each.end) for each in sessions if each.session is not None]
    timed = sorted(
        ((start, end, each) for each, start, end in known if start is not None and end is not None),
        key=lambda part: part[:2],
    )
    for place, (_, end, one) in enumerate(timed):
        for start, _, other in timed[place + 1 :]:
            same = (
                one.session is not None and other.session is not None and one.session.machine == other.session.machine
            )
            if same and start < end - _SAME_SECOND:
                return one, other
    return None


def added(baseline: Baseline, records: Sequence[Record], today: date) -> Baseline:
    """The baseline with the runs of further sessions: a new label, the same rationale.

    Raises:
        ValueError: no recorded baseline; runs of another key or software, that it has already, that are void, or whose
            sessions cannot stand beside its own.
    """
    if baseline.kind != "recorded" or baseline.role != "judge":
        raise ValueError(
            f"{baseline.label!r} is {baseline.kind}, with the role {baseline.role}: runs are added to none such"
        )
    if not records:
        raise ValueError("there are no records to add")
    known = {run.record_id for run in baseline.runs}
    for record in records:
        _require_fitting(baseline, record, known)
        known.add(record.id)
    runs = [*baseline.runs, *map(recorded_run, records)]
    require_sound(runs)
    return _of_runs(baseline, runs, len(records), today)


def _require_fitting(baseline: Baseline, record: Record, known: set[str]) -> None:
    if record.id in known:
        raise ValueError(f"run {record.id} is in the baseline already, or given twice")
    if differences := baseline.differences(record):
        raise ValueError(f"run {record.id} is of another key: {differences[0]}")
    verdict = judge(record, [baseline])
    if verdict.state == "void":
        raise ValueError(f"run {record.id}: {verdict.sentence}; a baseline's runs must all compute the same")


def _of_runs(baseline: Baseline, runs: Sequence[RecordedRun], new: int, today: date) -> Baseline:
    mean_seconds = median(run.known_figures[MEAN] for run in runs)
    tokens = baseline.sequence_length * baseline.global_batch
    content: Mapping[str, Any] = baseline.model_dump() | {
        "label": recorded_label(baseline.case, baseline.device.name, {run.record_id: run.created_at for run in runs}),
        "metrics": {
            "tokens_per_second_per_processor": tokens / mean_seconds / baseline.layout.world_size,
            "step_seconds": median(median(run.steady_step_seconds) for run in runs),
        },
        "source": f"{len(runs)} recorded runs of this project in {len(sessions_of(runs))} sessions; the last {new} "
        f"were added on {today.isoformat()}",
        "runs": [run.model_dump() for run in runs],
    }
    try:
        return Baseline.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{baseline.label!r} with these runs: {first_fault(error)}") from None


# ---- shown ---------------------------------------------------------------------------------------------


def session_facts(baseline: Baseline) -> list[tuple[str, object]]:
    """For `show`: each session with its level, what is known of the level between them, and what a judgement sees."""
    if not baseline.runs:
        return []
    found = sessions_of(baseline.runs)
    return [
        *(("session", each) for each in _levels(found)),
        ("between sessions", _known(baseline, found)),
        *_visible(baseline),
    ]


def _levels(sessions: Sequence[RunSession]) -> list[str]:
    medians = [median(_step(run) for run in each.runs) for each in sessions]
    middle = median(medians)
    return [
        f"{each.told}, {seconds:.4g} s/step ({100 * (seconds / middle - 1):+.2f} %)"
        + "; no boot id is known, so it is told by machine and day"
        * (each.session is not None and each.session.boot is None)
        for each, seconds in zip(sessions, medians, strict=True)
    ]


def _step(run: Record | RecordedRun) -> float:
    return median(run.steady_step_seconds) if isinstance(run, RecordedRun) else median(run.ranks[0].step_seconds)


def _known(baseline: Baseline, sessions: Sequence[RunSession]) -> str:
    number = len(sessions)
    if number >= MIN_SESSIONS:
        return f"known from its own {number} sessions"
    level = _assumed(baseline)
    of = "a virtual machine" if level.origin == OF_A_VIRTUAL_MACHINE else "its kind of device"
    return (
        f"{level.percent:g} % is assumed for {of} (--session-spread gives another): {number} "
        f"session{'s' * (number > 1)}, and {MIN_SESSIONS} show its own"
    )


def _assumed(baseline: Baseline) -> Level:
    return assumed_level(baseline.device.kinds[0], None, are_virtual(run.host for run in baseline.runs))


def _visible(baseline: Baseline) -> list[tuple[str, object]]:
    """The smallest slowdown that five new runs of another session show, if they vary as the baseline's do."""
    if len(baseline.runs) < MIN_BASELINE_RUNS:
        return []
    stamps = labels([*map(stamp_of, baseline.runs)])
    logs = np.log([_step(run) for run in baseline.runs])
    pattern = np.linspace(-1.0, 1.0, _NEW_RUNS)
    within = _within_spread(logs, stamps)
    after = np.exp(logs.mean() + within * pattern / pattern.std(ddof=1))
    evidence = weigh(
        Comparison(
            before=np.exp(logs).tolist(),
            after=after.tolist(),
            sessions=(stamps, ["another"] * _NEW_RUNS),
            session_spread=_assumed(baseline).spread,
        )
    )
    text = (
        f"{smallest(max(evidence.visible_percent, baseline.floor_percent))} is found by {_NEW_RUNS} runs of another "
        f"session ({evidence.session_percent or 0.0:.2f} % between sessions)"
    )
    return [("across sessions", text)]


def _within_spread(logs: np.ndarray[Any, np.dtype[np.float64]], stamps: Sequence[str]) -> float:
    """Between runs of one session, one standard deviation."""
    groups = [logs[[each == name for each in stamps]] for name in dict.fromkeys(stamps)]
    freedom = len(logs) - len(groups)
    return math.sqrt(sum(float(np.square(each - each.mean()).sum()) for each in groups) / freedom) if freedom else 0.0
