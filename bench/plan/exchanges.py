"""Every collective that a rank calls in a training step, in closed form: calls and bytes, the ledger's own. No torch.

A call's bytes are those of its larger side, as the ledger counts them; a group of one rank exchanges nothing. The forms
are of megatron-core 0.12. What a layer calls: bench.plan.layer_calls. What a step calls once: bench.plan.step_calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bench.plan import layer_calls
from bench.plan.calls import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, Call, Sizes, Where
from bench.plan.layouts import Ints, Places
from bench.plan.step_calls import step_calls
from bench.plan.work import Exchange, Per

_Key = tuple[str, str, str, str, Per]  # phase, group, operation, dtype
# what groups are called that a context widens, without one
_WITHOUT_CONTEXT = {"tensor x context": "tensor", "data x context": "data"}


def exchanges(
    places: Places, shares: Sequence[float] | None = None, expert_rank: Ints | int = 0
) -> tuple[Exchange, ...]:
    """Every collective of a step, each of calls somewhere among the places; one of a phase, group, operation, dtype.

    `shares` are each expert's share of a router's pairs, as `bench ledger --routing` takes them; None: equal ones. With
    them it matters whose experts a place has: those of the rank at `expert_rank` of its expert group.

    An interleaved pipeline of two stages sends one way in the whole job's group: its ranks and stride are the
    pipeline's there, as only two take part.
    """
    sizes, found = Sizes(places, shares, expert_rank), dict[_Key, Exchange]()
    for phase, times, call in [*_of_layers(sizes), *_of_ends(sizes)]:
        _add(found, sizes, phase, "micro_batch", call, times)
    for name, call in _between_stages(sizes):
        _add(found, sizes, "pipeline", "micro_batch", call, name=name)
    for phase, call in step_calls(sizes):
        _add(found, sizes, phase, "step", call)
    return tuple(each for each in found.values() if each.calls.any())


def _add(
    found: dict[_Key, Exchange],
    sizes: Sizes,
    phase: str,
    per: Per,
    call: Call,
    times: Ints | int = 1,
    name: str | None = None,
) -> None:
    """A call so many times, to those of its kind; groups that a context widens have another name without one."""
    wide, narrow = name or call.group, _WITHOUT_CONTEXT.get(call.group)
    is_split = sizes.of.context > 1
    for each, where in [(wide, is_split), (narrow, ~is_split)] if narrow else [(wide, True)]:
        group = sizes.groups[call.group if each == name else each]
        key, calls, size = (phase, each, call.operation, call.dtype, per), call.calls * times, call.bytes * times
        more = Exchange(*key, calls * where, size * where, group.ranks, group.stride)
        before = found.get(key)
        found[key] = (
            replace(before, calls=before.calls + more.calls, bytes=before.bytes + more.bytes) if before else more
        )


def _of_layers(sizes: Sizes) -> Iterator[tuple[str, Ints, Call]]:
    """(phase, times, call) of all layers of a place."""
    layers, again = sizes.places.layers, _recomputed(sizes)
    entry, leave = layer_calls.projection_input(sizes), layer_calls.projection_output(sizes)
    core, moved = layer_calls.attention_core(sizes), layer_calls.dispatch(sizes)
    told = [*layer_calls.token_counts(sizes), *layer_calls.routing_maps(sizes)]
    for call in (entry, leave, *core, *moved, *told):
        yield "forward", layers, call
    for call in (entry, leave, *core, *moved):
        yield "backward", layers, call.back
    yield "backward", layers, entry  # once more, for its matrix' gradient
    for part, calls in (("projections", [entry, leave]), ("core", core), ("experts", [*moved, *told])):
        for call in calls:
            yield "recompute", again[part], call
    for call in layer_calls.expert_load(sizes):  # only where gradients are known: not in a forward that is run again
        yield "forward", layers - again["experts"], call
        yield "recompute", again["experts"], call


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


def _of_ends(sizes: Sizes) -> Iterator[tuple[str, Where, Call]]:
    """(phase, where, call) of the embedding, the head and the loss."""
    first, last, tokens = sizes.places.is_first, sizes.places.is_last, sizes.of.tokens
    # the vocabulary's parts are summed into sequence shards
    embedded = sizes.call("tensor", REDUCE_SCATTER, sizes.dtype, sizes.hidden_values)
    yield from (("forward", first, embedded), ("backward", first, embedded.back))
    gathered = embedded.back
    # before the head, and once more for its matrix' gradient
    yield from (("forward", last, gathered), ("backward", last, gathered), ("backward", last, embedded))
    # of each token the greatest logit, the target's, and the sum of exponentials
    if sizes.recipe.kernels.cross_entropy == "fused":
        yield "forward", last, sizes.call("tensor", ALL_GATHER, "float32", sizes.of.tensor * 3 * tokens)
    else:
        yield "forward", last, sizes.call("tensor", ALL_REDUCE, "float32", tokens, 3)


def _between_stages(sizes: Sizes) -> Iterator[tuple[str, Call]]:
    """(group, call): a sequence shard to the next chunk, its gradient back; the ends of the model have one neighbour.

    Interleaved, two stages send one way in the whole job's group, so that the ways are apart: the second's sends.
    (megatron.core.pipeline_parallel.p2p_communication._p2p_ops)
    """
    places, of = sizes.places, sizes.of
    times = 2 * of.virtual_pipeline - places.is_first - places.is_last
    is_split = (of.virtual_pipeline > 1) & (of.pipeline == 2)
    for operation, stage in (("send", 1), ("receive", 0)):
        values = sizes.shard * sizes.recipe.model.hidden_size
        in_world = is_split & (places.stage == stage)
        for name, where in (("pipeline", ~in_world), ("world", in_world)):
            yield name, sizes.call("pipeline", operation, sizes.dtype, values, times, where)
