"""What the machine did to a run, known from outside of the program: one question for a baseline's and for new runs.

How a run's own steps vary, drift or stall may be the program's doing, so that it is no reason to set a run aside: that
would hide the regression which makes them vary. What the quota, the hypervisor and other jobs took is not the program's
doing. A baseline refuses such runs (bench.baselines.noise), a verdict on such runs says so, and where one side's
machine was busier than the other's no change of speed is told. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from bench.judge.recorded_run import RecordedRun
from bench.records.fields import DeviceKind, utc_moment
from bench.records.record import Host, Record

MAX_LOST_PERCENT = 1.0  # of the run's time, and of its cores' time
# Of the cores' time, beyond the cores that the ranks leave free: on a full machine it slows a job by as much, which is
# the tolerance of a verdict.
MAX_OTHERS_PERCENT = 5.0
_BUSIER = 1.5  # times as much of it as on the other side; less is the same kind of day

_LOAD_SECONDS = 60.0  # over which the load average fades (Linux, getloadavg(3))
_LEAST_SPAN_SECONDS = 10.0  # two of the kernel's samples of it

Taken = Literal["throttled", "stolen", "others", "load"]


@dataclass(frozen=True)
class Seen:
    """What is known of one run's machine and of what ran on it; `started` is in seconds, None where it is unknown."""

    host: Host | None
    kind: DeviceKind
    ranks: int  # on this machine
    seconds: float
    started: float | None


@dataclass(frozen=True)
class Reading:
    """One thing that was taken from a run: how much, how much is allowed, and both in words.

    `told` is for a run that has more than `most` of it; `shown` is for several, with a place for the amount.
    """

    value: float
    most: float
    amount: str
    shown: str
    told: str

    @property
    def is_beyond(self) -> bool:
        return self.value > self.most


Readings = Mapping[Taken, Reading]


def disturbed(record: Record) -> list[str]:
    """What was taken from this run, a sentence each; empty where nothing was, or nothing is known.

    A record of a foreign log has no host, so that nothing is known of it.
    """
    return _complaints(readings(seen_of(record)))


def _complaints(run: Readings) -> list[str]:
    return [each.told for each in run.values() if each.is_beyond]


def undisturbed(found: Sequence[Readings], least: int) -> list[int]:
    """The places of the runs to judge: those that were not disturbed, as a baseline's were not.

    Where fewer than `least` are left, all: then a verdict on disturbed runs is better than none, and says so.
    """
    kept = [place for place, run in enumerate(found) if not _complaints(run)]
    return kept if len(kept) >= least else list(range(len(found)))


def told(records: Sequence[Record], found: Sequence[Readings], left_out: int) -> str:
    """What a verdict says of its own runs that were slowed down or disturbed; empty where none was."""
    return "; ".join(filter(None, (planted(records), _told_disturbed(records, found, left_out))))


def _told_disturbed(records: Sequence[Record], found: Sequence[Readings], left_out: int) -> str:
    bad = [(record, why) for record, run in zip(records, found, strict=True) if (why := _complaints(run))]
    if not bad:
        return ""
    record, why = bad[0]
    were = "was" if len(bad) == 1 else "were"
    return f"{len(bad)} of {len(records)} runs {were} disturbed from outside (run {record.id[:8]}: {why[0]}); " + (
        "what was disturbed is left out"
        if left_out
        else "before you trust this, run them again on a machine that is free"
    )


# ---- one run -------------------------------------------------------------------------------------------


def seen_of(record: Record) -> Seen:
    """Of a record."""
    host, seconds = record.host, 0.0
    if host is not None and record.steps:
        slowest = (max(times) for times in zip(*(rank.step_seconds for rank in record.ranks), strict=True))
        seconds = sum(slowest) + (record.startup_seconds or 0.0)
    return Seen(host, record.device.kind, ranks_here(record), seconds, _started(record.created_at, seconds))


def ranks_here(record: Record) -> int:
    """How many ranks ran on this machine: of a job of which one rank ran alone, that one."""
    return record.layout.ranks_per_node if record.lone_rank is None else 1


def seen_of_baseline(run: RecordedRun, kind: DeviceKind, ranks: int) -> Seen:
    """Of a baseline's run; files from before it was kept know no host."""
    seconds = run.run_seconds or sum(run.steady_step_seconds)
    return Seen(run.host, kind, ranks, seconds, _started(run.created_at, seconds))


def _started(created_at: str, seconds: float) -> float | None:
    try:
        return utc_moment(created_at).timestamp() - seconds
    except ValueError:
        return None


def readings(seen: Seen) -> Readings:
    """What is known to have been taken from a run."""
    return {} if seen.host is None else dict(_readings(seen.host, seen))


def _readings(host: Host, seen: Seen) -> Iterator[tuple[Taken, Reading]]:
    if host.throttled_seconds is not None:
        yield "throttled", _throttled(host.throttled_seconds, seen.seconds)
    if host.stolen_seconds is not None:
        yield "stolen", _stolen(host.stolen_seconds, seen.seconds, host.cores)
    if seen.kind == "cpu":  # where the host's cores are what is measured
        if host.others_cores is not None:
            yield "others", _others(host.others_cores, host.cores, seen.ranks)
        else:
            yield "load", _load(host.load_average_1m, host.cores, seen.ranks)


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if part and whole else 0.0


