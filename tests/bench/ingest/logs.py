"""Logs as the programs write them, for the tests of this folder; no number is anybody's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ingest.make import make_record
from bench.ingest.read import read_logs
from bench.records.record import Record

Write = Callable[..., Path]

ARGUMENTS: dict[str, object] = {
    "world_size": 8,
    "tensor_model_parallel_size": 4,
    "pipeline_model_parallel_size": 1,
    "expert_model_parallel_size": 2,
    "context_parallel_size": 1,
    "seq_length": 1024,
    "global_batch_size": 16,
    "micro_batch_size": 1,
    "num_layers": 2,
    "hidden_size": 6144,
    "ffn_hidden_size": 32768,
    "num_attention_heads": 48,
    "num_query_groups": 8,
    "group_query_attention": True,
    "kv_channels": 128,
    "swiglu": True,
    "untie_embeddings_and_output_weights": True,
    "num_experts": 8,
    "moe_router_topk": 2,
    "bf16": True,
    "fp16": False,
    "padded_vocab_size": 131072,
    "wandb_exp_name": "a-secret",
}
NPU = {"device_name": "Ascend910B3"}
TITAN: dict[str, int | str] = {
    "world_size": 8, "tensor": 1, "pipeline": 1, "expert": 1, "expert_tensor": 1, "sequence_length": 2048,
    "global_batch": 64, "micro_batch": 8, "dtype": "bf16", "device_name": "NVIDIA H100 80GB HBM3",
    "parameters": 8_000_000, "active_parameters": 8_000_000,
}  # fmt: skip


def dump(**changes: object) -> str:
    """Megatron's arguments, as it prints them."""
    lines = [f"  {k} {'.' * (48 - len(k))} {v}" for k, v in sorted((ARGUMENTS | changes).items())]
    middle = "\n".join(lines)
    return f"------------------------ arguments ------------------------\n{middle}\n--- end of arguments ---\n"


def line(iteration: int, ms: object = 660.7, **changes: object) -> str:
    """One line of Megatron; a field set to None is left out."""
    changes = {"global batch size" if name == "global_batch_size" else name: value for name, value in changes.items()}
    batch = int(str(changes.get("global batch size") or 16))
    fields: dict[str, object] = {
        "consumed samples": f"{batch * iteration:12d}",
        "elapsed time per iteration (ms)": ms,
        # what the model of ARGUMENTS makes in that time
        "throughput per GPU (TFLOP/s/GPU)": 63.4 * 660.7 / ms if isinstance(ms, float) else None,
        "learning rate": "1.000000E-06",
        "global batch size": "   16",
        "lm loss": "1.180000E+01",
        "load_balancing_loss": "1.019746E+00",
        "loss scale": 1.0,
        "grad norm": 12.345,
        "number of skipped iterations": "  0",
        "number of nan iterations": "  0",
    }
    fields |= changes
    return f" iteration {iteration:8d}/    2000 | " + "".join(
        f"{name}: {value} | " for name, value in fields.items() if value is not None
    )


def lines(*iterations: int, **changes: object) -> str:
    return "".join(line(each, **changes) + "\n" for each in iterations)


def after(before: str, iterations: int = 7) -> str:
    """A log each of whose training lines stands behind these words; `{:02d}` in them is the iteration."""
    return dump() + "".join(
        f"{before.replace('{:02d}', f'{each:02d}')}{line(each)}\n" for each in range(1, iterations + 1)
    )


def titan(step: int, tps: object = "10,000", **changes: str) -> str:
    fields = {"grad_norm": " 1.2500", "memory": "12.50GiB(15.60%)", "tps": tps, "tflops": "56.78", "mfu": "12.30%"}
    rest = "  ".join(f"{name}: {value}" for name, value in (fields | changes).items() if value)
    return f"[titan] 2025-06-16 22:30:50,322 - root - INFO - step: {step:2}  loss:  7.1234  {rest}"


def nemo(step: int, seconds: object = 6.08, rest: str = " | consumed_samples: 5888") -> str:
    return (
        f"Training epoch 0, iteration {step}/99 | lr: 6.897e-06 | global_batch_size: 64 | global_step: {step} | "
        f"max_memory_reserved: 127785762816 | max_memory_allocated: 115792977920 | reduced_train_loss: 11.96 | "
        f"train_step_timing in s: {seconds}{rest}"
    )


def read(*paths: Path, from_step: int = 0, **stated: Any) -> Record:
    return make_record(read_logs(paths, from_step), "a-case", NPU | stated).record


def times(record: Record) -> list[float]:
    return record.ranks[0].step_seconds


def numbers(record: Record) -> list[int]:
    return [step.step for step in record.steps]
