"""Invented records, right in form and made up in every number: to time the judging with, and to test with.

They are never stored as data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.records.record import Record
from grok1.config.load import load_recipe

# without the sizes by which a record is found void whose tokens did not all reach an expert: these are invented
_RESOLVED = {**load_recipe("grok1-40b").resolved(), "model": {"num_layers": 8}}
LAYOUT = {
    "world_size": 16,
    "tensor": 4,
    "pipeline": 2,
    "expert": 2,
    "expert_tensor": 4,
    "data": 2,
    "nodes": 2,
    "ranks_per_node": 8,
}


def build_synthetic_record(
    *,
    steps: int = 20,
    median_seconds: float = 39.8,
    warmup_factors: tuple[float, ...] = (8.0, 1.3),
    noise: float = 0.01,
    seed: int = 0,
    **changes: Any,
) -> Record:
    """A run like grok1-40b on 16 NPUs; `changes` replace fields, or fields within a field given as a dict."""
    random = np.random.default_rng(seed)
    factors = np.ones(steps)
    factors[: len(warmup_factors)] = warmup_factors[:steps]
    common = median_seconds * factors * (1 + noise * random.standard_normal(steps))
    content = _content(steps) | {"ranks": [_rank(rank, common, random) for rank in range(16)]}
    content["id"] = f"{seed:032x}"
    content["expert_load"] = (5e5 * (1 + 0.15 * random.standard_normal((8, 8)))).astype(int).tolist()
    for name, value in changes.items():
        content[name] = content.get(name, {}) | value if isinstance(value, dict) else value
    if "resolved" not in changes.get("recipe", {}):
        content["recipe"] |= {"resolved": _fitting(content["layout"], content["work"], content["device"]["dtype"])}
    return Record.model_validate(content)


def _fitting(layout: dict[str, Any], work: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The recipe of such a layout and work, in this number format."""
    parallel, training = dict(_RESOLVED["parallel"]), dict(_RESOLVED["training"])
    parallel |= {name: size for name, size in layout.items() if name in parallel}
    training |= {name: size for name, size in work.items() if name in training} | {"dtype": dtype}
    training["micro_batch"] = max(1, work["global_batch"] // (layout["data"] * work["num_micro_batches"]))
    return {**_RESOLVED, "parallel": parallel, "training": training}


def _rank(rank: int, common: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    seconds = common * (1 - 0.01 * random.random(len(common)))
    shares = {
        "forward": 0.3,
        "backward": 0.52,
        "pipeline": 0.08,
        "gradients": 0.03,
        "optimizer": 0.05,
        "data": 0.01,
    }
    return {
        "rank": rank,
        "stage": rank // 8,
        "step_seconds": seconds.tolist(),
        "phases_seconds": {name: (share * seconds).tolist() for name, share in shares.items()},
        "communication_seconds": (0.2 * seconds).tolist(),
        "communication_calls": [420] * len(common),
        "communication_bytes": [10**9] * len(common),
        "peak_bytes": (50 + rank % 3) * 2**30,
        "reserved_bytes": 56 * 2**30,
        "host_bytes": 2**33,
    }


def _content(steps: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "created_at": "2025-01-31T12:00:00Z",
        "case": "grok1-40b",
        "valid": True,
        "void_reasons": [],
        "recipe": {"name": "grok1-40b", "hash": "0123456789ab", "resolved": _RESOLVED},
        "layout": LAYOUT,
        "device": {
            "kind": "npu",
            "name": "Ascend910B-synthetic",
            "memory_bytes": 64 * 2**30,
            "peak_flops_per_second": 353.9e12,
            "peak_source": "invented for tests",
            "dtype": "bf16",
        },
        "software": {"python": "3.10.0", "torch": "2.7.1", "megatron-core": "0.6.0"},  # as the published figure says
        "commit": {"sha": "0" * 40, "dirty": False},
        "environment": {"OMP_NUM_THREADS": "1"},
        "host": {"cores": 192, "memory_bytes": 2**40, "load_average_1m": 1.5, "cpu_name": "synthetic"},
        "work": {
            "tokens_per_step": 2**20,
            "model_flops_per_step": 7.28e16,
            "num_micro_batches": 64,
            "sequence_length": 8192,
            "global_batch": 128,
            "parameters_total": 40_970_557_440,
            "parameters_active": 11_980_000_000,
        },
        "startup_seconds": 12.5,
        "steps": [
            {
                "step": step,
                "loss": 11.8 * 0.97**step,
                "aux_loss": 0.01,
                "grad_norm": 2.0,
                "learning_rate": 1e-5,
                "skipped": False,
            }
            for step in range(steps)
        ],
    }
