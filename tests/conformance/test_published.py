"""What the planner takes of a published job is as megatron's own program has it: FLOPs, and transfers that it hides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.plan.architectures import architecture_of
from bench.plan.published import COLUMNS, PublishedRow
from bench.plan.published_work import model_flops
from tests.conformance.conftest import Checkouts

_DENSE = {
    "num_layers": 6, "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16, "kv_channels": 64,
    "group_query_attention": True, "num_query_groups": 4, "padded_vocab_size": 32000, "seq_length": 2048,
    "swiglu": True, "global_batch_size": 8,
}  # fmt: skip
_MIXTURE = {"num_experts": 16, "moe_router_topk": 4}
_NARROW = _MIXTURE | {"moe_ffn_hidden_size": 512, "moe_shared_expert_intermediate_size": 1024}
_LATENT = {
    "group_query_attention": False, "multi_latent_attention": True, "q_lora_rank": 384, "kv_lora_rank": 128,
    "qk_head_dim": 64, "qk_pos_emb_head_dim": 32, "v_head_dim": 48,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "heads narrower than hidden": {"kv_channels": 32},
    "experts": _MIXTURE,
    "shared and narrow experts": _NARROW,
    "every second layer": _NARROW | {"moe_layer_freq": 2},
    "first layers dense": _NARROW | {"moe_layer_freq": [0, 0, 1, 1, 1, 1]},
    "latent attention": _NARROW | _LATENT,
    "queries not compressed": _LATENT | {"q_lora_rank": None},
    "predicting later tokens": _NARROW | _LATENT | {"mtp_num_layers": 1},
    "dense ones predict": _NARROW | {"moe_layer_freq": 2, "mtp_num_layers": 1},
}


def test_published_jobs_are_as_megatron_s_program_has_them(checkouts: Checkouts) -> None:
    jobs = [_DENSE | case for case in CASES.values()]
    said = json.loads(checkouts.run("npu", "-m", "conformance_run.published", json.dumps(jobs)).stdout.splitlines()[-1])
    for name, job, expected in zip(CASES, jobs, said["flops"], strict=True):
        row = _row(job)
        assert model_flops(row) - _of_routers(row) == pytest.approx(expected, rel=1e-4), name
    # under interleaving: hidden once the pipeline is full, and not while it fills and empties
    assert said["transfers"] == {"overlap_p2p_comm": True, "overlap_p2p_comm_warmup_flush": False}


def _of_routers(row: PublishedRow) -> float:
    """Megatron leaves them out, and counts the norms of latent widths, which are less than the tolerance."""
    sizes = row.architecture
    mixtures = sum(sizes.has_experts(layer) for layer in range(row.layers))
    mixtures += row.predicting_layers * sizes.has_experts(row.layers - 1)
    tokens = row.sequence_length * row.global_batch
    return 6.0 * tokens * mixtures * sizes.hidden_size * sizes.num_experts


def _row(job: dict[str, Any]) -> PublishedRow:
    """The job as a source would state it, by the names of megatron's options."""
    frequency = job.get("moe_layer_freq")
    if isinstance(frequency, list):
        job = job | {"moe_layer_freq": f"([0]*{frequency.count(0)}+[1]*{frequency.count(1)})"}
    stated = {name.replace("_", "-"): value for name, value in job.items() if value is not None}
    if job.get("multi_latent_attention"):
        stated.pop("num-query-groups")
    notes = "; ".join(name if value is True else f"{name}={value}" for name, value in stated.items() if value)
    blank = dict.fromkeys(COLUMNS, "")
    return PublishedRow(
        line=2, source=blank["source"], model="a model", chip="a chip", world_size=1, tensor=1, pipeline=1,
        virtual_pipeline=1, context=1, expert=1, expert_tensor=1, sequence_length=job["seq_length"],
        global_batch=job["global_batch_size"], micro_batch=1, layers=job["num_layers"], precision="bf16",
        architecture=architecture_of("a model", notes), metric="s/step", value=1.0,
        flags={"mtp-num-layers": "1"} if job.get("mtp_num_layers") else {}, evidence=blank["evidence"],
    )  # fmt: skip
