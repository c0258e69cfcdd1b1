"""What the machine took from a run: heard with its value and bound, and the same for both sides of a judgement."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.disturbance import disturbed, told
from bench.judge.gate import judge

QUIET_HOST = {"stolen_seconds": 0.0, "throttled_seconds": 0.0}
STEADY_SECONDS = [5.0, *[1.0] * 29]  # 34 s, and 12.5 s before


def of_steps(synthetic_record, seconds: list[float], **changes: Any) -> Any:
    base = synthetic_record(steps=len(seconds))
    ranks = [rank.model_dump() | {"step_seconds": seconds, "phases_seconds": {}} for rank in base.ranks]
    return synthetic_record(steps=len(seconds), ranks=ranks, **changes)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"throttled_seconds": 0.3}, None),
        ({"throttled_seconds": 0.6}, "throttled for 0.6 s of a run of 46.5"),
        # stolen time is of all cores together
        ({"stolen_seconds": 80.0}, None),
        ({"stolen_seconds": 100.0}, "stole 100 s of 192 cores x 46.5"),
        ({"stolen_seconds": None, "throttled_seconds": None}, None),
    ],
)
def test_time_that_the_machine_took_away(synthetic_record, host: dict[str, Any], words: str | None) -> None:
    found = disturbed(of_steps(synthetic_record, STEADY_SECONDS, host=QUIET_HOST | host))
    assert len(found) == (words is not None)
    if words is not None:
        assert words in found[0]
        assert "more than the 1 % allowed" in found[0]


@pytest.mark.parametrize(
    ("kind", "load", "complains"),
    [("cpu", 201.0, True), ("cpu", 199.0, False), ("cpu", 193.0, False), ("npu", 999.0, False)],
)
def test_a_machine_that_was_busy(synthetic_record, kind: str, load: float, complains: bool) -> None:
    """What runs on the host's cores matters where they are what is measured; 8 ranks of the run before explain 8."""
    found = disturbed(synthetic_record(device={"kind": kind}, host={"load_average_1m": load}))
    assert len(found) == complains
    if complains:
        assert "was 201.0, more than 192 cores and an earlier run of 8 ranks explain" in found[0]


def test_how_the_steps_vary_is_not_the_machines_doing(synthetic_record) -> None:
    """Otherwise a program that begins to stall would set its own runs aside."""
    seconds = [5.0, *[1.0, 1.5] * 14, 30.0]
    assert disturbed(of_steps(synthetic_record, seconds, host=QUIET_HOST)) == []


def test_a_foreign_log_knows_no_host(synthetic_record) -> None:
    assert disturbed(synthetic_record(host=None, source="a log")) == []


def test_a_void_run_without_ranks_is_looked_at_all_the_same(synthetic_record) -> None:
    void = synthetic_record(valid=False, void_reasons=["step 3: loss is not finite"], steps=0, ranks=[])
    assert disturbed(void) == []


def test_a_verdict_says_which_runs(synthetic_record) -> None:
    quiet = synthetic_record(seed=1)
    throttled = synthetic_record(seed=0xABCDEF12 << 96, noise=0.01, host={"throttled_seconds": 90.0})
    assert told([quiet, quiet], left_out=0) == ""
    one, both = told([quiet, throttled], left_out=0), told([throttled, throttled], left_out=0)
    assert one.startswith("1 of 2 runs was disturbed from outside (run abcdef12: throttled for 90")
    assert both.startswith("2 of 2 runs were disturbed")


def test_disturbed_runs_are_left_out_of_a_verdict_while_three_others_remain(synthetic_record) -> None:
    """A baseline has none of them, so that a verdict on them would compare unlike with unlike."""
    baseline = recorded_baseline([synthetic_record(seed=seed, noise=0.002) for seed in range(5)], "invented")
    quiet = [synthetic_record(seed=10 + index, noise=0.002) for index in range(3)]
    slow = [
        synthetic_record(seed=20 + index, noise=0.002, median_seconds=60.0, host={"throttled_seconds": 90.0})
        for index in range(2)
    ]
    verdict = judge([*quiet, *slow], [baseline])
    assert verdict.state == "pass", verdict.sentence
    assert "3 runs against 5" in verdict.sentence
    assert "2 of 5 runs were disturbed from outside" in verdict.sentence
    assert "what was disturbed is left out" in verdict.sentence
    few = judge([*quiet[:2], *slow], [baseline])
    assert "4 runs against 5" in few.sentence
    assert "before you trust this" in few.sentence
