"""How long it takes to read and to judge a thousand records of 16 ranks and 50 steps. Figures to read, not a gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.gate import judge_suite
from bench.records.record import Record

_RECORDS, _FILES, _RANKS, _STEPS = 1000, 50, 16, 50
_BASELINE_RUNS = 10
_ROUNDS = 5
_PHASES = {"data": 0.01, "forward": 0.3, "backward": 0.52, "pipeline": 0.08, "gradients": 0.03, "optimizer": 0.05}
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
    random = np.random.default_rng(number)
    common_S = 2.0 * (1 + 0.01 * random.standard_normal(_STEPS))
    common_S[0] *= 5
    layout = {"tensor": 4, "pipeline": 2, "expert": 2, "expert_tensor": 4, "data": 2, "nodes": 1}
    return Record.model_validate(
        {
            "id": f"{number:032x}",
            "created_at": "2025-01-31T12:00:00Z",
            "case": "case0",
            "valid": True,
            "void_reasons": [],
            "software": {"python": "3.11"},
            "environment": {},
            "recipe": {"name": "invented", "hash": "0123456789ab", "resolved": {}},
            "layout": {"world_size": _RANKS, "ranks_per_node": _RANKS, **layout},
            "device": {
                "kind": "cpu",
                "name": "invented",
                "memory_bytes": None,
                "dtype": "fp32",
                "peak_flops_per_second": None,
                "peak_source": None,
            },
            "commit": {"sha": None, "dirty": None},
            "host": {"cores": 2, "memory_bytes": 2**34, "load_average_1m": 0.1, "cpu_name": "invented"},
            "work": {
                "tokens_per_step": 2**20,
                "model_flops_per_step": 7e16,
                "num_micro_batches": 64,
                "sequence_length": 8192,
                "global_batch": 128,
                "parameters_total": 9,
                "parameters_active": 9,
            },
            "startup_seconds": 1.0,
            "steps": [
                {"step": step, "loss": 9.0 * 0.97**step, "grad_norm": 2.0, "learning_rate": 1e-4, "skipped": False}
                | {"aux_loss": 0.01}
                for step in range(_STEPS)
            ],
            "ranks": [_rank(rank, common_S * (1 - 0.01 * random.random(_STEPS))) for rank in range(_RANKS)],
            "expert_load": [[100] * 8] * 8,
        }
    )


def _rank(rank: int, seconds_S: np.ndarray) -> dict[str, Any]:
    def share(part: float) -> list[float]:
        return [float(value) for value in part * seconds_S]

    return {
        "rank": rank,
        "stage": rank // 8,
        "step_seconds": share(1.0),
        "phases_seconds": {name: share(part) for name, part in _PHASES.items()},
        "communication_seconds": share(0.2),
        "communication_calls": [420] * _STEPS,
        "communication_bytes": [10**9] * _STEPS,
        "peak_bytes": 2**35 + rank,
        "reserved_bytes": 2**36,
        "host_bytes": 2**33,
        "collectives": {name: {"seconds": share(0.05), "calls": 2100, "bytes": 10**11} for name in _COLLECTIVES},
    }
