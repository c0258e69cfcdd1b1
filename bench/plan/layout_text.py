"""A layout in the field's letters, as tables show it and as a person names it: `TP4 PP2 EP2 ETP4 DP2 mb1`. No torch.

Words that follow, where a layout has what they say: the dispatcher, `a2a` for a context's other exchange, `pp-dp` for
the other order of ranks, and `recompute` with its kind and details: `full`, `full uniform 2`, `full block 1`,
`selective core_attn+moe`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from bench.plan.layouts import DISPATCHERS, EXCHANGES, ORDERS, Layouts, Recompute, layouts_of
from bench.plan.legal import recipe_of
from bench.plan.rules import MODULES
from grok1.config.axes import SHOWN_ABOVE_ONE
from grok1.config.recipe import Recipe
from grok1.config.refusals import quoted

_LETTERS = {
    "TP": "tensor",
    "CP": "context",
    "PP": "pipeline",
    "VPP": "virtual_pipeline",
    "EP": "expert",
    "ETP": "expert_tensor",
    "DP": "data",
    "MB": "micro_batch",
}
_SIZE = re.compile(r"([a-z]{2,3})([1-9][0-9]{0,6})", re.IGNORECASE)
_OTHER_ORDER = "pp-dp"
_MOST_CHARACTERS = 300
_EXAMPLE = "TP4 PP2 EP2 ETP4 mb1 alltoall recompute full"


def layout_text(layouts: Layouts, row: int) -> str:
    """The layout of that row; `layout_named` reads it."""
    words = []
    for letters, name in _LETTERS.items():
        size = int(getattr(layouts, name)[row])
        if size > 1 or name not in SHOWN_ABOVE_ONE:
            words.append(f"{'mb' if letters == 'MB' else letters}{size}")
    words.append(DISPATCHERS[layouts.dispatcher[row]])
    if layouts.context[row] > 1 and EXCHANGES[layouts.context_exchange[row]] == "a2a":
        words.append("a2a")
    if ORDERS[layouts.order[row]].endswith(_OTHER_ORDER):
        words.append(_OTHER_ORDER)
    return " ".join([*words, *_recompute_words(layouts.recomputes[layouts.recompute[row]])])


def layout_named(text: str, recipe: Recipe, world_size: int | None = None) -> Layouts:
    """One row: the layout that a text names. Sizes that it leaves out are 1, its dispatcher the recipe's.

    Raises:
        ValueError: a word is none of a layout's, or stands there twice.
        RecipeError: the recipe refuses the layout; the message says why.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"layout {quoted(text)} is over {_MOST_CHARACTERS} characters long; write it like {_EXAMPLE}")
    ranks = recipe.parallel.world_size if world_size is None else world_size
    own = layouts_of(recipe)
    words, _, recompute = (part.strip() for part in text.partition("recompute"))
    columns = dict.fromkeys(_LETTERS.values(), 1) | {
        "world_size": ranks,
        "dispatcher": int(own.dispatcher[0]),
        "context_exchange": 0,
        "order": 0,
    }
    data = _read_words(words.split(), columns, text)
    arrays: dict[str, Any] = {name: np.array([value], np.int64) for name, value in columns.items() if name != "data"}
    arrays["recompute"] = np.zeros(1, np.int64)
    named = replace(own, recomputes=(_read_recompute(recompute, text),), **arrays)
    recipe_of(named, 0)
    if data is not None and data != named.data[0]:
        raise ValueError(
            f"layout {quoted(text)} says DP{data}, but {ranks} ranks leave DP{named.data[0]}; leave DP out, or change "
            "the number of ranks"
        )
    return named


def _recompute_words(recompute: Recompute) -> list[str]:
    if recompute.kind == "none":
        return []
    if recompute.kind == "selective":
        return ["recompute", "selective", "+".join(recompute.modules)]
    is_default = (recompute.method, recompute.layers) == ("uniform", 1)
    return ["recompute", "full", *([] if is_default else [recompute.method, str(recompute.layers)])]


def _read_words(words: list[str], columns: dict[str, int], text: str) -> int | None:
    """Puts what the words say into the columns; the replicas, where they are said."""
    choices = {name: ("dispatcher", index) for index, name in enumerate(DISPATCHERS)}
    choices |= {"a2a": ("context_exchange", EXCHANGES.index("a2a"))}
    choices |= {_OTHER_ORDER: ("order", next(i for i, order in enumerate(ORDERS) if order.endswith(_OTHER_ORDER)))}
    said: set[str] = set()
    for word in words:
        size = _SIZE.fullmatch(word)
        name, value = choices.get(word.lower(), ("", 0))
        if size is not None and word.lower() not in choices:
            name, value = _LETTERS.get(size[1].upper(), ""), int(size[2])
        if not name or name in said:
            trouble = "says twice what is said once in" if name else "is none of the words of"
            raise ValueError(f"layout {quoted(text)}: {quoted(word)} {trouble} a layout; write it like {_EXAMPLE}")
        columns[name] = value
        said.add(name)
    return columns["data"] if "data" in said else None


def _read_recompute(words: str, text: str) -> Recompute:
    kind, *details = words.split() or ["none"]
    if kind == "none" and not details:
        return Recompute()
    if kind == "selective" and len(details) == 1 and set(details[0].split("+")) <= set(MODULES):
        return Recompute("selective", modules=tuple(details[0].split("+")))
    if kind == "full" and not details:
        return Recompute("full")
    if kind == "full" and len(details) == 2 and details[0] in ("uniform", "block") and _is_number(details[1]):
        return Recompute("full", details[0], int(details[1]))
    raise ValueError(
        f"layout {quoted(text)}: recompute is none, full, full uniform N, full block N or selective with modules of "
        f"{'+'.join(MODULES)}"
    )


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,3}", word) is not None
