"""Which runs are of one session, and the error rates of verdicts across sessions."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.difference import MIN_SESSIONS, Comparison, difference
from bench.judge.evidence import decide, states
from bench.judge.gate import judge
from bench.judge.metrics import QUARTILE, STEP
from bench.judge.sessions import Stamp, assumed_spread, labels, session_name, stamp_of
from bench.records.fields import DeviceKind
from bench.records.record import Record, Session
from bench.synthetic import build_synthetic_record

TRIALS = 400
START = datetime(2025, 1, 31, 12, tzinfo=timezone.utc)


def session(**changes: str | None) -> Session:
    return Session.model_validate({"machine": "a" * 12, "boot": "b" * 12, "day": "2025-01-31", "job": None} | changes)


def at(seconds: float, took: float = 10.0) -> Stamp:
    return Stamp(None, (START + timedelta(seconds=seconds)).isoformat(), took)


# ---- which session -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"machine": "c" * 12}, {"boot": None}, {"day": "2025-02-01"}, {"job": "SLURM_JOB_ID=7"}]
)
def test_another_machine_boot_day_or_job_is_another_session(changes: dict[str, str | None]) -> None:
    one, same, other = labels([Stamp(session(**each), "2025-01-31T12:00:00Z", 1.0) for each in ({}, {}, changes)])
    assert one == same != other


@pytest.mark.parametrize("named", [None, session()])
def test_a_pause_of_twenty_minutes_ends_a_session(named: Session | None) -> None:
    """Counted from the end of a run to the start of the next, so that long runs are none."""
    times = [(0, 10.0), (4800, 3700.0), (1100, 10.0), (4800 + 1211, 10.0), (99_999, 1e5)]
    found = labels([Stamp(named, at(seconds).created_at, took) for seconds, took in times])
    assert found[0] == found[1] == found[2] != found[3] == found[4]


def test_runs_are_put_in_the_order_of_time_however_they_are_given() -> None:
    """25 minutes lie before and after the run in the middle, which is given last."""
    assert len(set(labels([at(0), at(3000), at(1500)]))) == 3
    assert len(set(labels([at(0), at(1800), at(900)]))) == 1


def test_sessions_that_take_turns_keep_their_names() -> None:
    """Two machines that append to one folder."""
    stamps = [Stamp(session(machine=name * 12), at(60 * turn).created_at, 30.0) for turn, name in enumerate("abab")]
    found = labels(stamps)
    assert found[0] == found[2] != found[1] == found[3]


def test_a_run_that_names_a_session_shares_none_with_one_that_does_not() -> None:
    assert len(set(labels([at(0), Stamp(session(), START.isoformat(), 1.0)]))) == 2


def test_times_that_say_nothing_are_one_session() -> None:
    assert len(set(labels([Stamp(None, "yesterday", 1.0), Stamp(None, "2025-01-31T12:00:00", 1.0), at(0)]))) == 2


def test_runs_without_a_date_are_of_none_of_the_other_sides_sessions() -> None:
    """Within a side, logs that are read on several days are of several sessions, as each night's are."""
    undated = [replace(at(seconds), is_dated=False) for seconds in (0, 1, 99_999)]
    found = labels([*undated, at(0)], [*undated, at(0)])
    assert found[0] == found[1] != found[2]
    assert not {*found[:3]} & {*found[4:7]}
    assert found[3] == found[7]


def test_a_records_stamp_counts_its_start_and_steps() -> None:
    record = build_synthetic_record(startup_seconds=100.0)
    assert stamp_of(record).seconds == pytest.approx(100 + sum(record.ranks[0].step_seconds))


def test_a_sample_that_stands_for_ten_steps_took_ten_times_as_long() -> None:
    record = build_synthetic_record(startup_seconds=100.0)
    every_tenth = [step.model_copy(update={"step": 10 * step.step}) for step in record.steps]
    sampled = record.model_copy(update={"steps": every_tenth})
    assert stamp_of(sampled).seconds == pytest.approx(100 + 10 * sum(record.ranks[0].step_seconds))


# ---- right, by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "percent", "level"),
    [("cpu", None, 1.03), ("npu", None, 1.012), ("cuda", None, 1.012), ("npu", 2.5, 1.025)],
)
def test_the_assumed_level_is_the_given_one_or_that_of_the_kind(
    kind: DeviceKind, percent: float | None, level: float
) -> None:
    assert assumed_spread(kind, percent, is_virtual=False) == pytest.approx(math.log(level), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "percent", "level"), [("cpu", None, 1.2), ("npu", None, 1.012), ("cuda", None, 1.012), ("cpu", 2.5, 1.025)]
)
def test_a_virtual_machine_has_a_level_of_its_own_where_its_cpu_is_what_runs(
    kind: DeviceKind, percent: float | None, level: float
) -> None:
    assert assumed_spread(kind, percent, is_virtual=True) == pytest.approx(math.log(level), rel=1e-12)


