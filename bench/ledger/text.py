"""Ledgers and their differences, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from bench.ledger.comparison import Figure, Fit, totals
from bench.ledger.schema import (
    Difference,
    Ledger,
    RankLedger,
    component_totals,
    differences,
    group_totals,
    incomparable,
    phase_totals,
)
from bench.records.markdown import code, text
from grok1.config.axes import axes_text
from grok1.config.memory import need, what_fits
from grok1.config.recipe import Recipe

_SHOWN_DIFFERENCES = 40
_GIB, _GIGA, _TERA = 2**30, 1e9, 1e12


def complaint(before: Ledger, after: Ledger, asked: str = "") -> str:
    """How a counted ledger differs from the stored one, for a gate; empty where they are the same.

    `asked` are the words of the command that counted it, from the recipe on.
    """
    reasons, found = incomparable(before, after), differences(before, after)
    if not reasons and not found and before.unknown_operators == after.unknown_operators:
        return ""
    lines = [f"the cost of a step of {after.recipe_name} differs from the stored ledger:"]
    lines += [f"- not comparable: {reason}" for reason in reasons]
    if before.unknown_operators != after.unknown_operators:
        lines.append(
            f"- operators without a FLOP formula: {before.unknown_operators} before, {after.unknown_operators} after"
        )
    if found:
        lines += ["", table(found)]
    return "\n".join([*lines, "", _remedy(before, after, found, asked or after.recipe_name)])


def _remedy(before: Ledger, after: Ledger, found: Sequence[Difference], asked: str) -> str:
    if before.engine_line != after.engine_line:
        return (
            f"the stored ledger is megatron-core {before.engine_line}'s, and stays so: check the code with that line "
            "installed; docs/ledger.md says what another line costs"
        )
    what = "cheaper" if found and all(each.after <= each.before for each in found) else "intended"
    return f"if this is {what}, store it: python -m bench ledger --recipe {asked} --update --rationale TEXT"


def table(found: Sequence[Difference]) -> str:
    """Differences as a Markdown table, the largest relative change first."""
    rows = [
        (text(each.rank), text(each.what), text(each.figure), f"{each.before:,}", f"{each.after:,}", _change(each))
        for each in found[:_SHOWN_DIFFERENCES]
    ]
    headers = ("rank", "what", "figure", "before", "after", "change")
    shown = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    more = len(found) - _SHOWN_DIFFERENCES
    return shown + (f"\n\nand {more} more" if more > 0 else "")


def _change(each: Difference) -> str:
    if not each.before:
        return "new"
    return "gone" if not each.after else f"{each.after / each.before - 1:+.2%}"


def as_markdown(before: Ledger, after: Ledger, names: tuple[str, str]) -> str:
    """Two ledgers side by side: totals per rank, then every figure that differs on ranks that both hold."""
    names = text(names[0]), text(names[1])
    lines = [f"# {names[0]} compared with {names[1]}", ""]
    lines += [f"- {text(reason)}" for reason in incomparable(before, after)]
    lines += ["", _side_by_side(before, after, names), ""]
    found = differences(before, after)
    return "\n".join([*lines, table(found) if found else "No figure differs."])


def what_if(before: tuple[Recipe, Ledger], after: tuple[Recipe, Ledger], changes: str, memory_gib: float) -> str:
    """A recipe's ledger beside that of the same recipe with `changes`, and whether each fits a device."""
    name = text(before[0].name)
    lines = [f"# {name}, and with {code(changes)}", ""]
    lines += [
        f"{axes_text(each.parallel)}: {_admission(_fullest(of), each, memory_gib)}" for each, of in (before, after)
    ]
    names = f"{name} as it is", "with the changes"
    return "\n".join([*lines, "", _side_by_side(before[1], after[1], names)])


def fit(ledger: Ledger, recipe: Recipe, memory_gib: float) -> Fit:
    """Whether the fullest rank fits a device that shows so much memory, as `what_if` says it."""
    fullest, device_bytes = _fullest(ledger), int(memory_gib * _GIB)
    needed = need(recipe, fullest.memory.peak_bytes).total
    return Fit(rank=fullest.rank, needed_bytes=needed, device_bytes=device_bytes, fits=needed / _GIB <= memory_gib)


def _side_by_side(before: Ledger, after: Ledger, names: tuple[str, str]) -> str:
    """The headline figures of all ranks together, and of each stage's rank where there are as many stages."""
    rows = []
    for each in totals(before, after):
        told, size = _FIGURES[each.figure]
        whose = "all ranks" if each.stage is None else f"stage {each.stage}, a rank"
        old, new = each.before / size, each.after / size
        rows.append((whose, told, _shown(old), _shown(new), f"{new / old - 1:+.2%}" if old else "new" if new else ""))
    return tabulate(rows, ("", "of a step", *names, "change"), tablefmt="github", disable_numparse=True)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE else f"{value:,.4g}"


