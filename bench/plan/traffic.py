"""What moves bytes and multiplies nothing: norms, activations, routing, loss, gradients, optimizer. No torch.

The program's operators are many and small, and depend on its kernels: a norm in bf16 is nine of them. So this is no
closed form but a table, traffic.toml: bytes and launches of each component, as multiples of a micro-batch's sizes,
fitted by least squares to the ledger's counts of some fifty jobs. It is an approximation, for times alone; how far it
is off is in docs/planner.md.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np

from bench.plan.layouts import Ints, Places
from bench.plan.parameters import parameters
from bench.plan.recomputed import layers_again
from bench.plan.routed import routed
from bench.plan.work import Traffic

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 is what the Ascend stack runs
    import tomli as tomllib

_FIRST, _LAST = ("embedding",), ("head", "loss")  # components that one stage has; all others are of each layer
# bytes a parameter: gradients are scaled in fp32 once they are summed, and set to zero before the next step
_SCALING, _ZEROING = 8, 4
# bytes of a parameter that the rank's optimizer owns: the norm of gradients, AdamW, and the weight from its fp32 copy
_UPDATING = {"bf16": 46, "fp32": 49}
_STEP_CALLS = 100  # launches of the optimizer: between 26 and 139 were counted


def traffic(places: Places) -> tuple[Traffic, ...]:
    """The rows of all places: a micro-batch's by component and phase, and the step's."""
    return (*_of_micro_batch(places), *_of_step(places))


def _of_micro_batch(places: Places) -> Iterator[Traffic]:
    sizes, table = sizes_of(places), _table()
    kernels, dtype = _choices(places), places.of.recipe.training.dtype
    for (component, phase), rows in table.items():
        times = _times(component, places)
        size, calls = np.zeros(len(places)), np.zeros(len(places))
        for choice, where in kernels(component):
            row = _row(rows, dtype, choice)
            size = np.where(where, _sum(row["bytes"], sizes), size)
            calls = np.where(where, _sum(row["calls"], sizes), calls)
        yield _whole(component, phase, size * times, calls * times)
        if phase == "forward" and component not in (*_FIRST, *_LAST):
            again = layers_again(places, component)
            if again.any():
                yield _whole(component, "recompute", size * again, calls * again)


def _whole(component: str, phase: str, size: Any, calls: Any) -> Traffic:
    return Traffic(component, phase, "micro_batch", _rounded(size), _rounded(calls))


def _rounded(figure: Any) -> Ints:
    return np.asarray(np.rint(figure), np.int64)


def _times(component: str, places: Places) -> Any:
    """How often a place has the component: in each layer, or where it has the end that it belongs to."""
    if component in _FIRST:
        return places.is_first.astype(np.int64)
    if component in _LAST:
        return places.is_last.astype(np.int64)
    # the head has a norm of its own, where a layer has four
    return places.layers + (places.is_last / 4 if component == "norms" else 0)


def _choices(places: Places) -> Any:
    """By component, which rows of the table hold where: kernels are the recipe's, the dispatcher is the layout's."""
    recipe = places.of.recipe
    kernels, is_fp32 = recipe.kernels, recipe.training.dtype == "fp32"
    linear = ("fused" if kernels.linear == "fused" else "megatron") if is_fp32 else ""
    everywhere = np.ones(len(places), bool)
    experts = kernels.experts if kernels.experts in ("sequential", "fused") else "fused"
    merges = "megatron" if kernels.dispatch == "megatron" else "merged"
    named = {
        "attention core": "capped" if recipe.model.attention_logit_cap else "",
        "attention projections": linear,
        "head": linear,
        "experts": f"{experts} {linear}".strip(),
        "norms": "npu" if kernels.norm == "npu" else "",
        "loss": "megatron" if kernels.cross_entropy == "megatron" else "fused",
        "router": recipe.training.router_dtype,
    }

    def of(component: str) -> list[tuple[str, Any]]:
        if component != "dispatch":
            return [(named.get(component, ""), everywhere)]
        gathers = places.of.column_of("allgather", "dispatcher")
        return [(f"{merges} alltoall", ~gathers), ("megatron allgather", gathers)]

    return of


def _row(rows: list[dict[str, Any]], dtype: str, choice: str) -> dict[str, Any]:
    """The counted row; of kernels that were not counted, the first of the type."""
    fitting = [row for row in rows if row["dtype"] == dtype]
    exact = [row for row in fitting if row["choice"] == choice]
    return (exact or fitting or rows)[0]


def _sum(multiples: dict[str, float], sizes: dict[str, Any]) -> Any:
    return sum((value * sizes[name] for name, value in multiples.items()), np.float64(0))


def sizes_of(places: Places) -> dict[str, Any]:
    """What the table's multiples are of, each a column: elements of a micro-batch on a rank, weights, and flags."""
    of, model = places.of, places.of.recipe.model
    tokens, hidden = of.tokens, model.hidden_size
    shard, local = tokens // of.tensor, model.num_experts // of.expert
    of_rank = routed(of)
    pairs, rows = of_rank.sent, of_rank.received * of.expert * of.expert_tensor
    width = model.ffn_hidden_size // of.expert_tensor
    queries, keys = model.query_size // of.tensor, model.key_value_size // of.tensor
    vocabulary = model.vocab_size // of.tensor
    several, sends, is_split = local > 1, of.expert * of.expert_tensor > 1, of.tensor > 1
    return {
        "stream": shard * hidden,
        "hidden": tokens * hidden,
        "hidden_split": tokens * hidden * is_split,
        "queries": tokens * queries,
        "keys": tokens * keys,
        "scores": tokens * of.recipe.training.sequence_length * (model.num_attention_heads // of.tensor),
        "pairs": pairs * hidden,
        "pairs_sent": pairs * hidden * sends,
        "gathered": shard * of.expert * of.expert_tensor * hidden,
        "routed": rows * hidden,
        "routed_split": rows * hidden * several,
        "activated": rows * width,
        "choices": shard * model.num_experts,
        "expert_weights": local * 3 * width * hidden,
        "projection_weights": hidden * (2 * queries + 2 * keys),
        "router_weights": np.full(len(places), hidden * model.num_experts),
        "logits": tokens * vocabulary,
        "vocabulary": vocabulary * hidden,
        "one": np.ones(len(places)),
        "several": several,
        "local": local,
        "tensor": is_split,
        "expert": of.expert > 1,
        "expert_tensor": of.expert_tensor > 1,
    }


def _of_step(places: Places) -> Iterator[Traffic]:
    """Gradients and optimizer, of the parameters that a rank holds and of those that its optimizer owns."""
    held, calls = parameters(places), np.full(len(places), _STEP_CALLS, np.int64)
    of = places.of
    owned = (held.dense + held.embedding) // (of.data * of.context) + held.expert // of.expert_data
    size = held.total * (_SCALING + _ZEROING) + owned * _UPDATING[of.recipe.training.dtype]
    yield Traffic("outside the model", "optimizer", "step", size, calls)


@functools.lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the table by component and phase."""
    text = (resources.files("bench.plan") / "traffic.toml").read_text(encoding="utf-8")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in tomllib.loads(text)["operators"]:
        found.setdefault((row["component"], row["phase"]), []).append(row)
    return found
