"""The arithmetic of a count without ranks: extending micro-batches, adding modules up, the timeline, whose is what."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from bench.ledger import count
from bench.ledger.extension import extended

FIELDS = ("calls", "matrix_flops", "vector_flops", "bytes_read", "bytes_written")


def costs(**by_module: int) -> Any:
    """A count of the forward phase: each module's calls, and ten, a hundred ... times as much of the other figures."""
    found: Any = defaultdict(lambda: SimpleNamespace(**dict.fromkeys(FIELDS, 0)))
    for module, calls in by_module.items():
        found["forward", module] = SimpleNamespace(**{name: calls * 10**at for at, name in enumerate(FIELDS)})
    return SimpleNamespace(costs=found)


def test_what_the_second_micro_batch_adds_is_added_for_each_more() -> None:
    assert extended([[10, 3], [14, 3]], [3, 4], 8) == [30, 3]
    assert extended([[10, 3], [14, 3]], [3, 4], 3) == [10, 3]
    assert extended([[10, 3]], [3], 3) == [10, 3], "all micro-batches were run"
    assert extended([[10, 3], [14, 3]], [4, 6], 12) == [26, 3], "chunks take turns every two micro-batches"


def test_modules_of_one_component_are_one_row_and_each_is_extended() -> None:
    """Two routers of 1 and 2 calls, 3 and 5 with a micro-batch more; three more in all."""
    first = costs(**{"decoder.layers.0.mlp.router": 1, "decoder.layers.1.mlp.router": 2, "output_layer": 7})
    second = costs(**{"decoder.layers.0.mlp.router": 3, "decoder.layers.1.mlp.router": 5, "output_layer": 7})
    head, router = count._cost_rows([first, second], [2, 3], 5)
    assert (head.phase, head.component, head.operator_calls) == ("forward", "head", 7)
    assert (router.phase, router.component) == ("forward", "router")
    found = (
        router.operator_calls,
        router.matrix_flops,
        router.vector_flops,
        router.bytes_read,
        router.bytes_written,
    )
    assert found == (18, 180, 1800, 18_000, 180_000)


def test_a_module_that_only_the_longer_step_reaches_is_counted() -> None:
    [row] = count._cost_rows([costs(), costs(output_layer=2)], [2, 3], 5)
    assert (row.component, row.operator_calls) == ("head", 6)


def test_collectives_are_extended_too() -> None:
    key = ("backward", "tensor", "all_reduce", "float32")
    first, second = (
        SimpleNamespace(collectives={key: SimpleNamespace(calls=calls, bytes=100 * calls)}) for calls in (2, 3)
    )
    [row] = count._collective_rows([first, second], [2, 3], 6)
    assert (row.phase, row.group, row.operation, row.dtype) == key
    assert (row.calls, row.bytes) == (6, 600)


@pytest.mark.parametrize(
    ("module", "component"),
    [
        ("embedding.word_embeddings", "embedding"),
        ("output_layer", "head"),
        ("decoder.layers.0.self_attention.core_attention", "attention core"),
        ("decoder.layers.0.self_attention.linear_qkv", "attention projections"),
        ("decoder.layers.0.mlp.router", "router"),
        ("decoder.layers.0.mlp.experts.local_experts.0.linear_fc1", "experts"),
        ("decoder.layers.0.mlp", "dispatch"),
        ("decoder.layers.0.pre_mlp_layernorm", "norms"),
        ("decoder.final_layernorm", "norms"),
        ("decoder.layers.0", "residual"),
        ("", "outside the model"),
    ],
)
def test_a_module_belongs_to_the_innermost_component(module: str, component: str) -> None:
    assert count.component(module) == component


def test_parameters_are_an_experts_or_the_ends_or_the_rest() -> None:
    sizes = {
        "module.embedding.word_embeddings.weight": 1,
        "module.output_layer.weight": 2,
        "module.decoder.layers.0.mlp.experts.local_experts.3.linear_fc1.weight": 40,
        "module.decoder.layers.1.mlp.experts.weight1": 70,  # grouped experts are one parameter
        "module.decoder.layers.0.mlp.router.weight": 500,
        "module.decoder.layers.0.input_layernorm.weight": 6000,
    }
    parts = [(name, SimpleNamespace(numel=lambda size=size: size)) for name, size in sizes.items()]
    found = count._parameters(SimpleNamespace(named_parameters=lambda: parts))
    assert (found.embedding, found.expert, found.dense) == (3, 110, 6500)


@pytest.mark.parametrize(("number", "stretches", "size"), [(1, 1, 1), (200, 200, 1), (201, 101, 2), (1000, 200, 5)])
def test_a_timeline_has_at_most_two_hundred_points_each_the_highest_of_its_stretch(
    number: int, stretches: int, size: int
) -> None:
    """The memory goes up within each stretch and starts anew: the last point of each is the highest."""
    points = [("forward", "output_layer", 100 + at % size) for at in range(number)]
    found = count._timeline(points)
    assert len(found) == stretches
    assert {point.bytes for point in found[:-1]} <= {100 + size - 1}
