"""The oracle: loss, logits and every gradient of xAI's own model, in fp32 and in bf16."""

from __future__ import annotations

from pathlib import Path

from bench.doctor.findings import Finding, failed, not_run, passed
from bench.places import shipped
from grok1.fidelity.result import VerifyResult

DUMP = shipped("fixtures") / "D.npz"
# of what bf16 rounding does on a CPU: loss 2.7e-4, logits 1.6e-2, gradients 6.1e-2. Each wrong choice of the maths that
# was tried moves the logits by 5e-2 or more.
BF16_LOSS, BF16_LOGITS, BF16_GRADIENT = 2e-3, 3e-2, 1.5e-1


def missing(path: Path, dtype: str) -> Finding:
    """There is no dump to compare with."""
    return not_run(f"oracle {dtype}", f"there is no dump {path}; give one with --oracle")


def judge(dtype: str, result: VerifyResult) -> Finding:
    """In fp32 by the bounds of `grok1 verify`; in bf16 by those above."""
    loss, logits, worst = result.of_loss, result.of_logits, result.worst_gradient
    said = (
        f"loss within {loss.max_abs_error:.1e} of {result.oracle}, logits within {logits.max_abs_error:.1e}, gradients "
        f"within {worst.relative_error:.1e} ({worst.name})"
    )
    figures = {
        "loss_error": loss.max_abs_error,
        "logit_error": logits.max_abs_error,
        "gradient_relative_error": worst.relative_error,
    }
    within_bf16 = (
        loss.max_abs_error <= BF16_LOSS
        and logits.max_abs_error <= BF16_LOGITS
        and all(each.relative_error <= BF16_GRADIENT for each in result.of_gradients)
    )
    if result.passed if dtype == "fp32" else within_bf16:
        return passed(f"oracle {dtype}", said, figures)
    remedy = (
        "the model on this device is not Grok-1: the table of `grok1 verify --oracle FILE.npz` on the same --device "
        "shows which tensors differ; trust no speed of it"
    )
    return failed(f"oracle {dtype}", said, remedy, figures)
