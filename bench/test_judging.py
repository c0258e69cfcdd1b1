"""How long it takes to read, to judge and to report on records of 16 ranks and 50 steps. Figures to read, not a gate.

Medians of wall time and of this process's CPU time, which other work on the machine changes less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.gate import judge_suite
from bench.judge.groups import grouped
from bench.records.files import each_record
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.document import write_report

_RECORDS, _FILES, _STEPS = 1000, 50, 50
_BASELINE_RUNS = 10
_ROUNDS = 5
_COLLECTIVES = [f"{group} {name}" for group in ("tensor", "data") for name in ("all_gather", "reduce_scatter")]
_SECONDS = 300


@pytest.mark.timeout(_SECONDS)
def test_reading_a_thousand_records(tmp_path: Path, benchmark: Any) -> None:
    paths = _stored(tmp_path)
    size = sum(path.stat().st_size for path in paths)
    said = _time(benchmark, lambda: list(each_record(paths)))
    print(f"reading {_RECORDS} records, {size / 2**20:.0f} MiB: {said}")


@pytest.mark.timeout(_SECONDS)
def test_reading_and_judging_a_thousand_records(tmp_path: Path, benchmark: Any) -> None:
    paths, baselines = _stored(tmp_path), [_baseline("case0")]
    said = _time(benchmark, lambda: judge_suite(grouped(each_record(paths)), baselines))
    print(f"reading and judging {_RECORDS} records: {said}")


@pytest.mark.timeout(_SECONDS)
def test_the_report_of_a_hundred_records_of_ten_cases(tmp_path: Path, benchmark: Any) -> None:
    """With its pictures, against a baseline for each case; the records are read already."""
    records = [_record(number).model_copy(update={"case": f"case{number % 10}"}) for number in range(10, 110)]
    baselines = [_baseline(f"case{case}") for case in range(10)]
    said = _time(benchmark, lambda: write_report(records, baselines, tmp_path))
    print(f"report of {len(records)} records of 10 cases: {said}")


@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize("cases", [1, 10])
def test_judging_a_thousand_records(cases: int, benchmark: Any) -> None:
    """Against a recorded baseline of ten runs for each case."""
    runs = [_record(number) for number in range(_BASELINE_RUNS, _BASELINE_RUNS + _RECORDS // 10)] * 10
    groups = [
        [run.model_copy(update={"case": f"case{case}"}) for run in runs[: _RECORDS // cases]] for case in range(cases)
    ]
    baselines = [_baseline(f"case{case}") for case in range(cases)]
    said = _time(benchmark, lambda: judge_suite(groups, baselines))
    print(f"judging {_RECORDS} records of {cases} case{'s' * (cases > 1)}: {said}")


def _stored(folder: Path) -> list[Path]:
    """Fifty files, so that the disk's cache holds them, each named twenty times."""
    paths = [folder / f"{number}.json" for number in range(_FILES)]
    for number, path in enumerate(paths):
        _record(number).write(path)
    return paths * (_RECORDS // _FILES)


def _time(benchmark: Any, function: Callable[[], object]) -> str:
    """Time some rounds, and say what they took."""
    cpu_seconds: list[float] = []

    def timed() -> None:
        start = time.process_time()
        function()
        cpu_seconds.append(time.process_time() - start)

    benchmark.pedantic(timed, rounds=_ROUNDS)
    stats = benchmark.stats.stats
    return (
        f"{stats.median:.2f} s, median of {_ROUNDS} ({stats.min:.2f} to {stats.max:.2f}); "
        f"of CPU {statistics.median(cpu_seconds):.2f} s"
    )


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
