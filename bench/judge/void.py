"""What makes a run's speed meaningless: fast but wrong is not fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from bench.judge.baseline import Baseline
from bench.judge.parity import GRAD_NORM, LOSS, first_departure, traces_of
from bench.judge.stats import Summary
from bench.records.origin import why_several_programs
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
    if summary.mfu is not None and summary.mfu > MAX_MFU and run.lone_rank is None:  # it may have less than its share
        return f"{summary.mfu:.0%} of the device's stated peak is impossible; check peak_flops_per_second"
    lost = lost_pairs(run.expert_load, _routed_pairs(run), dropped_pairs(run.steps))
    return lost[0] if lost else None


class _Step(Protocol):
    """A step of a record, or of a run that will be one."""

    @property
    def dropped_pairs(self) -> int | None: ...


def dropped_pairs(steps: Iterable[_Step]) -> int | None:
    """(token, expert) pairs that all steps dropped because the recipe limits experts; None where it does not."""
    counted = [step.dropped_pairs for step in steps if step.dropped_pairs is not None]
    return sum(counted) if counted else None


def lost_pairs(expert_load: Sequence[Sequence[int]], routed_pairs: int | None, dropped: int | None = None) -> list[str]:
    """A sentence for each layer whose experts did not get exactly the (token, expert) pairs that were routed.

    `expert_load` holds tokens by layer and expert, summed over the steps; `routed_pairs` is steps x tokens a step x
    experts a token, None where that is not known. Layers are numbered from 0, as in the report. Where the recipe has
    pairs `dropped`, they and what the experts got are to make up all that was routed.
    """
    if routed_pairs is None:
        return []
    if dropped is not None:
        got, routed = sum(map(sum, expert_load)), len(expert_load) * routed_pairs
        told = f"experts got {got:,} (token, expert) pairs and {dropped:,} were dropped, but {routed:,} were routed"
        return [] if got + dropped == routed else [told]
    return [
        f"layer {layer}: {routed_pairs - got:,} of {routed_pairs:,} (token, expert) pairs were dropped"
        if got < routed_pairs
        else f"layer {layer}: its experts got {got:,} (token, expert) pairs, but {routed_pairs:,} were routed"
        for layer, got in enumerate(map(sum, expert_load))
        if got != routed_pairs
    ]


def _routed_pairs(run: Record) -> int | None:
    """None where the recipe does not say how many experts a token goes to."""
    model = run.recipe.resolved.get("model")
    each_goes_to = model.get("experts_per_token") if isinstance(model, dict) else None
    if not isinstance(each_goes_to, int) or isinstance(each_goes_to, bool):
        return None
    return len(run.steps) * run.work.tokens_per_step * each_goes_to


def why_apart(runs: Sequence[Record], judging: Iterable[Baseline]) -> str | None:
    """What keeps these baselines from judging: a median is of one program, all of whose runs they may judge."""
    several = why_several_programs(runs)
    for baseline in judging:
        lacking = [baseline.differences(run) or baseline.why_only_shown([run]) for run in runs]
        if all(lacking):
            continue
        if several is not None:
            return f"{several}; judge those of each alone"
        if odd := next(((run, found) for run, found in zip(runs, lacking, strict=True) if found), None):
            run, found = odd
            return f"{baseline.label} judges others of these runs, but not {run.id[:8]}: {found[0]}; judge it alone"
    return None


def why_learning_differs(runs: Sequence[Record], matched: Iterable[Baseline]) -> str | None:
    """The first step whose loss or gradient norm is not that of a baseline's run."""
    for baseline in (each for each in matched if each.runs):
        told = next((each for each in baseline.runs if each.losses), baseline.runs[0])
        theirs = {LOSS: told.losses, GRAD_NORM: told.grad_norms}
        for run in runs:
            if found := first_departure(traces_of(run.steps), theirs, baseline.parity_tolerances_percent):
                step, values = run.steps[found.index].number, found.told(f"where {baseline.label} had")
                return f"step {step}: {values}: it computes something else, or reads other data"
    return None


def _more(count: int) -> str:
    return f" (and {count - 1} more reason{'s' * (count > 2)})" if count > 1 else ""