@pytest.mark.parametrize(
    ("is_virtual", "state", "words"),
    [(True, "inconclusive", "20.0 % between sessions, assumed of a virtual machine"), (None, "fail", "3.0 % between")],
)
def test_on_a_virtual_machine_a_later_session_is_no_alarm(
    synthetic_record: Any, is_virtual: bool | None, state: str, words: str
) -> None:
    """A third slower, as four sessions of one program on a guest with nothing else running were."""

    def runs(first: int, median_seconds: float, day: str) -> list[Record]:
        made = [
            synthetic_record(
                seed=first + place,
                median_seconds=median_seconds,
                device={"kind": "cpu"},
                host={"is_virtual": is_virtual},
            )
            for place in range(5)
        ]
        return [each.model_copy(update={"session": session(day=day)}) for each in made]

    baseline = recorded_baseline(runs(0, 39.8, "2025-02-01"), "invented")
    verdict = judge(runs(5, 53.0, "2025-02-02"), [baseline])
    assert verdict.state == state
    assert words in verdict.sentence


def test_a_session_is_called_by_what_is_known_of_it(synthetic_record: Any) -> None:
    whole = session(machine="a" * 12, boot="b" * 12, day="2025-02-01", job="SLURM_JOB_ID=7")
    named = (
        (whole, "(machine aaaaaaaaaaaa, boot bbbbbbbbbbbb, 2025-02-01, job SLURM_JOB_ID=7)"),
        (whole.model_copy(update={"boot": None, "job": None}), "(machine aaaaaaaaaaaa, boot unknown, 2025-02-01)"),
        (None, "(no stated session, 2025-01-31T12:00:00Z)"),
    )
    for each, name in named:
        assert session_name(synthetic_record().model_copy(update={"session": each})) == name


def test_a_stored_runs_stamp_has_its_seconds_or_else_those_of_its_steady_steps(synthetic_record: Any) -> None:
    run = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented").runs[0]
    known, unknown = (run.model_copy(update={"run_seconds": seconds}) for seconds in (1234.5, None))
    assert stamp_of(known) == Stamp(run.session, run.created_at, 1234.5)
    assert stamp_of(unknown).seconds == pytest.approx(sum(run.steady_step_seconds))


def test_the_assumed_level_adds_to_the_error_of_the_runs() -> None:
    """Two sessions of five runs: s^2 (1/5 + 1/5) of the runs and 2 x level^2 of the sessions."""
    before, after = [1.0, 1.01, 0.99, 1.02, 0.98], [1.03, 1.01, 1.02, 1.0, 1.04]
    within = difference(Comparison(before, after))
    across = difference(Comparison(before, after, sessions=("a" * 5, "b" * 5), session_spread=0.03))
    assert across.within is not None
    assert across.within.size == pytest.approx(within.error.size)
    assert across.error.size == pytest.approx(math.sqrt(within.error.size**2 + 2 * 0.03**2))
    assert across.change == pytest.approx(within.change)


def test_noisy_runs_make_sessions_assumed_to_vary_as_much() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95]
    found = difference(Comparison(values, values, sessions=("a" * 5, "b" * 5), session_spread=0.012))
    assert found.session_spread == pytest.approx(found.spread)
    assert not found.is_session_spread_known


def test_five_sessions_know_their_own_level() -> None:
    """One run each: Student's t of six session means, with four degrees of freedom."""
    before = [1.0, 1.01, 0.99, 1.02, 0.98]
    found = difference(Comparison(before, [1.0], sessions=("abcde", "f"), session_spread=0.5))
    spread = float(np.log(before).std(ddof=1))
    assert found.is_session_spread_known
    assert found.error.size == pytest.approx(spread * math.sqrt(1 / 5 + 1))
    assert found.error.freedom == pytest.approx(4)
    assert MIN_SESSIONS == 5


def test_what_has_no_level_is_judged_as_in_one_session() -> None:
    before, after = [1.0, 1.01, 0.99, 1.02, 0.98], [1.0] * 5
    comparison = Comparison(before, after, sessions=("a" * 5, "b" * 5), session_spread=0.0)
    assert difference(comparison) == difference(Comparison(before, after))


# ---- the promised error rates --------------------------------------------------------------------------


