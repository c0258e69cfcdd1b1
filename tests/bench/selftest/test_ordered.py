"""In the order of time: blocks lie where they are said to, and the level of a session fails no equal runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench.judge.evidence import MetricState
from bench.selftest.ordered import (
    AS_ONE,
    AS_TWO,
    BLOCK,
    InOrder,
    _log_medians,
    autocorrelations,
    block_pairs,
    in_order,
    spreads_percent,
)
from bench.selftest.rules import MINDSPEED, THIS_GATE, Trace, this_gate
from bench.selftest.series import FOLDER, Run, Series, read_series
from bench.selftest.text import ordered_table, title


def series(levels: list[float], sessions: list[str] | None = None) -> Series:
    """A run of two ranks at each level, its steps all but equal."""
    random = np.random.default_rng(3)
    names = sessions or ["1"] * len(levels)
    runs = [
        Run(ranks=(1e6 * level * np.exp(random.normal(0.0, 0.001, (2, 20)))).astype(int).tolist(), session=name)
        for level, name in zip(levels, names, strict=True)
    ]
    return Series(condition="invented", recipe_name="none", recipe_hash="0", device_name="none", runs=runs)


def varied(count: int, spread: float, seed: int) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0.0, spread, count))


def counted(found: list[InOrder], rule: str, percent: float) -> Counter[MetricState]:
    return sum((Counter(each.states) for each in found if (each.rule, each.percent) == (rule, percent)), Counter())


def test_blocks_of_a_session_lie_as_far_apart_as_they_say() -> None:
    pairs = block_pairs([range(17)])
    assert pairs["within a session", "0 later"] == [(start, start + 5) for start in range(8)]
    assert pairs["within a session", "5 later"] == [(0, 10), (1, 11), (2, 12)]
    assert set(pairs) == {("within a session", "0 later"), ("within a session", "5 later")}


def test_blocks_of_sessions_never_mix_them() -> None:
    """Each block of one against each of a later one; sessions too short for two blocks have none within."""
    assert block_pairs([range(6), range(6, 12)]) == {("between sessions", "1 and 2"): [(0, 6), (0, 7), (1, 6), (1, 7)]}
    three = block_pairs([range(5), range(5, 15), range(15, 18)])
    assert three["within a session", "0 later"] == [(5, 10)]
    assert {apart for where, apart in three if where == "between sessions"} == {"1 and 2"}


def test_the_level_of_a_session_fails_equal_runs_taken_for_exchangeable_only() -> None:
    """Half a percent between runs and 3 % between the sessions: as one session all fail, as two none does."""
    levels = [*varied(7, 0.005, 1), *(1.03 * varied(7, 0.005, 2))]
    found = in_order(series(levels, ["1"] * 7 + ["2"] * 7))
    assert counted(found, AS_ONE, 0.0) == {"fail": 9}
    assert counted(found, AS_TWO, 0.0)["fail"] == 0
    assert counted(found, AS_TWO, 0.0)["inconclusive"] == 9
    assert counted(found, MINDSPEED, 10.0) == {"fail": 9}


def test_a_slowdown_is_found_and_improved_is_told_apart() -> None:
    levels = [*varied(6, 0.002, 1), *(0.8 * varied(6, 0.002, 2))]
    found = in_order(series(levels, ["1"] * 6 + ["2"] * 6))
    assert counted(found, AS_TWO, 0.0) == {"improved": 4}
    again = in_order(series([*varied(6, 0.002, 1), *(1.2 * varied(6, 0.002, 2))], ["1"] * 6 + ["2"] * 6))
    assert counted(again, AS_TWO, 10.0) == {"fail": 4}


def test_a_drift_within_a_session_is_seen_in_the_order_of_time() -> None:
    """What random draws hide: each block is slower than the one before."""
    drifting = series([1.01**place for place in range(20)])
    assert counted(in_order(drifting), AS_ONE, 0.0)["fail"] > 0
    assert autocorrelations(drifting)[1] > 0.9
    assert abs(autocorrelations(series(list(varied(60, 0.02, 4))))[1]) < 0.4


def test_spreads_within_sessions_and_between_them() -> None:
    levels = [*varied(30, 0.01, 1), *(1.1 * varied(30, 0.01, 2))]
    within, between = spreads_percent(series(levels, ["1"] * 30 + ["2"] * 30))
    assert within == pytest.approx(1.0, abs=0.3)
    assert between == pytest.approx(100 * np.log(1.1) / np.sqrt(2), abs=0.4)
    assert spreads_percent(series(levels))[0] > 4
    whole = series(levels)
    within, between = spreads_percent(whole)
    assert within == pytest.approx(100 * np.std(_log_medians(whole), ddof=1))
    assert between is None


def test_a_lag_is_told_of_a_series_that_is_twice_as_long_and_a_block_more() -> None:
    assert set(autocorrelations(series(list(varied(14, 0.02, 4))))) == {1, 2}
    assert set(autocorrelations(series(list(varied(15, 0.02, 4))))) == {1, 2, 5}


def test_runs_that_do_not_differ_have_no_autocorrelation() -> None:
    runs = [Run(ranks=[[100] * 8])] * 12
    equal = Series(condition="invented", recipe_name="none", recipe_hash="0", device_name="none", runs=runs)
    assert autocorrelations(equal) == {}


def test_both_sides_lose_the_longest_warm_up_of_all() -> None:
    """As in the gate: a run that is slow at first is not compared with steps that others left out."""
    steps = np.ones((1, 20)) * np.exp(np.random.default_rng(1).normal(0.0, 0.001, (10, 1, 20)))
    warm = steps.copy()
    warm[0, 0, :8] = 3.0
    traces = [Trace(each) for each in warm]
    cut = max(trace.steady_from for trace in traces)
    assert cut > 7
    assert {trace.steady_from for trace in traces[1:]} != {cut}
    assert this_gate(traces[:5], traces[5:]) == "pass"
    assert {len(trace._by_cut) for trace in traces} == {1}
    assert all(cut in trace._by_cut for trace in traces)


def test_the_tables_lead_with_the_order_of_time() -> None:
    levels = [*varied(7, 0.005, 1), *(1.03 * varied(7, 0.005, 2))]
    two = series(levels, ["1"] * 7 + ["2"] * 7)
    shown = ordered_table(in_order(two), two)
    row = next(line for line in shown.splitlines() if AS_ONE in line)
    assert [cell.strip() for cell in row.split("|")[1:6]] == ["between sessions", AS_ONE, "9", "100.0%", "0.0%"]
    assert "between its 2 sessions" in title(two)
    assert "at lag 1" in title(two)
    short = series(levels, [str(place // 2) for place in range(14)])
    assert ordered_table(in_order(short), short).startswith("skipped: the order of time")


def test_on_a_shipped_series_time_matters() -> None:
    """Taken for exchangeable the gate fails many equal blocks of this series; as two sessions far fewer."""
    found = in_order(read_series(FOLDER / "sixteen-ranks-in-turns.json"))
    one, two = counted(found, AS_ONE, 0.0), counted(found, AS_TWO, 0.0)
    assert sum(one.values()) == sum(two.values()) == 85
    assert one["fail"] / 85 > 0.15
    assert two["fail"] / 85 < 0.10
    assert two["improved"] == 0
    assert {each.rule for each in found if THIS_GATE in each.rule} == {AS_ONE, AS_TWO}
    assert BLOCK == 5
