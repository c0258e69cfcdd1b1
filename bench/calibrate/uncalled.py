"""Which operators of a step could not be called alone, and how much of the step's work they are, in words. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from bench.plan.measured_device import OperatorCalls
from bench.records.terminal import plain

_MOST_SHOWN = 10
_MOST_LETTERS = 150  # of a signature


def uncalled(operators: Sequence[OperatorCalls], refused: Collection[str]) -> list[str]:
    """Lines: how many signatures of a step were refused, their share of its FLOPs and bytes, then the largest of them.

    A prediction takes their seconds from the timed calls of their kind.
    """
    if not refused:
        return []
    flops, size = Counter[str](), Counter[str]()
    for each in operators:
        flops[each.signature] += each.calls * each.flops
        size[each.signature] += each.calls * each.bytes
    all_flops, all_bytes = max(1, flops.total()), max(1, size.total())
    parts = sorted(((flops[name] / all_flops, size[name] / all_bytes, name) for name in refused), reverse=True)
    of_flops, of_bytes = sum(part[0] for part in parts), sum(part[1] for part in parts)
    lines = [
        f"{len(refused)} of {len(flops)} signatures could not be called alone: {of_flops:.2%} of the step's FLOPs and "
        f"{of_bytes:.2%} of its bytes. Their time is taken from the timed calls of their kind:"
    ]
    lines += [
        f"  FLOPs {part[0]:.2%}, bytes {part[1]:.2%}: {plain(part[2], _MOST_LETTERS)}" for part in parts[:_MOST_SHOWN]
    ]
    if len(parts) > _MOST_SHOWN:
        lines.append(f"  and {len(parts) - _MOST_SHOWN} smaller ones")
    return lines
