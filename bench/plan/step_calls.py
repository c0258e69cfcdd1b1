"""The collectives that a rank calls once a step: gradients, weights, the gradient's norm, the report. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from bench.plan.buffers import buffers
from bench.plan.calls import ALL_GATHER, ALL_REDUCE, BYTES, REDUCE_SCATTER, Call, Phased, Sizes
from bench.plan.layouts import Ints


def step_calls(sizes: Sizes) -> Iterator[Phased]:
    """Each call of a step that is of no micro-batch, with its phase."""
    yield from _weights(sizes)
    yield from _gradients(sizes)
    yield "optimizer", sizes.call("world", ALL_REDUCE, "float32", 1)  # the square of the gradient's norm
    losses = (
        3 if sizes.recipe.model.z_loss_coefficient else 2
    )  # the loss and the auxiliary loss, and perhaps the z-loss
    yield "report", sizes.call("world", ALL_REDUCE, "float32", losses)
    if sizes.recipe.training.expert_capacity_factor:  # how many pairs were dropped
        yield "report", sizes.call("world", ALL_REDUCE, "int64", 1)


def _weights(sizes: Sizes) -> Iterator[Phased]:
    """Each bucket's gradients to the replicas that own a part of it, and the weights that they updated to all.

    Overlapped, a bucket is reduced in the last backward, and its weights are gathered in the first forward.
    """
    kernels, held = sizes.recipe.kernels, buffers(sizes.places)
    reduced = "backward" if kernels.gradient_reduction == "overlapped" else "gradients"
    gathered = "forward" if kernels.param_gather == "overlapped" else "optimizer"
    for group, buckets, values in (
        ("data x context", held.dense_buckets, held.dense_values),
        ("expert-data", held.expert_buckets, held.expert_values),
    ):
        yield reduced, _of_buckets(sizes, group, REDUCE_SCATTER, sizes.gradient_dtype, buckets, values)
        yield gathered, _of_buckets(sizes, group, ALL_GATHER, sizes.dtype, buckets, values)


def _of_buckets(sizes: Sizes, group: str, operation: str, dtype: str, buckets: Ints, values: Ints) -> Call:
    """A call a bucket, of all the values together."""
    is_split = sizes.groups[group].ranks > 1
    return Call(group, operation, dtype, buckets * is_split, values * is_split * BYTES[dtype])


def _gradients(sizes: Sizes) -> Iterator[Phased]:
    """Of what sequence parallelism leaves each tensor rank a part of; and of ends that two stages share."""
    model, places = sizes.recipe.model, sizes.places
    # four norms and the router a layer, the last norm
    replicated = model.hidden_size * (places.layers * (4 + model.num_experts) + places.is_last)
    yield "gradients", sizes.call("tensor", ALL_REDUCE, sizes.gradient_dtype, replicated)
    if model.tie_embeddings:
        rows = model.vocab_size // sizes.of.tensor
        where = places.is_first | places.is_last
        yield (
            "gradients",
            sizes.call("embedding", ALL_REDUCE, sizes.gradient_dtype, rows * model.hidden_size, where=where),
        )
