"""How long it takes to read and to judge a thousand records of 16 ranks and 50 steps. Figures to read, not a gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.gate import judge_suite
from bench.records.record import Record
from tests.conftest import build_synthetic_record

_RECORDS, _FILES, _STEPS = 1000, 50, 50
_BASELINE_RUNS = 10
_ROUNDS = 5
_COLLECTIVES = [f"{group} {name}" for group in ("tensor", "data") for name in ("all_gather", "reduce_scatter")]
_SECONDS = 300


@pytest.mark.timeout(_SECONDS)
def test_reading_a_thousand_records(tmp_path: Path, benchmark: Any) -> None:
    """Fifty files, so that the disk's cache holds them, each read twenty times."""
    paths = [tmp_path / f"{number}.json" for number in range(_FILES)]
    for number, path in enumerate(paths):
        _record(number).write(path)
    size = sum(path.stat().st_size for path in paths) * (_RECORDS // _FILES)
    _time(benchmark, lambda: [Record.read(path) for path in paths for _ in range(_RECORDS // _FILES)])
    print(f"reading {_RECORDS} records, {size / 2**20:.0f} MiB: {_seconds(benchmark)}")


@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize("cases", [1, 10])
def test_judging_a_thousand_records(cases: int, benchmark: Any) -> None:
    """Against a recorded baseline of ten runs for each case."""
    runs = [_record(number) for number in range(_BASELINE_RUNS, _BASELINE_RUNS + _RECORDS // 10)] * 10
    groups = [
        [run.model_copy(update={"case": f"case{case}"}) for run in runs[: _RECORDS // cases]] for case in range(cases)
    ]
    baselines = [_baseline(f"case{case}") for case in range(cases)]
    _time(benchmark, lambda: judge_suite(groups, baselines))
    print(f"judging {_RECORDS} records of {cases} case{'s' * (cases > 1)}: {_seconds(benchmark)}")


def _time(benchmark: Any, function: Callable[[], object]) -> None:
    benchmark.pedantic(function, rounds=_ROUNDS)


def _seconds(benchmark: Any) -> str:
    stats = benchmark.stats.stats
    return f"{stats.median:.2f} s, median of {_ROUNDS} ({stats.min:.2f} to {stats.max:.2f})"


def _baseline(case: str) -> Baseline:
    return recorded_baseline(
        [_record(number).model_copy(update={"case": case}) for number in range(_BASELINE_RUNS)], "to time the judging"
    )


def _record(number: int) -> Record:
    """Invented, and never stored."""
    record = build_synthetic_record(
        steps=_STEPS, median_seconds=2.0, seed=number, case="case0", expert_load=[[100] * 8] * 8
    )
    ranks = [
        {**rank.model_dump(), "collectives": {name: _collective(rank.step_seconds) for name in _COLLECTIVES}}
        for rank in record.ranks
    ]
    return Record.model_validate({**record.model_dump(by_alias=True), "ranks": ranks})


def _collective(step_seconds: list[float]) -> dict[str, Any]:
    return {"seconds": [0.05 * seconds for seconds in step_seconds], "calls": 2100, "bytes": 10**11}
