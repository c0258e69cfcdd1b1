"""The replay: slowdowns are what they say, shares have honest intervals, and every rule can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from bench.commands.app import app
from bench.judge.baseline import recorded_baseline
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR, decide, states
from bench.judge.gate import judge
from bench.judge.metrics import family, figures_of
from bench.judge.stats import summarise
from bench.records.record import Record
from bench.selftest import rules
from bench.selftest.ordered import spreads_percent
from bench.selftest.replay import Outcome, Share, held_back, is_sound, replay, skipped
from bench.selftest.rules import FIVE_RUNS, KINDS, MINDSPEED, RULES, TWO_STAGES, Trace, slowed, verdict_of
from bench.selftest.series import FOLDER, Run, Series, read_series, series_of, simulated, write_series
from bench.selftest.text import table, title

SHIPPED = sorted(FOLDER.glob("*.json"))
MIB = 1 << 20
ERRORS = st.sampled_from([FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR])


def invented(spread: float, count: int = 30, steps: int = 30, memory: bool = False) -> Series:
    """Runs of two ranks whose medians vary by that much, and whose steps vary a little."""
    random = np.random.default_rng(4)
    runs = []
    for level in np.exp(random.normal(0.0, spread, count)):
        steps_RS = 1e6 * level * np.exp(random.normal(0.0, 0.002, (2, steps)))
        peaks = [int(1000 * MIB * level), 900 * MIB] if memory else []
        runs.append(Run(ranks=steps_RS.astype(int).tolist(), peak_bytes=peaks))
    return Series(condition="invented", recipe_name="none", recipe_hash="0" * 12, device_name="none", runs=runs)


def failed(outcomes: list[Outcome], rule: str, percent: float, kind: str = "every step") -> float:
    return next(o.failed.value for o in outcomes if (o.rule, o.percent, o.kind) == (rule, percent, kind))


@pytest.fixture(scope="module")
def quiet() -> list[Outcome]:
    return replay(invented(0.004, memory=True), trials=80)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_fail_and_can_pass(quiet: list[Outcome], rule: str) -> None:
    """A gate that never fails is dead; one that always fails is no better."""
    if rule == "this gate, 1 run":
        assert failed(quiet, rule, 10.0) == 0.0  # by design: it asks for more
    else:
        assert failed(quiet, rule, 10.0) == 1.0
    assert failed(quiet, rule, 0.0) <= 0.05


def test_small_slowdowns_are_found_only_by_the_gate_that_knows_the_noise(quiet: list[Outcome]) -> None:
    assert failed(quiet, FIVE_RUNS, 2.0) > 0.95
    assert failed(quiet, MINDSPEED, 2.0) == 0.0
    assert failed(quiet, "Megatron's, median of a window", 2.0) == 0.0


def test_the_family_sees_what_no_median_does(quiet: list[Outcome]) -> None:
    """One step in ten by its mean, and memory by its peak."""
    for kind in ("one step in ten", "memory growth"):
        assert failed(quiet, FIVE_RUNS, 5.0, kind) > 0.95
        assert failed(quiet, "Megatron's, median of a window", 5.0, kind) == 0.0


def test_noise_makes_the_gate_inconclusive_and_the_others_wrong() -> None:
    noisy = replay(invented(0.04), trials=200, kinds=["every step"])
    assert failed(noisy, "this gate, 3 runs", 0.0) <= 0.06
    assert failed(noisy, MINDSPEED, 0.0) > 0.1
    hidden = next(o for o in noisy if (o.rule, o.percent) == ("this gate, 1 run", 0.0))
    assert hidden.inconclusive.value > 0.8
    assert failed(noisy, TWO_STAGES, 10.0) > failed(noisy, FIVE_RUNS, 10.0)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_slowdowns_are_of_the_size_they_say(kind: Any) -> None:
    seconds_RS = np.full((3, 40), 2.0)
    slow_RS = slowed(seconds_RS, 5.0, kind)
    assert slow_RS.max(axis=0).mean() == pytest.approx(2.0 * 1.05)
    assert (slow_RS >= seconds_RS).all()
    if kind == "one step in ten":
        assert np.median(slow_RS) == 2.0


def test_memory_growth_moves_no_time() -> None:
    seconds_RS = np.full((3, 40), 2.0)
    assert (slowed(seconds_RS, 5.0, "memory growth") == seconds_RS).all()


def test_figures_are_those_of_the_gate(synthetic_record: Any) -> None:
    record: Record = synthetic_record()
    real = figures_of(summarise(record))
    seconds_RS = np.array([rank.step_seconds for rank in record.ranks])
    found = Trace(seconds_RS).figures()
    assert found == pytest.approx({name: real[name] for name in found})
    series = series_of("x", [synthetic_record(id=f"{index:032x}") for index in range(10)])
    assert max(series.runs[0].peak_bytes) == real["peak_bytes"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"step_seconds": "pass", "peak_bytes": "inconclusive"}, "pass"),
        ({"step_seconds": "pass", "peak_bytes": "fail"}, "fail"),
        ({"step_seconds": "inconclusive", "peak_bytes": "improved"}, "inconclusive"),
        ({"step_seconds": "pass", "peak_bytes": "improved"}, "improved"),
        ({"step_seconds": "improved", "peak_bytes": "fail"}, "fail"),
    ],
)
def test_the_verdict_is_the_gates(found: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its rows decide: metrics beside speed only where they fail or improve."""
    monkeypatch.setattr(rules, "states", lambda *_: found)
    runs = [{"step_seconds": 1.0}] * 5
    assert verdict_of(runs, runs) == said


