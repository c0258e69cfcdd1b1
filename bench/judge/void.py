"""What makes a run's speed meaningless: fast but wrong is not fast."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.baseline import Baseline
from bench.judge.stats import Summary
from bench.records.record import Record

MIN_STEADY_STEPS = 3
# Above the hardware's own peak, the clock, the FLOP count or the peak is wrong, and so is the speed.
MAX_MFU = 1.0


def why_invalid(run: Record) -> str | None:
    """What keeps a run from being summarised at all."""
    return None if run.valid else run.void_reasons[0] + _more(len(run.void_reasons))


def why_void(run: Record, summary: Summary) -> str | None:
    """What makes a speed meaningless: fast but wrong is not fast."""
    if summary.steady_steps < MIN_STEADY_STEPS:
        return f"{summary.steady_steps} steady steps of {len(run.steps)}, at least {MIN_STEADY_STEPS} needed"
    if summary.mfu is not None and summary.mfu > MAX_MFU:
        return f"{summary.mfu:.0%} of the device's stated peak is impossible; check peak_flops_per_second"
    return _dropped(run)


def _dropped(run: Record) -> str | None:
    """Tokens that some layer's experts did not get; None too where the recipe or the load is not recorded."""
    model = run.recipe.resolved.get("model")
    each_goes_to = model.get("experts_per_token") if isinstance(model, dict) else None
    if not isinstance(each_goes_to, int) or isinstance(each_goes_to, bool):
        return None
    expected = len(run.steps) * run.work.tokens_per_step * each_goes_to
    for layer, load in enumerate(run.expert_load):
        if sum(load) != expected:
            return f"layer {layer}: its experts got {sum(load):,} of {expected:,} (token, expert) pairs"
    return None


def why_learning_differs(runs: Sequence[Record], matched: Sequence[Baseline]) -> str | None:
    """The first step whose loss or gradient norm is not that of a baseline's run."""
    for baseline in matched:
        if not baseline.runs:
            continue
        stored = baseline.runs[0]
        traces = (
            ("loss", stored.losses, baseline.loss_tolerance_percent),
            ("grad norm", stored.grad_norms, baseline.grad_norm_tolerance_percent),
        )
        for run in runs:
            for name, theirs, tolerance in traces:
                ours = [step.loss if name == "loss" else step.grad_norm for step in run.steps]
                if found := _first_apart(ours, theirs, tolerance):
                    step, mine, other = found
                    return (
                        f"step {run.steps[step].step}: {name} {mine:.6g} where {baseline.label} had {other:.6g}, more "
                        f"than {tolerance:g} % apart: it computes something else, or reads other data"
                    )
    return None


def _first_apart(
    ours: Sequence[float | None], theirs: Sequence[float | None], tolerance_percent: float
) -> tuple[int, float, float] | None:
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine is not None and other is not None and is_apart(mine, other, tolerance_percent):
            return index, mine, other
    return None


def is_apart(mine: float, other: float, tolerance_percent: float) -> bool:
    """Whether a loss or gradient norm is not the other's."""
    return abs(mine - other) > tolerance_percent / 100 * abs(other)


def _more(count: int) -> str:
    return f" (and {count - 1} more reasons)" if count > 1 else ""