def shares(level: float, noise: float, slower: float, sessions: int, runs: int, assumed: float) -> dict[str, float]:
    """How often each state is found where sessions differ by `level` and runs by `noise`."""
    random = np.random.default_rng(11)
    found = []
    for _ in range(TRIALS):
        levels = random.normal(0.0, level, sessions + 1)
        before = np.exp(np.repeat(levels[:-1], runs) + random.normal(0.0, noise, sessions * runs))
        after = (1 + slower) * np.exp(levels[-1] + random.normal(0.0, noise, 5))
        names = [str(index) for index in np.repeat(np.arange(sessions), runs)]
        comparison = Comparison(before.tolist(), after.tolist(), sessions=(names, ["ours"] * 5), session_spread=assumed)
        found.append(states({"step": comparison})["step"])
    return {state: found.count(state) / TRIALS for state in ("fail", "improved", "pass", "inconclusive")}


@pytest.mark.parametrize(("sessions", "runs"), [(1, 5), (3, 3), (5, 2), (10, 2)])
def test_equal_sides_rarely_fail_across_sessions(sessions: int, runs: int) -> None:
    found = shares(0.012, 0.004, 0.0, sessions, runs, assumed=0.012)
    assert max(found["fail"], found["improved"]) <= 0.01 + 4 * math.sqrt(0.01 / TRIALS)


def test_taken_for_one_session_they_fail_often() -> None:
    """What the level is there for: with none assumed a fifth and more of equal sides fail."""
    assert shares(0.012, 0.004, 0.0, 1, 5, assumed=0.0)["fail"] > 0.2


def test_a_slowdown_of_five_percent_rarely_passes_across_sessions() -> None:
    assert shares(0.012, 0.004, 0.05, 1, 5, assumed=0.012)["pass"] <= 0.05
    assert shares(0.005, 0.004, 0.05, 1, 5, assumed=0.012)["fail"] >= 0.75
    assert shares(0.012, 0.004, 0.10, 1, 5, assumed=0.012)["fail"] >= 0.9


def test_ten_sessions_of_two_runs_find_two_percent() -> None:
    assert shares(0.005, 0.003, 0.02, 10, 2, assumed=0.012)["fail"] >= 0.6


# ---- in the gate ---------------------------------------------------------------------------------------


def runs_of(day: int, slower: float = 0.0, first: int = 0) -> list[Record]:
    """Five quiet runs of one day."""
    random = np.random.default_rng(first)
    return [
        build_synthetic_record(
            seed=first + index,
            noise=0.002,
            median_seconds=39.8 * (1 + slower) * (1 + 0.002 * random.standard_normal()),
            created_at=f"2025-02-{day:02d}T12:00:00Z",
            session=session(day=f"2025-02-{day:02d}").model_dump(),
        )
        for index in range(5)
    ]


def test_a_change_that_a_session_can_explain_is_a_suspicion_not_an_alarm() -> None:
    baseline = recorded_baseline(runs_of(1), "invented")
    same_day, next_day = (judge(runs_of(day, 0.025, first=50), [baseline]) for day in (1, 2))
    assert same_day.state == "fail"
    assert next_day.state == "inconclusive"
    assert "5 runs against 5 of another session, 1.2 % between sessions, assumed" in next_day.sentence
    assert "settle by A/B: python -m bench ab --base 0000" in next_day.sentence
    assert judge(runs_of(2, 0.025, first=50), [baseline], session_percent=0.1).state == "fail"


@pytest.mark.parametrize(("slower", "told"), [(0.025, "takes 2.6 % more time per step"), (0.0, "mean s/step is ")])
def test_a_suspicion_of_the_median_step_is_told_before_a_mean_that_varies_too_much(slower: float, told: str) -> None:
    """One step of two of the five runs is twice as long: by their means nothing can be decided."""
    new = runs_of(2, slower, first=50)
    for at in (1, 3):
        ranks = [each.model_dump() for each in new[at].ranks]
        for rank in ranks:
            rank["step_seconds"][12] *= 1.9 + at / 10
        new[at] = Record.model_validate(new[at].model_dump(by_alias=True) | {"ranks": ranks})
    verdict = judge(new, [recorded_baseline(runs_of(1), "invented")])
    assert verdict.state == "inconclusive"
    assert verdict.rows[0].remedy is not None
    assert not verdict.rows[0].remedy.is_suspicion
    assert told in verdict.sentence
    assert ("another session could explain it" in verdict.sentence) == (slower > 0)


def test_a_suspicion_of_the_quartile_is_told_before_a_median_that_varies_too_much() -> None:
    """Three of five steps of two runs are far slower, so that only the lower quartile says something."""
    new = runs_of(2, 0.025, first=50)
    for at, factor in ((1, 1.4), (3, 1.6)):
        ranks = [each.model_dump() for each in new[at].ranks]
        for rank in ranks:
            seconds = rank["step_seconds"]
            rank["step_seconds"] = [each * (factor if step % 5 < 3 else 1.0) for step, each in enumerate(seconds)]
        new[at] = Record.model_validate(new[at].model_dump(by_alias=True) | {"ranks": ranks})
    verdict = judge(new, [recorded_baseline(runs_of(1), "invented")])
    suspicions = {row.metric: row.remedy.is_suspicion for row in verdict.rows if row.remedy}
    assert (verdict.state, suspicions[STEP], suspicions[QUARTILE]) == ("inconclusive", False, True)
    assert "another session could explain it" in verdict.sentence