@pytest.mark.parametrize("factor", [0.9, 0.99, 1.0, 1.02, 1.1])
@pytest.mark.parametrize("spread", [0.003, 0.05])
def test_the_verdict_is_that_of_real_records(synthetic_record: Any, factor: float, spread: float) -> None:
    levels = 39.8 * np.exp(np.random.default_rng(6).normal(0.0, spread, 10))
    records = [
        synthetic_record(seed=seed, median_seconds=level * (factor if seed >= 5 else 1.0))
        for seed, level in enumerate(levels)
    ]
    figures = [figures_of(summarise(record)) for record in records]
    said = verdict_of(figures[:5], figures[5:])
    assert said == judge(records[5:], [recorded_baseline(records[:5], "invented")]).state


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.1), st.floats(-0.1, 0.1), st.integers(1, 8), st.booleans(), ERRORS)
@settings(max_examples=200)
def test_states_are_those_of_the_judgements(
    seed: int, spread: float, change: float, ours: int, is_paired: bool, error: float
) -> None:
    """The fast path says what the slow one does, of generated families, unpaired and paired, at every error used."""
    random = np.random.default_rng(seed)
    sides = [
        [
            {
                "step_seconds": float(np.exp(random.normal(moved, spread))),
                "mean_step_seconds": float(np.exp(random.normal(moved, 0.01))),
                "skew_seconds": float(random.normal(0.0, 0.02)),
            }
            for _ in range(count)
        ]
        for count, moved in ((5, 0.0), (5 if is_paired else ours, change))
    ]
    pairs = family(*sides, is_paired=is_paired)
    assert states(pairs, error) == {name: each.state for name, each in decide(pairs, error).items()}


def test_shares_have_clopper_pearson_intervals() -> None:
    expected = stats.binomtest(7, 200).proportion_ci(0.95, method="exact")
    assert Share(7, 200).interval == pytest.approx((expected.low, expected.high))
    assert Share(0, 50).interval[0] == 0.0
    assert Share(50, 50).interval[1] == 1.0


def test_replay_is_the_same_each_time() -> None:
    series = invented(0.01, count=12)
    assert replay(series, 20, kinds=["every step"]) == replay(series, 20, kinds=["every step"])


