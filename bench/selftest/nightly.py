"""How often judging every night against one stored baseline errs: the gate, and the monitor that may be asked nightly.

Simulated, since no recorded series has sixty sessions: each session has a level of its own, each run one more, and each
step noise of 2 %; all are normal. One trial is one baseline, drawn anew, and the nights after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from bench.judge.evidence import states
from bench.judge.metrics import MEAN, SPEED, STEP, Sessions, family
from bench.judge.nightly import Series, first_alarm
from bench.selftest.levels import Plan, figures_of_speed, speed_of

Floats = npt.NDArray[np.float64]

STEPS = 40
STEP_NOISE = 0.02
RUNS_A_NIGHT = 5
NIGHTS = 60


@dataclass(frozen=True)
class Noise:
    """One standard deviation between the runs of a session, and between sessions, in percent."""

    run_percent: float
    session_percent: float


ONE_SESSION, TEN_SESSIONS = Plan(1, 5), Plan(10, 2)
NOISES = tuple(Noise(run, session) for run in (0.3, 1.0) for session in (0.5, 1.2, 3.0))


def drawn(random: np.random.Generator, noise: Noise, sessions: int, runs: int, slower: Floats | None = None) -> Floats:
    """The speed figures of runs, by (session, run, figure as in SPEED); `slower` is a logarithm for each session."""
    levels = noise.session_percent / 100 * random.standard_normal((sessions, 1, 1))
    levels = levels + noise.run_percent / 100 * random.standard_normal((sessions, runs, 1))
    if slower is not None:
        levels = levels + slower[:, None, None]
    steps = np.exp(levels + STEP_NOISE * random.standard_normal((sessions, runs, STEPS)))
    return speed_of(np.asarray(steps, dtype=np.float64))


def gate_fails_first(random: np.random.Generator, noise: Noise, plan: Plan, assumed_percent: float) -> int | None:
    """The first of NIGHTS that the gate fails, though nothing changed; None: it fails none."""
    before = _figures(drawn(random, noise, plan.sessions, plan.runs))
    names = [f"before {session}" for session in range(plan.sessions) for _ in range(plan.runs)]
    nights = drawn(random, noise, NIGHTS, RUNS_A_NIGHT)
    for night in range(NIGHTS):
        sessions = Sessions(names, ["tonight"] * RUNS_A_NIGHT, np.log1p(assumed_percent / 100))
        if "fail" in states(family(before, _figures(nights[night : night + 1]), sessions=sessions)).values():
            return night + 1
    return None


def monitor_alarms_first(
    random: np.random.Generator, noise: Noise, plan: Plan, nights: int, slower: Floats | None = None
) -> int | None:
    """The first night at which the monitor alarms; None: at none."""
    before = np.log(drawn(random, noise, plan.sessions, plan.runs)).mean(axis=1)
    after = np.log(drawn(random, noise, nights, plan.runs, slower)).mean(axis=1)
    places = {name: SPEED.index(name) for name in (STEP, MEAN)}
    found = first_alarm({name: Series(before[:, at].tolist(), after[:, at].tolist()) for name, at in places.items()})
    return None if found is None else found.night


def _figures(runs: Floats) -> list[Mapping[str, float]]:
    return [figures_of_speed(run) for run in runs.reshape(-1, len(SPEED)).tolist()]


def rates(
    trials: int, seed: int = 0, noises: Iterable[Noise] = NOISES, assumed_percent: float = 1.2
) -> list[dict[str, str]]:
    """How often an unchanged program is failed at least once in 30 and in 60 nights: a row a noise."""
    names = ["between runs", "between sessions"]
    names += [f"gate, {name}, {nights} nights" for name in ("one session", "ten sessions") for nights in (30, NIGHTS)]
    names.append(f"monitor, ten sessions, {NIGHTS} nights")
    rows = []
    for noise in noises:
        cells = [f"{noise.run_percent:g} %", f"{noise.session_percent:g} %"]
        random = np.random.default_rng(seed)
        for plan in (ONE_SESSION, TEN_SESSIONS):
            found = [gate_fails_first(random, noise, plan, assumed_percent) for _ in range(trials)]
            cells += [_share(found, 30), _share(found, NIGHTS)]
        alarms = [monitor_alarms_first(random, noise, TEN_SESSIONS, NIGHTS) for _ in range(trials)]
        rows.append(dict(zip(names, [*cells, _share(alarms, NIGHTS)], strict=True)))
    return rows


def rates_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The same as Markdown."""
    return tabulate([list(each.values()) for each in rows], list(rows[0]), tablefmt="github", disable_numparse=True)


def _share(found: list[int | None], nights: int) -> str:
    return f"{sum(each is not None and each <= nights for each in found) / len(found):.1%}".replace("%", " %")