def _throttled(throttled: float, seconds: float) -> Reading:
    percent = _percent(throttled, seconds)
    return Reading(
        value=percent,
        most=MAX_LOST_PERCENT,
        amount=f"{percent:.2g} %",
        shown="its CPU quota held runs back for {} of their time",
        told=f"throttled for {throttled:.4g} s of a run of {seconds:.4g} s by its CPU quota, "
        f"more than the {MAX_LOST_PERCENT:g} % allowed",
    )


def _stolen(stolen: float, seconds: float, cores: int) -> Reading:
    percent = _percent(stolen, seconds * cores)
    return Reading(
        value=percent,
        most=MAX_LOST_PERCENT,
        amount=f"{percent:.2g} %",
        shown="the hypervisor stole {} of its cores' time",
        told=f"the hypervisor stole {stolen:.4g} s of {cores} cores x {seconds:.4g} s, "
        f"more than the {MAX_LOST_PERCENT:g} % allowed",
    )


def planted(records: Sequence[Record]) -> str:
    """What a verdict says of runs that were slowed down on purpose; empty where none was."""
    found = [each.planted_percent for each in records if each.planted_percent]
    return f"{len(found)} of {len(records)} runs were made {max(found):g} % slower on purpose" if found else ""


def allowed_cores(cores: int, ranks: int) -> float:
    """How many cores other programs may use beside a run of a baseline."""
    return max(cores - ranks, 0) + MAX_OTHERS_PERCENT / 100 * cores


def _others(others: float, cores: int, ranks: int) -> Reading:
    """Of what the ranks leave free nobody takes anything from them."""
    free = max(cores - ranks, 0)
    leave = f"{ranks} rank{'s' * (ranks > 1)} leave{'s' * (ranks == 1)} {free}"
    return Reading(
        value=100 * max(others - free, 0.0) / cores,
        most=MAX_OTHERS_PERCENT,
        amount=f"{others:.1f}",
        shown=f"other programs used {{}} of its {cores} cores",
        told=f"other programs used {others:.1f} of {cores} cores, of which {leave}: "
        f"more than the {MAX_OTHERS_PERCENT:g} % of the cores' time beyond these that is allowed",
    )


def _load(load: float, cores: int, ranks: int) -> Reading:
    """Of a record from before others' use was measured: this job's run before leaves one a rank in the average."""
    return Reading(
        value=max(load - ranks, 0.0) / cores,
        most=1.0,
        amount=f"{load:.1f}",
        shown=f"{{}} processes waited for its {cores} cores",
        told=f"the load average before the start was {load:.1f}, more than {cores} cores and an "
        f"earlier run of {ranks} rank{'s' * (ranks > 1)} explain: others used this machine",
    )


# ---- both sides ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Busier:
    """That the machine of one side was busier than the other's, which may be the whole of a change of speed."""

    is_after: bool  # when the new runs were made; else when the baseline was
    words: str


def busier(before: Sequence[Seen], after: Sequence[Seen]) -> Busier | None:
    """Which side's machine was busier: its middle run has more of something than is allowed, and than the other's.

    That is: half as much again. A side that does not say is taken for free, as a baseline refuses disturbed runs.
    """
    sides = _together(before), _together(after)
    for is_after, busy, free in ((True, sides[1], sides[0]), (False, *sides)):
        for name in get_args(Taken):
            found = _middle(busy, name)
            if found is not None and found.is_beyond and _has_less(free, name, found.value):
                return Busier(is_after, _told_of_both(found, _middle(free, name), is_after))
    return None


def _together(runs: Sequence[Seen]) -> list[Readings]:
    """The readings of one side's runs; where they tell the load since the first of them began, it is that."""
    return [readings(each) for each in with_own_load(runs)]


def with_own_load(runs: Sequence[Seen]) -> Sequence[Seen]:
    """A load average fades slowly: before a first run it holds what ran before, as another case of this benchmark.

    What ran since then, on average, follows from the first and the last: last = first x fade + since x (1 - fade).
    """
    loads = sorted((each.started, each.host.load_average_1m) for each in runs if each.host and each.started is not None)
    if len(loads) < len(runs) or not loads or loads[-1][0] - loads[0][0] < _LEAST_SPAN_SECONDS:
        return runs
    fade = math.exp((loads[0][0] - loads[-1][0]) / _LOAD_SECONDS)
    since = max((loads[-1][1] - loads[0][1] * fade) / (1 - fade), 0.0)
    return [replace(each, host=each.host.model_copy(update={"load_average_1m": since})) for each in runs if each.host]


def _middle(runs: Sequence[Readings], name: Taken) -> Reading | None:
    """The run with the (upper) median of it; None where fewer than half of the runs say."""
    found = sorted((run[name] for run in runs if name in run), key=lambda each: each.value)
    return found[len(found) // 2] if found and 2 * len(found) >= len(runs) else None


def _has_less(runs: Sequence[Readings], name: Taken, value: float) -> bool:
    """A side on which this was not measured has less of it if most of its runs were not disturbed by anything."""
    found = _middle(runs, name)
    if found is not None:
        return value > _BUSIER * found.value
    return 2 * sum(bool(_complaints(run)) for run in runs) < len(runs)


def _told_of_both(busy: Reading, free: Reading | None, is_after: bool) -> str:
    here, there = ("", " when the baseline was made")[:: 1 if is_after else -1]
    less = "not known to be so" if free is None else free.amount
    return f"the machine was busier{here}: {busy.shown.format(busy.amount)}, {less}{there or ' now'}"