def test_what_a_series_is_too_poor_for_is_skipped_and_said() -> None:
    series = invented(0.01, count=12)
    outcomes = replay(series, 10)
    assert {each.rule for each in outcomes} == set(RULES) - {TWO_STAGES, "this gate, 10 runs a side"}
    assert "memory growth" not in {each.kind for each in outcomes}
    shown = table(outcomes, series)
    assert f"skipped: {TWO_STAGES} needs 15 runs per trial, and the series has 12" in shown
    assert "skipped: memory growth, the series has no memory recorded" in shown
    assert skipped(invented(0.01, memory=True)) == []


def test_simulated_noise_is_of_the_size_it_says_and_labelled() -> None:
    series = simulated(1.0)
    assert series.condition == "simulated, normal, 1 %"
    within, between = spreads_percent(series)
    assert within == pytest.approx(1.0, abs=0.05)
    assert between is None
    assert series == simulated(1.0)


def test_the_halves_are_held_apart() -> None:
    """Within each nothing is wrong; across them a machine that got slower is not the program's fault."""
    series = invented(0.004)
    drifted = [
        run if index < 15 else Run(ranks=[[int(1.1 * step) for step in rank] for rank in run.ranks])
        for index, run in enumerate(series.runs)
    ]
    found = {
        (each.condition, each.rule): each.failed.value
        for each in held_back(series.model_copy(update={"runs": drifted}), 50)
    }
    assert found["first half", FIVE_RUNS] <= 0.06
    assert found["second half", FIVE_RUNS] <= 0.06
    assert found["across", FIVE_RUNS] == 1.0


def test_false_alarms_significantly_above_the_stated_are_not_sound(quiet: list[Outcome]) -> None:
    assert is_sound(quiet)
    alarm = Outcome("x", "this gate, 1 run", "every step", 0.0, Share(30, 200), Share(0, 200))
    assert not is_sound([*quiet, alarm])
    few = Outcome("x", "this gate, 5 runs", "every step", 0.0, Share(6, 200), Share(0, 200))
    assert not is_sound([few])
    assert is_sound([few] + 30 * [replace(few, failed=Share(2, 200))])  # one of many shares is high by chance


def test_series_go_through_files(tmp_path: Path, synthetic_record: Any) -> None:
    records = [synthetic_record(id=f"{index:032x}") for index in range(10)]
    series = series_of("invented", records)
    write_series(tmp_path / "series.json", series)
    assert read_series(tmp_path / "series.json") == series
    assert series.runs[0].seconds.shape == (len(records[0].ranks), len(records[0].steps))
    (tmp_path / "series.json").write_text('{"schema": 1, "runs": []}')
    with pytest.raises(ValueError, match=r"series\.json"):
        read_series(tmp_path / "series.json")


def test_memory_of_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="peak_bytes holds 2 numbers for 1 ranks"):
        Run(ranks=[[1, 2]], peak_bytes=[1, 2])


def test_command_writes_its_counts(tmp_path: Path, synthetic_record: Any) -> None:
    for index in range(10):
        synthetic_record(id=f"{index:032x}", seed=index).write(tmp_path / "records" / f"{index}.json")
    arguments = ["--records", tmp_path / "records", "--trials", 10, "--json", tmp_path / "counts.json"]
    done = CliRunner().invoke(app, ["selftest", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (series,) = json.loads((tmp_path / "counts.json").read_text())["series"]
    assert series["condition"] == "given"
    grown = [each for each in series["outcomes"] if each["kind"] == "memory growth" and each["rule"] == FIVE_RUNS]
    assert [(each["percent"], each["failed"]["count"]) for each in grown] == [(2.0, 10), (5.0, 10), (10.0, 10)]


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_noise_is_read_and_the_gate_is_sound_on_it(path: Path) -> None:
    series = read_series(path)
    outcomes = replay(series, trials=100, kinds=["every step"])
    assert is_sound(outcomes)
    assert series.condition in title(series)
    is_drawn = len(series.sessions) == 1
    assert (FIVE_RUNS in table(outcomes, series)) is is_drawn


def test_noise_ships() -> None:
    assert SHIPPED