def test_runs_of_another_number_of_steps_are_not_compared() -> None:
    """They do not pay for the same checkpoints; one such run among the others is enough."""
    baseline = recorded_baseline(runs_of(1), "invented")
    short = build_synthetic_record(seed=77, steps=19, noise=0.002)
    verdict = judge([short, short], [baseline])
    assert verdict.state == "no_baseline"
    assert "steps 19 (baseline 20)" in verdict.sentence
    for runs in ([*runs_of(1, first=50), short], [short, *runs_of(1, first=50)]):
        verdict = judge(runs, [baseline])
        assert verdict.state == "void"
        assert f"but not {short.id[:8]}: steps 19 (baseline 20)" in verdict.sentence


def test_an_older_baseline_of_runs_of_several_lengths_still_judges() -> None:
    """Its file does not say how many steps a run has, and the longest warm-up is longer than the shortest run."""
    baseline = recorded_baseline(runs_of(1), "invented")
    first = baseline.runs[0]
    seconds = first.steady_step_seconds
    odd = first.model_copy(update={"warmup_steps": 300, "steady_step_seconds": [*seconds, *seconds]})
    older = baseline.model_copy(update={"steps": None, "step_interval": None, "runs": [odd, *baseline.runs[1:]]})
    assert judge(runs_of(1, first=50), [older]).state == "pass"


def test_what_no_session_explains_fails_on_any_day() -> None:
    verdict = judge(runs_of(2, 0.08, first=50), [recorded_baseline(runs_of(1), "invented")])
    assert verdict.state == "fail"
    assert "another session" in verdict.sentence


def test_memory_has_no_level_between_sessions() -> None:
    baseline = recorded_baseline(runs_of(1), "invented")
    heavier = [
        each.model_copy(
            update={"ranks": [r.model_copy(update={"peak_bytes": int(1.02 * r.peak_bytes)}) for r in each.ranks]}
        )
        for each in runs_of(2, first=50)
    ]
    verdict = judge(heavier, [baseline])
    assert verdict.state == "fail"
    assert "peak memory" in verdict.sentence


def test_a_suspicion_is_of_a_slowdown_only() -> None:
    before, after = [1.0, 1.001, 0.999, 1.0005, 0.9995], [0.98] * 5
    comparison = Comparison(before, after, sessions=("a" * 5, "b" * 5), session_spread=0.012)
    assert not decide({"step": comparison})["step"].is_suspicion


def test_a_change_below_the_floor_is_no_suspicion() -> None:
    before = [1.0, 1.0001, 0.9999, 1.00005, 0.99995]
    found = []
    for slower in (1.005, 1.02):
        after = [each * slower for each in before]
        comparison = Comparison(before, after, sessions=("a" * 5, "b" * 5), session_spread=0.012)
        found.append(decide({"step": comparison})["step"].is_suspicion)
    assert found == [False, True]


def test_a_few_sessions_that_are_further_apart_than_assumed_say_so() -> None:
    before = [1.0, 1.001, 1.1, 1.101, 0.9, 0.901]
    found = difference(Comparison(before, [1.0] * 3, sessions=("aabbcc", "ddd"), session_spread=0.012))
    assert found.session_spread == pytest.approx(float(np.log([1.0, 1.1, 0.9]).std(ddof=1)), rel=0.02)
    assert not found.is_session_spread_known


def test_a_session_of_fewer_runs_is_less_sure_than_those_of_the_baseline() -> None:
    random = np.random.default_rng(6)
    before = np.exp(random.normal(0.0, 0.02, 50)).tolist()
    names = [str(index) for index in np.repeat(np.arange(5), 10)]
    one, ten = (
        difference(Comparison(before, before[:count], sessions=(names, ["ours"] * count), session_spread=0.01))
        for count in (1, 10)
    )
    assert one.error.size > 1.5 * ten.error.size


def test_noisy_runs_rarely_fail_against_a_quiet_baseline() -> None:
    """20 quiet runs against 3 of three times the noise: the pooled test fails 13 % of equal sides."""
    random = np.random.default_rng(12)
    failed = 0
    for _ in range(1000):
        before, after = np.exp(random.normal(0.0, 0.006, 20)), np.exp(random.normal(0.0, 0.018, 3))
        failed += states({"step": Comparison(before.tolist(), after.tolist())})["step"] == "fail"
    assert failed / 1000 <= 0.022 + 4 * math.sqrt(0.022 / 1000)
