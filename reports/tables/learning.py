"""What a run learned, and how its tokens fell on the experts."""

from __future__ import annotations

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.formats import more, number
from reports.markdown import table

_MAX_LAYERS = 64


def losses(record: Record, *, rows: int = 12) -> str:
    """The loss trace at about `rows` steps, always with the first and the last."""
    count = len(record.steps)
    picked = sorted({round(index * (count - 1) / max(1, rows - 1)) for index in range(rows)}) if count else []
    extra = [
        name for name in ("z_loss", "dropped_pairs") if any(getattr(step, name) is not None for step in record.steps)
    ]
    body = [
        (
            step.number,
            number(step.loss),
            "–" if step.aux_loss is None else f"{step.aux_loss:.4g}",
            *(number(getattr(step, name)) for name in extra),
            number(step.grad_norm),
            "–" if step.learning_rate is None else f"{step.learning_rate:.3g}",
            "skipped" if step.skipped else "",
        )
        for step in (record.steps[index] for index in picked)
    ]
    names = ["step", "loss", "aux loss", *(name.replace("_", " ") for name in extra), "grad norm", "learning rate", ""]
    return table(names, body, numbers=range(5 + len(extra)))


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
