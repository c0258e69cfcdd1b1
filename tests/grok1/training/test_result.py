"""The typed result: `--json` writes the keys that others read, and nothing in it needs torch."""

from __future__ import annotations

import json
import math

from grok1.training.result import (
    CollectiveSamples,
    DeviceUsed,
    LayoutUsed,
    ModuleSeconds,
    PhaseSpan,
    RankSamples,
    RunResult,
    StepMetrics,
)

RANK_KEYS = {
    "rank",
    "stage",
    "step_seconds",
    "phases_seconds",
    "communication_seconds",
    "communication_calls",
    "communication_bytes",
    "collectives",
    "timeline",
    "peak_bytes",
    "reserved_bytes",
    "host_bytes",
    "memory_bytes",
}


def result(modules: dict[str, ModuleSeconds]) -> RunResult:
    rank = RankSamples(
        rank=0,
        stage=0,
        step_seconds=[1.0],
        phases_seconds={"forward": [0.5]},
        communication_seconds=[0.25],
        communication_calls=[1],
        communication_bytes=[8],
        collectives={"world all_reduce": CollectiveSamples([0.25], 1, 8)},
        timeline=[PhaseSpan("forward", 0.0, 0.5)],
        peak_bytes=1,
        reserved_bytes=None,
        host_bytes=2,
        modules_seconds=modules,
    )
    return RunResult(
        steps=[StepMetrics(0, 1.0, 0.0, 2.0, 1e-4, skipped=False)],
        ranks=[rank],
        expert_load=[[1, 2]],
        startup_seconds=0.5,
        layout=LayoutUsed(1, 1, 1, 1, 1, 1, 1, 1),
        device=DeviceUsed("cpu", "invented", None, None, None, "fp32"),
        software={"torch": "0"},
        code_digests={"grok1": "0" * 64},
    )


def test_the_json_has_the_keys_that_others_read() -> None:
    written = json.loads(json.dumps(result({}).as_json()))
    assert set(written) == {"steps", "ranks", "expert_load", "startup_seconds", "layout", "device"} | {
        "software",
        "code_digests",
    }
    assert set(written["steps"][0]) == {"step", "loss", "aux_loss", "grad_norm", "learning_rate", "skipped"}
    [rank] = written["ranks"]
    assert set(rank) == RANK_KEYS
    assert set(rank["collectives"]["world all_reduce"]) == {"seconds", "calls", "bytes"}
    assert set(rank["timeline"][0]) == {"phase", "start_seconds", "end_seconds"}
    assert set(written["layout"]) == {"world_size", "nodes", "ranks_per_node", "data"} | {
        "tensor",
        "pipeline",
        "expert",
        "expert_tensor",
    }
    assert set(written["device"]) == {"kind", "name", "memory_bytes", "dtype"} | {
        "peak_flops_per_second",
        "peak_source",
    }


def test_modules_are_written_where_they_were_profiled() -> None:
    [rank] = json.loads(json.dumps(result({"head": ModuleSeconds(0.5, 0.25)}).as_json()))["ranks"]
    assert set(rank) == RANK_KEYS | {"modules_seconds"}
    assert rank["modules_seconds"] == {"head": {"forward": 0.5, "backward": 0.25}}


def test_a_step_that_is_not_finite_says_so() -> None:
    assert StepMetrics(0, 1.0, 0.0, 2.0, 1e-4, skipped=False).is_finite
    assert not StepMetrics(0, math.nan, 0.0, 2.0, 1e-4, skipped=False).is_finite
    assert not StepMetrics(0, 1.0, 0.0, math.inf, 1e-4, skipped=False).is_finite
