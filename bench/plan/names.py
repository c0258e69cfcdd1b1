"""Layouts by name, "TP4 PP2 EP2 ETP4 DP2 MBS1 alltoall", and back. No torch."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Layouts, Recompute
from grok1.config.refusals import quoted

_MOST_NAMED = 3  # layouts that a refusal names
_COLUMNS = {
    "TP": "tensor",
    "CP": "context",
    "PP": "pipeline",
    "VPP": "virtual_pipeline",
    "EP": "expert",
    "ETP": "expert_tensor",
    "MBS": "micro_batch",
}
_WORD = re.compile(rf"({'|'.join(_COLUMNS)})([0-9]{{1,9}})")


def name_of(layouts: Layouts, row: int) -> str:
    """What tells the layout from others of its recipe; what is one or usual is left out, but for the first four."""
    words = [
        f"TP{layouts.tensor[row]}",
        *_above_one("CP", int(layouts.context[row])),
        f"PP{layouts.pipeline[row]}",
        *_above_one("VPP", int(layouts.virtual_pipeline[row])),
        f"EP{layouts.expert[row]}",
        f"ETP{layouts.expert_tensor[row]}",
        f"DP{layouts.world_size[row] // (layouts.tensor[row] * layouts.context[row] * layouts.pipeline[row])}",
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
    names = {int(row): name_of(layouts, int(row)) for row in np.flatnonzero(_has_ranks(layouts, words))}
    rows = [row for row, name in names.items() if words and words <= set(name.split())]
    exact = [row for row in rows if words == set(names[row].split())]
    if len(rows) == 1 or len(exact) == 1:
        return exact[0] if len(exact) == 1 else rows[0]
    if not rows:
        example = name_of(layouts, 0) if len(layouts) else "none"
        raise ValueError(f"no layout of this plan is {quoted(text)}; name one as the plan does, such as {example}")
    some = "; ".join(names[row] for row in rows[:_MOST_NAMED])
    raise ValueError(f"{quoted(text)} fits {len(rows):,} layouts; add words until one is left: {some}; ...")


def _has_ranks(layouts: Layouts, words: set[str]) -> npt.NDArray[np.bool_]:
    """Where the columns have what these words say of them: a plan may have more layouts than are named in seconds."""
    found = np.ones(len(layouts), bool)
    for word in words:
        match = _WORD.fullmatch(word)
        if match:
            found &= getattr(layouts, _COLUMNS[match[1]]) == int(match[2])
    return found
