"""The fields of training lines by their exact names, with their units; a name that is not here is not guessed.

The names are those of Megatron-LM up to core 0.19, Megatron-DeepSpeed, Primus, MindSpeed-LLM and NeMo, as their sources
and their public logs have them.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.ingest.values import parse_measure

# Seconds that one unit is.
_TIMES = {
    "elapsed time per iteration (ms)": 1e-3,
    "elapsed time per iteration (s)": 1.0,  # Megatron-DeepSpeed of the BLOOM era
    "train_step_timing in s": 1.0,
}
LOSS = ("lm loss", "loss", "lm_loss", "reduced_train_loss")
GRAD_NORM = ("grad norm",)
LEARNING_RATE = ("learning rate", "lr")
AUX_LOSS = ("load_balancing_loss", "load balancing loss", "seq_load_balancing_loss", "aux_loss", "aux loss", "moe loss")
GLOBAL_BATCH = ("global batch size", "gloabl batch size", "global_batch_size")
SEQUENCE_LENGTH = ("actual seqlen", "curriculum seqlen")  # that of this step, as it may grow
TOKENS_SEEN = ("consumed tokens",)
SAMPLES_SEEN = ("consumed samples", "consumed_samples")
# Tokens a second of one processor, and of the job; samples a second of the job; TFLOP/s of one processor.
TOKENS_RATE = (
    "tokens per gpu per second (tgs)",
    "tokens per GPU (tokens/s/GPU)",
    "tokens/s/GPU inst/harmonic mean",
    "tokens_per_sec_per_gpu",
)
JOB_TOKENS_RATE = ("tokens/s",)
SAMPLES_RATE = ("samples per second", "throughput(samples/s)")
TFLOPS = ("throughput per GPU (TFLOP/s/GPU)", "compute per GPU (TFLOP/s/GPU)", "TFLOPS_per_GPU", "TFLOPs")
BEHIND_THE_LOSS = ("loss scale", *GRAD_NORM, "number of skipped iterations", "number of nan iterations")
# Bytes that one unit is. MindSpeed-LLM divides by 2**30 and writes GB; Megatron Bridge means 1e9.
PEAK = {
    "max_memory_allocated": 1,
    "max_memory_allocated(GB)": 2**30,
    "mem-max-allocated-bytes": 1,
    "mem-max-allocated-gigabytes": 10**9,
}
RESERVED = {
    "max_memory_reserved": 1,
    "max_memory_reserved(GB)": 2**30,
    "peak_memory_usage": 1,  # NeMo 1: what the allocator reserved at most
    "mem-max-reserved-bytes": 1,
    "mem-max-reserved-gigabytes": 10**9,
}
# Known, and of no use to a record.
_OTHERS = (
    "skipped samples",
    "global_step",
    "num zeros",
    "params norm",
    "decoupled learning rate",
    "mfu",
    "core attn ratio (%)",
    "mtp loss",
    "energy per GPU (J/iter/GPU)",
    "power per GPU (W/GPU)",
    "cpu_used_memory(GB)",
    "cpu_available_memory(GB)",
    "cpu_memory_usage(%)",
    "val_loss",
    "v_num",
)
# By name, what a field is of a sample.
_MEANINGS: dict[str, tuple[str, ...]] = {
    "loss": LOSS,
    "grad_norm": GRAD_NORM,
    "learning_rate": LEARNING_RATE,
    "aux_loss": AUX_LOSS,
    "global_batch": GLOBAL_BATCH,
    "sequence_length": SEQUENCE_LENGTH,
    "tokens_seen": TOKENS_SEEN,
    "samples_seen": SAMPLES_SEEN,
    "tokens_per_second": TOKENS_RATE,
    "job_tokens_per_second": JOB_TOKENS_RATE,
    "samples_per_second": SAMPLES_RATE,
    "tflops": TFLOPS,
    "loss_scale": ("loss scale",),
    "skipped": ("number of skipped iterations",),
    "nan": ("number of nan iterations",),
    "peak_bytes": tuple(PEAK),
    "reserved_bytes": tuple(RESERVED),
}
MEANS = {name: meaning for meaning, names in _MEANINGS.items() for name in names}
KNOWN = frozenset((*_TIMES, *MEANS, *_OTHERS))
TITAN_TIMES = ("tps", "wps", "elapsed_time_per_step", "step_time")  # two speeds, two times
TITAN = frozenset((*TITAN_TIMES, "memory", "tflops", "mfu", "grad_norm"))
BAR = KNOWN


def time_of(fields: Mapping[str, str]) -> tuple[str | None, float]:
    """The time of a step as printed, and the seconds that its unit is."""
    for name, scale in _TIMES.items():
        if name in fields:
            return fields[name], scale
    return None, 1.0


def scaled_bytes(text: str | None, unit: int) -> int:
    """A printed amount of memory in bytes; 0, which means unknown, where it is none."""
    value = parse_measure(text)
    return min(int(value * unit), 2**50) if value is not None and 0 <= value * unit < 1e18 else 0


def bytes_of(fields: Mapping[str, str], units: Mapping[str, int]) -> int:
    """The memory that a line states under one of several names."""
    return max((scaled_bytes(fields[name], unit) for name, unit in units.items() if name in fields), default=0)
