"""Which environment variables a record keeps: those that change speed, never one that may hold a secret."""

from __future__ import annotations

from collections.abc import Mapping

# Names of environment variables that change speed and say nothing secret: a name, or a prefix that ends in
# "_".
ALLOWED_ENVIRONMENT = (
    "ACL_",
    "ASCEND_",
    "CPU_AFFINITY_CONF",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_VISIBLE_DEVICES",
    "GLOO_",
    "GOMP_CPU_AFFINITY",
    "HCCL_",
    "KMP_",
    "MALLOC_",
    "MKL_NUM_THREADS",
    "NCCL_",
    "NPU_ASD_ENABLE",
    "NVTE_",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OPENBLAS_",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NPU_ALLOC_CONF",
    "TASK_QUEUE_ENABLE",
    "TORCH_NCCL_",
)
_SECRET_WORDS = ("CREDENTIAL", "KEY", "PASSWD", "PASSWORD", "SECRET", "TOKEN")
_MAX_ENVIRONMENT_VALUE = 1000


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep the variables that may change a run's speed; never one whose name speaks of a secret."""
    return {
        name: value[:_MAX_ENVIRONMENT_VALUE]
        for name, value in sorted(environment.items())
        if _is_allowed(name) and not any(word in name for word in _SECRET_WORDS)
    }


def _is_allowed(name: str) -> bool:
    return any(name.startswith(rule) if rule.endswith("_") else name == rule for rule in ALLOWED_ENVIRONMENT)
