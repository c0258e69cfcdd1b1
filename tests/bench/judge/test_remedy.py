"""What would settle a doubt: runs that are enough and not more, or A/B, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.judge.difference import Comparison
from bench.judge.evidence import weigh
from bench.judge.remedy import MAX_RUNS, Remedy, process_seconds, runs_needed, visible_percent


def noisy(count: int, spread: float) -> list[float]:
    """Of exactly that spread between runs."""
    pattern = np.linspace(-1, 1, count)
    return np.exp(spread * pattern / pattern.std(ddof=1)).tolist()


@pytest.mark.parametrize("spread", [0.01, 0.015, 0.02])
def test_so_many_runs_show_the_limit_and_one_less_does_not(spread: float) -> None:
    needed = runs_needed(Comparison(noisy(10, spread), noisy(3, spread)))
    assert needed is not None
    limit = Comparison([1.0] * 5, [1.0]).limit_percent
    assert weigh(Comparison(noisy(10, spread), noisy(needed, spread))).visible_percent <= limit * 1.02
    if needed > 4:
        assert weigh(Comparison(noisy(10, spread), noisy(needed - 2, spread))).visible_percent > limit


def test_a_noisy_baseline_is_not_mended_by_runs_of_ours() -> None:
    assert runs_needed(Comparison(noisy(5, 0.08), noisy(5, 0.08))) is None


def test_no_number_of_runs_tells_two_sessions_apart() -> None:
    quiet = noisy(5, 0.001)
    comparison = Comparison(quiet, quiet, sessions=(["a"] * 5, ["b"] * 5), session_spread=0.05)
    assert runs_needed(comparison) is None
    assert runs_needed(Comparison(quiet, quiet)) == len(quiet) + 1 <= MAX_RUNS


@pytest.mark.parametrize(("sessions", "each"), [(1, 6), (3, 2), (5, 2), (10, 2), (8, 1)])
@pytest.mark.parametrize("ours", [3, 5, 10, 40])
def test_what_is_foreseen_across_sessions_is_what_the_gate_then_sees(sessions: int, each: int, ours: int) -> None:
    """Of five sessions that know their level a slowdown of 5.7 % was foreseen where 7.8 % is seen."""
    levels = np.repeat(np.log(noisy(sessions, 0.012)) if sessions > 1 else [0.0], each)
    runs = np.tile(np.log(noisy(each, 0.004)) if each > 1 else [0.0], sessions)
    before, names = np.exp(levels + runs).tolist(), [f"day {at // each}" for at in range(sessions * each)]
    first = Comparison(before, before[:1], sessions=(names, ["today"]), session_spread=0.012)
    after = noisy(ours, 0.004 if each > 1 else 0.012)
    then = replace(first, after=after, sessions=(names, ["today"] * ours))
    assert visible_percent(first, ours) == pytest.approx(weigh(then).visible_percent, rel=0.03)
    assert visible_percent(then, ours) == pytest.approx(weigh(then).visible_percent, rel=0.03)


def test_no_number_of_runs_of_one_session_mends_a_level_that_is_known() -> None:
    levels = np.repeat(np.log(noisy(5, 0.012)), 2) + np.tile(np.log(noisy(2, 0.004)), 5)
    before, names = np.exp(levels).tolist(), [f"day {at // 2}" for at in range(10)]
    assert runs_needed(Comparison(before, before[:1], sessions=(names, ["today"]), session_spread=0.012)) is None


def test_the_sentence_names_the_command_and_its_minutes() -> None:
    ab = "python -m bench ab --base abc --case tiny (7 min)"
    more = Remedy(12, run_seconds=30.0, process_seconds=42.0, base="abc", case="tiny")
    assert more.sentence == f"about 12 runs in all would settle it: --runs 12 (6 min), or A/B: {ab}"
    assert replace(more, left_out=2).sentence.startswith(
        "about 12 runs that nothing disturbs would settle it: --runs 12"
    )
    assert replace(more, runs=None).sentence.endswith(f"compare by A/B: {ab}")
    assert replace(more, is_suspicion=True).sentence.endswith(f"another session could explain it; settle by A/B: {ab}")
    excused = replace(more, is_suspicion=True, excuse="it rained").sentence
    assert excused == f"it rained; compare runs of free machines, or settle by A/B: {ab}"
    assert "--base REV" in replace(more, runs=None, base=None).sentence
    asked = replace(more, words=("--steps=9", '--set=training.recompute_modules=["moe"]')).sentence
    assert asked.endswith("""--case tiny --steps=9 '--set=training.recompute_modules=["moe"]' (7 min)""")


def test_a_run_of_ab_pays_for_two_starts(synthetic_record: Any) -> None:
    """pytest's, and that of the ranks' imports, which runs of one session after the first do not pay."""
    runs = [synthetic_record(seed=seed, startup_seconds=seconds) for seed, seconds in enumerate([2000.0, 1.0, 1.0])]
    steps = sum(runs[0].ranks[0].step_seconds)
    assert process_seconds(runs) == pytest.approx(4000 + steps, rel=0.05)
    assert process_seconds([synthetic_record(startup_seconds=None)]) == pytest.approx(steps, rel=0.05)
