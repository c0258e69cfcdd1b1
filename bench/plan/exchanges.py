"""Every collective that a rank calls in a training step, in closed form: calls and bytes, the ledger's own. No torch.

A call's bytes are those of its larger side, as the ledger counts them; a group of one rank exchanges nothing. The forms
are of megatron-core 0.12. What a layer calls: bench.plan.layer_calls. What a step calls once: bench.plan.step_calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bench.plan import layer_calls
from bench.plan.calls import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, Call, Phased, Sizes
from bench.plan.layouts import Ints, Places
from bench.plan.step_calls import step_calls
from bench.plan.work import Exchange, Per

_Key = tuple[str, str, str, str, Per]  # phase, group, operation, dtype
# the names of groups that a context widens, where there is none
_WITHOUT_CONTEXT = {"tensor x context": "tensor", "data x context": "data"}


def exchanges(
    places: Places, shares: Sequence[float] | None = None, expert_rank: Ints | int = 0
) -> tuple[Exchange, ...]:
    """Every collective of a step, each of calls somewhere among the places; one of a phase, group, operation, dtype.

    `shares` are each expert's share of a router's pairs, as `bench ledger --routing` takes them; None: equal ones. With
    them it matters whose experts a place has: those of the rank at `expert_rank` of its expert group.

    An interleaved pipeline of two stages sends one way in the whole job's group: its ranks and where they lie are the
    pipeline's there, as only two take part.
    """
    sizes, found = Sizes(places, shares, expert_rank), dict[_Key, Exchange]()
    for phase, call in [*_of_layers(sizes), *_of_ends(sizes), *_between_stages(sizes)]:
        _add(found, sizes, phase, "micro_batch", call)
    for phase, call in step_calls(sizes):
        _add(found, sizes, phase, "step", call)
    return tuple(each for each in found.values() if each.calls.any())


def _add(found: dict[_Key, Exchange], sizes: Sizes, phase: str, per: Per, call: Call) -> None:
    """A call to those of its kind."""
    for name, part in _by_name(sizes, call):
        group = sizes.groups[name]
        key = phase, "world" if call.is_in_world else name, call.operation, call.dtype, per
        before = found.get(key) or Exchange(*key, part.calls * 0, part.bytes * 0, group.ranks, group)
        found[key] = replace(before, calls=before.calls + part.calls, bytes=before.bytes + part.bytes)


def _by_name(sizes: Sizes, call: Call) -> list[tuple[str, Call]]:
    """A call by the ledger's names of its group, which where a context widens it has another name than elsewhere."""
    narrow, is_split = _WITHOUT_CONTEXT.get(call.group), sizes.of.context > 1
    return [(call.group, call.times(is_split)), (narrow, call.times(~is_split))] if narrow else [(call.group, call)]


def _of_layers(sizes: Sizes) -> Iterator[Phased]:
    """All layers' of a place, in a micro-batch."""
    layers, again = sizes.places.layers, _recomputed(sizes)
    entry, leave = layer_calls.projection_input(sizes), layer_calls.projection_output(sizes)
    core, moved = layer_calls.attention_core(sizes), layer_calls.dispatch(sizes)
    told = [*layer_calls.token_counts(sizes), *layer_calls.routing_maps(sizes)]
    for call in (entry, leave, *core, *moved, *told):
        yield "forward", call.times(layers)
    for call in (entry, leave, *core, *moved):
        yield "backward", call.back.times(layers)
    yield "backward", entry.times(layers)  # once more, for its matrix' gradient
    for part, calls in (("projections", [entry, leave]), ("core", core), ("experts", [*moved, *told])):
        for call in calls:
            yield "recompute", call.times(again[part])
    for call in layer_calls.expert_load(sizes):  # only where gradients are known: not in a forward that is run again
        yield "forward", call.times(layers - again["experts"])
        yield "recompute", call.times(again["experts"])


def _recomputed(sizes: Sizes) -> dict[str, Ints]:
    """How many layers of a place compute a part of theirs again in the backward."""
    of, layers = sizes.of, sizes.places.layers
    found = {part: np.zeros_like(layers) for part in ("projections", "core", "experts")}
    for number, choice in enumerate(of.recomputes):
        chosen = of.recompute == number
        whole = layers * (choice.kind == "full")
        if choice.method == "block":  # the first of each chunk
            whole = np.minimum(whole, choice.layers * of.virtual_pipeline)
        parts = {"projections": False, "core": "core_attn" in choice.modules, "experts": "moe" in choice.modules}
        for part, is_chosen in parts.items():
            found[part] = np.where(chosen, layers if is_chosen else whole, found[part])
    return found


def _of_ends(sizes: Sizes) -> Iterator[Phased]:
    """The embedding's, the head's and the loss's of a micro-batch."""
    first, last, tokens = sizes.places.is_first, sizes.places.is_last, sizes.of.tokens
    scattered = sizes.call("tensor", REDUCE_SCATTER, sizes.dtype, sizes.hidden_values)
    gathered = scattered.back
    # the vocabulary's parts are summed into sequence shards
    yield from (("forward", scattered.times(first)), ("backward", gathered.times(first)))
    # before the head, and once more for its matrix' gradient
    yield from (("forward", gathered.times(last)), ("backward", gathered.times(last)))
    yield "backward", scattered.times(last)
    # of each token the greatest logit, the target's, and the sum of exponentials
    if sizes.recipe.kernels.cross_entropy == "fused":
        yield "forward", sizes.call("tensor", ALL_GATHER, "float32", sizes.of.tensor * 3 * tokens, 1, last)
    else:
        yield "forward", sizes.call("tensor", ALL_REDUCE, "float32", tokens, 3, last)


def _between_stages(sizes: Sizes) -> Iterator[Phased]:
    """A sequence shard to the next chunk, its gradient back; the ends of the model have one neighbour.

    Interleaved, two stages send one way in the whole job's group, so that the ways are apart: the second's sends.
    (megatron.core.pipeline_parallel.p2p_communication._p2p_ops)
    """
    places, of = sizes.places, sizes.of
    times = 2 * of.virtual_pipeline - places.is_first - places.is_last
    is_apart = (of.virtual_pipeline > 1) & (of.pipeline == 2)
    values = sizes.shard * sizes.recipe.model.hidden_size
    for operation, stage in (("send", 1), ("receive", 0)):
        call = sizes.call("pipeline", operation, sizes.dtype, values, times)
        in_world = is_apart & (places.stage == stage)
        yield "pipeline", call.times(~in_world)
        yield "pipeline", replace(call.times(in_world), is_in_world=True)
