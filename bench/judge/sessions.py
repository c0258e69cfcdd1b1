"""Which runs are of one session, and how far sessions are apart where a baseline cannot say.

A session is one machine, boot, day and job, without a long pause. Runs of one session can be exchanged; those of
another have a level of their own. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.judge.recorded_run import RecordedRun, run_seconds
from bench.records.fields import DeviceKind, utc_moment
from bench.records.record import Host, Record, Session

# The assumed level between sessions, one standard deviation in percent. On accelerators: that of Megatron-LM's CI,
# between runs of one unchanged job on different days. On a CPU: with it, five runs against later five of our own
# series, in the order of time, fail 0 to 7 % of the time (docs/gate-errors.md, "In the order of time"); with 1.2 %
# it was 13 %.
ASSUMED_PERCENT: Mapping[DeviceKind, float] = {"npu": 1.2, "cuda": 1.2, "cpu": 3.0}
# On a CPU whose caches and memory other guests use too: that of four sessions of ours within two hours of one boot,
# with nothing else running on the guest and no time stolen. One rank varied by 14 %, sixteen by 21 %.
VIRTUAL_CPU_PERCENT = 20.0
# who says so, in a verdict
ASSUMED, OF_A_VIRTUAL_MACHINE, FROM_HISTORY = "assumed", "assumed of a virtual machine", "from the history"
# From the end of a run to the start of the next: after a longer one the machine may be at another level.
_PAUSE_SECONDS = 1200.0


@dataclass(frozen=True)
class Stamp:
    """What tells the session of a run: the one that it names, or else when it was made and how long it took."""

    session: Session | None
    created_at: str
    seconds: float
    is_dated: bool = True  # false: it was made before that, at a time which nobody knows


def stamp_of(run: Record | RecordedRun) -> Stamp:
    """Of a record, or of a run behind a baseline."""
    if isinstance(run, RecordedRun):
        seconds = sum(run.steady_step_seconds) if run.run_seconds is None else run.run_seconds
        return Stamp(run.session, run.created_at, seconds, run.is_dated)
    return Stamp(run.session, run.created_at, run_seconds(run), run.is_dated)


@dataclass(frozen=True)
class Level:
    """The level between sessions, one standard deviation in percent, and who says so."""

    percent: float
    origin: str = ASSUMED

    @property
    def spread(self) -> float:
        """As a logarithm."""
        return math.log1p(self.percent / 100)


def assumed_level(kind: DeviceKind, given: Level | float | None, is_virtual: bool) -> Level:
    """The given one, or else that of the kind of device, and of the machine where its CPU is what runs."""
    if isinstance(given, Level):
        return given
    if given is not None:
        return Level(given)
    if kind == "cpu" and is_virtual:
        return Level(VIRTUAL_CPU_PERCENT, OF_A_VIRTUAL_MACHINE)
    return Level(ASSUMED_PERCENT[kind])


def assumed_spread(kind: DeviceKind, percent: float | None, is_virtual: bool) -> float:
    """The same as a logarithm; the given one is in percent."""
    return assumed_level(kind, percent, is_virtual).spread


def are_virtual(hosts: Iterable[Host | None]) -> bool:
    """Whether any of these runs' machines says that it is a virtual one."""
    return any(host is not None and host.is_virtual for host in hosts)


def labels(before: Sequence[Stamp], after: Sequence[Stamp] = ()) -> list[str]:
    """A name for the session of each run, of one side and then the other; equal names are one session.

    Runs that name the same session, or none, are of one while no pause of twenty minutes is between them. A time that
    is not in UTC says nothing: such runs are one session together. Runs without a date, which have the time when their
    logs were read, are of none of the other side's.
    """
    stamps = [*before, *after]
    names = ["unnamed" if each.session is None else _name(each.session) for each in stamps]
    for place, each in enumerate(stamps):
        if not each.is_dated:
            names[place] += f", no date, {'after' if place >= len(before) else 'before'}"
    found = [f"{name}, no time" for name in names]
    last, number = dict.fromkeys(names, float("-inf")), dict.fromkeys(names, 0)
    moments = [(moment, place) for place, each in enumerate(stamps) if (moment := _moment(each)) is not None]
    for moment, place in sorted(moments):
        name = names[place]
        number[name] += moment - stamps[place].seconds - last[name] > _PAUSE_SECONDS
        last[name] = moment
        found[place] = f"{name}, {number[name]}"
    return found


def _moment(stamp: Stamp) -> float | None:
    """When a run ended."""
    try:
        return utc_moment(stamp.created_at).timestamp()
    except ValueError:
        return None


def _name(session: Session) -> str:
    return " ".join((session.machine, session.boot or "-", session.day, session.job or "-"))


def session_name(run: Record | RecordedRun) -> str:
    """How people call the session of a run: machine, boot, day and job, as far as they are known."""
    found = run.session
    if found is None:
        return f"(no stated session, {run.created_at})"
    job = "" if found.job is None else f", job {found.job}"
    return f"(machine {found.machine}, boot {found.boot or 'unknown'}, {found.day}{job})"
