"""What a run learned, and how its tokens fell on the experts."""

from __future__ import annotations

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.formats import more, number
from reports.markdown import table

_MAX_LAYERS = 64
_MAX_STEPS = 2000


def losses(record: Record) -> str:
    """The loss of each step; of a very long run evenly many, always with the first and the last."""
    count = len(record.steps)
    stride = -(-count // _MAX_STEPS) or 1
    picked = [*range(0, count - 1, stride), count - 1] if count else []
    extra = [
        name for name in ("z_loss", "dropped_pairs") if any(getattr(step, name) is not None for step in record.steps)
    ]
    body = [
        (
            step.step,
            number(step.loss),
            "–" if step.aux_loss is None else f"{step.aux_loss:.4g}",
            *(number(getattr(step, name)) for name in extra),
            number(step.grad_norm),
            "–" if step.learning_rate is None else f"{step.learning_rate:.3g}",
            "skipped" if step.skipped else "",
        )
        for step in (record.steps[index] for index in picked)
    ]
    names = [
        "step",
        "loss",
        "aux loss",
        *(name.replace("_", " ") for name in extra),
        "grad norm",
        "learning rate",
        "update",
    ]
    told = table(names, body, numbers=range(5 + len(extra)))
    return told + (f"\n\nEvery {stride}th step is shown." if stride > 1 else "")


def expert_load(record: Record, summary: Summary) -> str:
    """How evenly each layer's tokens fell on its experts: busiest over mean, and the extremes."""
    rows = [
        (
            layer,
            f"{sum(tokens):,}",
            f"{min(tokens):,}",
            f"{max(tokens):,}",
            "–" if ratio is None else f"{ratio:.3f}",
        )
        for layer, (tokens, ratio) in enumerate(zip(record.expert_load, summary.expert_imbalance, strict=True))
    ]
    told = table(["layer", "tokens", "least", "most", "most / mean"], rows[:_MAX_LAYERS], numbers=range(5))
    return told + more(len(rows), _MAX_LAYERS, "layers")
