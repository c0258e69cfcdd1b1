"""The arithmetic of a count without ranks: extending micro-batches, adding modules up, the timeline, whose is what."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.ledger import count
from bench.ledger.extension import Extension, extended, extension, run_in_full
from grok1.config.load import load_recipe

FOUR_OF_NINE = Extension(run=4, total=9, remembered=4)


def test_what_lies_between_two_forwards_is_added_for_each_more() -> None:
    """Five more of 4 calls and 40 bytes each; what was done before the early moment is there once."""
    early, late, ran = ({("forward", "head"): (calls, 10 * calls)} for calls in (3, 7, 20))
    assert extended(FOUR_OF_NINE, {}, early, late, ran) == {("forward", "head"): (40, 400)}


def test_a_report_grows_as_from_a_step_of_one_micro_batch() -> None:
    """From 5 to 11 in three micro-batches: 2 each, though nothing of it lies between two forwards."""
    key = ("report", "outside")
    assert extended(FOUR_OF_NINE, {key: (5,)}, {}, {}, {key: (11,)}) == {key: (21,)}


def test_interleaved_chunks_are_extended_by_groups() -> None:
    """Of 12 micro-batches 6 ran, so three more groups of two: forward 8 each, report 4 each."""
    step = Extension(run=6, total=12, remembered=6, group=2, forwards_a_group=4)
    early, late, ran = ({("forward", "head"): (calls,)} for calls in (10, 18, 30))
    short, report = {("report", ""): (4,)}, {("report", ""): (12,)}
    found = extended(step, short, early, late, ran | report)
    assert found == {("forward", "head"): (54,), ("report", ""): (24,)}


def test_a_step_that_ran_in_full_is_not_extended() -> None:
    ran = {("forward", "head"): (7,)}
    assert extended(run_in_full(4), ran, ran, ran, ran) == ran


@pytest.mark.parametrize(
    ("micro_batches", "run"),
    [(1, [1, 1, 1, 1]), (4, [4, 4, 4, 3]), (5, [5, 5, 4, 3]), (6, [6, 5, 4, 3]), (64, [6, 5, 4, 3])],
)
def test_a_stage_runs_three_micro_batches_after_its_warm_up_or_all(micro_batches: int, run: list[int]) -> None:
    """Of four stages; memory is that of the longest of these steps."""
    recipe = load_recipe(
        "grok1-tiny",
        ["parallel.pipeline=4", "parallel.expert=1", "model.num_layers=4", f"training.global_batch={micro_batches}"],
    )
    steps = [extension(recipe, stage) for stage in range(4)]
    assert recipe.num_micro_batches == micro_batches
    assert [step.run for step in steps] == run
    assert [step.run + step.more for step in steps] == [micro_batches] * 4
    assert [step.run + step.more_in_memory for step in steps] == run[:1] * 4


def test_modules_of_one_component_are_one_row() -> None:
    figures = {
        ("forward", "decoder.layers.0.mlp.router"): (1, 10, 100, 1000, 10_000),
        ("forward", "decoder.layers.1.mlp.router"): (2, 20, 200, 2000, 20_000),
        ("forward", "output_layer"): (7, 0, 0, 0, 0),
    }
    head, router = count._cost_rows(figures)
    assert (head.phase, head.component, head.operator_calls) == ("forward", "head", 7)
    assert (router.phase, router.component) == ("forward", "router")
    found = (
        router.operator_calls,
        router.matrix_flops,
        router.vector_flops,
        router.bytes_read,
        router.bytes_written,
    )
    assert found == (3, 30, 300, 3000, 30_000)


def test_a_collective_is_a_row() -> None:
    key = ("backward", "tensor", "all_reduce", "float32")
    [row] = count._collective_rows({key: (6, 600)})
    assert (row.phase, row.group, row.operation, row.dtype) == key
    assert (row.calls, row.bytes) == (6, 600)


def test_what_each_further_micro_batch_keeps_is_in_the_peak_of_the_step_whose_memory_is_stated() -> None:
    """Three ran and the stated step has five: a loss of 4 bytes twice."""
    step = Extension(run=3, total=9, remembered=5)
    early, late = (SimpleNamespace(alive={"activations": size, "weights": 50}) for size in (20, 24))
    more = count._more_alive(early, late, step)
    assert more == {"activations": 8, "weights": 0}
    counts = SimpleNamespace(peak_bytes=90, peak_split={"activations": 40, "weights": 50}, peak_at=("backward", ""))
    memory = count._memory(SimpleNamespace(counts=counts, live_bytes=lambda _: 0), more)
    assert (memory.peak_bytes, memory.activations_bytes, memory.weights_bytes) == (98, 48, 50)


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
