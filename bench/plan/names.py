"""Layouts by name, "TP4 PP2 EP2 ETP4 DP2 MBS1 alltoall", and back. No torch."""

from __future__ import annotations

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Layouts, Recompute
from grok1.config.refusals import quoted

_MOST_NAMED = 3  # layouts that a refusal names


def name_of(layouts: Layouts, row: int) -> str:
    """What tells the layout from others of its recipe; what is one or usual is left out, but for the first four."""
    words = [
        f"TP{layouts.tensor[row]}",
        *_above_one("CP", int(layouts.context[row])),
        f"PP{layouts.pipeline[row]}",
        *_above_one("VPP", int(layouts.virtual_pipeline[row])),
        f"EP{layouts.expert[row]}",
        f"ETP{layouts.expert_tensor[row]}",
        f"DP{layouts.data[row]}",
        f"MBS{layouts.micro_batch[row]}",
        DISPATCHERS[layouts.dispatcher[row]],
    ]
    if layouts.context[row] > 1 and layouts.context_exchange[row]:
        words.append(f"cp:{EXCHANGES[layouts.context_exchange[row]]}")
    if layouts.order[row]:
        words.append(ORDERS[layouts.order[row]])
    return " ".join([*words, *_recompute(layouts.recomputes[layouts.recompute[row]])])


def _above_one(name: str, ranks: int) -> list[str]:
    return [f"{name}{ranks}"] if ranks > 1 else []


def _recompute(recompute: Recompute) -> list[str]:
    if recompute.kind == "none":
        return []
    if recompute.kind == "selective":
        return ["recompute:" + ",".join(recompute.modules)]
    usual = recompute.method == "uniform" and recompute.layers == 1
    return ["recompute:full" if usual else f"recompute:full,{recompute.method},{recompute.layers}"]


def find(layouts: Layouts, text: str) -> int:
    """The row that has all these words in its name: "TP4 PP2 EP2" where that leaves one.

    Raises:
        ValueError: no layout has them, or several do.
    """
    words = set(text.split())
    names = [name_of(layouts, row) for row in range(len(layouts))]
    rows = [row for row, name in enumerate(names) if words and words <= set(name.split())]
    exact = [row for row in rows if words == set(names[row].split())]
    if len(rows) == 1 or len(exact) == 1:
        return exact[0] if len(exact) == 1 else rows[0]
    if not rows:
        example = names[0] if names else "none"
        raise ValueError(f"no layout of this plan is {quoted(text)}; name one as the plan does, such as {example}")
    some = "; ".join(names[row] for row in rows[:_MOST_NAMED])
    raise ValueError(f"{quoted(text)} fits {len(rows):,} layouts; add words until one is left: {some}; ...")