_FIGURES: dict[Figure, tuple[str, float]] = {
    "matrix_flops": ("matrix TFLOP", _TERA),
    "vector_flops": ("vector GFLOP", _GIGA),
    "bytes_read_and_written": ("bytes read and written, GB", _GIGA),
    "operator_calls": ("operator calls", 1),
    "collective_calls": ("collective calls", 1),
    "collective_bytes": ("collective GB", _GIGA),
    "peak_bytes": ("peak memory, GiB", _GIB),
    "static_bytes": ("static memory, GiB", _GIB),
}


_WHOLE = 10_000  # from here on no decimals


def summary(ledger: Ledger, recipe: Recipe, memory_gib: float) -> str:
    """One ledger, summarised for a terminal; `memory_gib` is what a rank's device shows."""
    parts = [
        f"{ledger.recipe_name} ({ledger.recipe_hash}): a step of {ledger.num_micro_batches} micro-batches, "
        f"{recipe.parallel.world_size} ranks, {', '.join(f'{k} {v}' for k, v in ledger.software.items())}"
    ]
    for rank in ledger.ranks:
        parts += ["", *_rank_summary(rank)]
    parts += ["", _admission(_fullest(ledger), recipe, memory_gib)]
    total = ledger.total("matrix_flops")
    if sum(rank.ranks_alike for rank in ledger.ranks) == recipe.parallel.world_size:
        parts += [
            "",
            f"all ranks: {total / _TERA:,.1f} matrix TFLOP a step; the recipe's model FLOPs are "
            f"{recipe.flops_per_step() / _TERA:,.1f} (causal attention, no recompute)",
        ]
    if not ledger.is_complete:
        names = ", ".join(f"{name} ({calls})" for name, calls in ledger.unknown_operators.items())
        parts += ["", f"INCOMPLETE: no FLOP formula for {names}; these count as nothing, so the FLOPs are too low"]
    return "\n".join(parts)


def _fullest(ledger: Ledger) -> RankLedger:
    return max(ledger.ranks, key=lambda rank: rank.memory.peak_bytes)


def _admission(fullest: RankLedger, recipe: Recipe, memory_gib: float) -> str:
    """Whether the fullest rank fits a device that shows so much memory, by what a job's launcher would ask."""
    parts = need(recipe, fullest.memory.peak_bytes)
    left = memory_gib - parts.total / _GIB
    fits = f"fits, {left:.2f} GiB are left" if left >= 0 else f"DOES NOT FIT: {-left:.2f} GiB too much"
    said = f"rank {fullest.rank} on an NPU that shows {memory_gib:g} GiB: {fits} ({parts.told})"
    return said if left >= 0 else f"{said}; {what_fits(recipe, int(memory_gib * _GIB))}"


def _rank_summary(rank: RankLedger) -> list[str]:
    parameters, memory = rank.parameters, rank.memory
    costs = [
        (name, *_cost_columns(figures))
        for totals in (phase_totals(rank), component_totals(rank))
        for name, figures in totals.items()
    ]
    moved = [
        (group, operation, f"{figures['calls']:,}", f"{figures['bytes'] / _GIGA:,.3f}")
        for (group, operation), figures in group_totals(rank).items()
    ]
    alike = f", standing for {rank.ranks_alike} ranks" if rank.ranks_alike > 1 else ""
    return [
        f"rank {rank.rank}, stage {rank.stage}{alike}: parameters {parameters.dense:,} dense, {parameters.expert:,} "
        f"expert, {parameters.embedding:,} embedding",
        f"memory, GiB: peak {memory.peak_bytes / _GIB:.3f} ({memory.peak_phase}, {memory.peak_component}) = weights "
        f"{memory.weights_bytes / _GIB:.3f} + gradients {memory.gradients_bytes / _GIB:.3f} + optimizer "
        f"{memory.optimizer_bytes / _GIB:.3f} + activations {memory.activations_bytes / _GIB:.3f} + temporary "
        f"{memory.temporary_bytes / _GIB:.3f}",
        "",
        tabulate(costs, ("phase, then component", "calls", "matrix TFLOP", "vector GFLOP", "GB moved"), **_PLAIN),
        "",
        tabulate(moved, ("group", "collective", "calls", "GB"), **_PLAIN),
    ]


_PLAIN: dict[str, Any] = {"disable_numparse": True}


def _cost_columns(figures: dict[str, int]) -> tuple[str, str, str, str]:
    return (
        f"{figures['operator_calls']:,}",
        f"{figures['matrix_flops'] / _TERA:,.4g}",
        f"{figures['vector_flops'] / _GIGA:,.4g}",
        f"{(figures['bytes_read'] + figures['bytes_written']) / _GIGA:,.4g}",
    )
