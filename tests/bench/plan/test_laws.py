"""What holds of every plan, whatever the recipe, the layout and the device: of those that are shipped, at random."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.device import Device, device_names, load_device
from bench.plan.fits import fits
from bench.plan.grok1_work import work_of
from bench.plan.layout_text import layout_named, layout_text
from bench.plan.layouts import Layouts, layouts_of
from bench.plan.legal import EVERY_AXIS, SPLITS, legal_layouts, recipe_of
from bench.plan.played import predict_played
from bench.plan.predict import place_times, predict
from bench.plan.speed import speed_of
from grok1.config.load import build_recipe, load_recipe

RECIPES = ("grok1-levers-16", "grok1-40b-tuned", "grok1-nemo-16", "grok1-40b", "grok1-tiny")
WORLDS = (8, 12, 16, 24, 48, 96)  # not all powers of two, nor multiples of a node
AVAILABLE = 64 << 30
# a figure of a profile, and a factor that makes it a better one
BETTER = (
    *((("peak", "bf16"), 1.3), (("memory", "bytes_a_second"), 1.3), (("host", "seconds_a_step"), 0.5)),
    *((("links", name), 1.5) for name in ("bytes_a_second", "nic_bytes_a_second")),
    *((("links", name), 0.5) for name in ("call_seconds", "rank_seconds", "nic_rank_seconds")),
    *((("efficiency", name), 1.2) for name in ("products", "attention", "memory", "exchange")),
    *((("efficiency", f"{name}_exposed"), 0.6) for name in ("tensor", "fused_tensor", "data", "context", "pipeline")),
    *((("efficiency", name), 0.6) for name in ("shape_penalty", "layer_seconds")),
    (("host", "seconds_a_call"), 0.5),
)


@dataclass(frozen=True)
class Drawn:
    """Some layouts of a recipe on so many ranks, and a device."""

    layouts: Layouts
    device: Device

    def names(self) -> list[str]:
        """Of the layouts."""
        return [layout_text(self.layouts, row) for row in range(len(self.layouts))]


@functools.cache
def every_layout(name: str, ranks: int, axis: str) -> Layouts | None:
    """Over one further axis; None where none is legal."""
    recipe = load_recipe(name, ["training.dtype=bf16", "training.global_batch=96"])
    try:
        return legal_layouts(recipe, ranks, [*SPLITS, axis])
    except ValueError:
        return None


@st.composite
def plans(draw: st.DrawFn) -> Drawn:
    """Up to thirty layouts and a shipped device, its nodes of any size."""
    sampled = st.tuples(st.sampled_from(RECIPES), st.sampled_from(WORLDS), st.sampled_from(EVERY_AXIS[len(SPLITS) :]))
    found = draw(sampled.map(lambda each: every_layout(*each)).filter(lambda each: each is not None))
    assert found is not None
    device = load_device(draw(st.sampled_from(device_names())))
    nodes = draw(st.sampled_from((device.node_size, 3, 6, 16, 72)))
    rows = np.random.default_rng(draw(st.integers(0, 2**32))).integers(len(found), size=30)
    return Drawn(found.take(np.unique(rows)), device.model_copy(update={"node_size": nodes}))


def with_batch(layouts: Layouts, factor: int) -> Layouts:
    """The same layouts of a larger global batch."""
    fields: dict[str, Any] = layouts.recipe.resolved()
    fields["training"]["global_batch"] *= factor
    return replace(layouts.take(slice(None)), recipe=build_recipe("larger", fields))


def better(device: Device, path: tuple[str, str], factor: float) -> Device | None:
    """With one figure multiplied; None where the profile has none, or may have no such one."""
    fields = device.model_dump()
    figure = fields[path[0]][path[1]]
    if figure is None:
        return None
    figure["value"] = factor * figure["value"]
    return Device.model_validate(fields) if path[0] != "efficiency" or figure["value"] <= 1 or factor < 1 else None


@settings(max_examples=15, deadline=None)
@given(plans())
def test_a_better_device_never_takes_longer(drawn: Drawn) -> None:
    work, few = work_of(drawn.layouts), work_of(drawn.layouts.take(slice(3)))
    seconds, played = predict(work, drawn.device).step_seconds, predict_played(few, drawn.device).step_seconds
    for path, factor in BETTER:
        device = better(drawn.device, path, factor)
        if device is not None:
            assert (predict(work, device).step_seconds <= seconds * (1 + 1e-12)).all(), path
            assert (predict_played(few, device).step_seconds <= played * (1 + 1e-6)).all(), path


@settings(max_examples=15, deadline=None)
@given(plans())
def test_twice_the_batch_takes_no_less_and_at_most_twice(drawn: Drawn) -> None:
    one, two = drawn.layouts.take(slice(3)), with_batch(drawn.layouts, 2).take(slice(3))
    for forms in (predict, predict_played):
        once, twice = (forms(work_of(each), drawn.device).step_seconds for each in (one, two))
        assert (once <= twice * (1 + 1e-12)).all()
        assert (twice <= 2 * once * (1 + 1e-12)).all()


@settings(max_examples=15, deadline=None)
@given(plans())
def test_twice_the_replicas_with_twice_the_batch_compute_the_same_and_need_no_more(drawn: Drawn) -> None:
    one, two = drawn.layouts, replace(with_batch(drawn.layouts, 2), world_size=2 * drawn.layouts.world_size)
    first, second = (place_times(work_of(each), drawn.device).micro_batch for each in (one, two))
    for name in ("products", "attention", "memory"):
        np.testing.assert_array_equal(first[name], second[name], name)
    assert (fits(two, AVAILABLE).tensors <= fits(one, AVAILABLE).tensors).all()


@settings(max_examples=15, deadline=None)
@given(plans(), st.randoms(use_true_random=False))
def test_a_layout_has_one_number_by_whatever_name(drawn: Drawn, random: Any) -> None:
    """Among others, by its own name, by that in another order, and as a recipe's own layout."""
    recipe, ranks = drawn.layouts.recipe, int(drawn.layouts.world_size[0])
    seconds, needs = predict(work_of(drawn.layouts), drawn.device).step_seconds, fits(drawn.layouts, AVAILABLE).need
    for row, name in enumerate(drawn.names()[:5]):
        words, *recompute = name.split(" recompute ")
        shuffled = " ".join([*random.sample(words.split(), len(words.split())), *(f"recompute {x}" for x in recompute)])
        ways = [layout_named(each, recipe, ranks) for each in (name, shuffled)]
        for way in (*ways, layouts_of(recipe_of(drawn.layouts, row))):
            assert predict(work_of(way), drawn.device).step_seconds[0] == pytest.approx(seconds[row], rel=1e-12)
            assert fits(way, AVAILABLE).need.tolist() == [needs[row]]


@settings(max_examples=15, deadline=None)
@given(plans(), st.lists(st.floats(1, 64), min_size=2, max_size=4).map(sorted))
def test_more_skew_never_needs_less(drawn: Drawn, skews: list[float]) -> None:
    needs = [fits(drawn.layouts, AVAILABLE, skew).need for skew in (1.0, *skews)]
    assert (np.diff(needs, axis=0) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(plans())
def test_terms_are_the_step_and_speeds_are_its_tokens_and_flops(drawn: Drawn) -> None:
    work, recipe = work_of(drawn.layouts), drawn.layouts.recipe
    for found in (predict(work, drawn.device), predict_played(work, drawn.device)):
        assert all((term >= 0).all() for term in found.terms.values())
        np.testing.assert_allclose(sum(found.terms.values()), found.step_seconds, rtol=1e-12)
        speed, ranks = speed_of(found, work, drawn.device), drawn.layouts.world_size
        np.testing.assert_allclose(speed.tokens_per_second * found.step_seconds * ranks, recipe.tokens_per_step)
        done = speed.mfu * found.step_seconds * ranks * speed.peak_flops
        np.testing.assert_allclose(done, recipe.flops_per_step())
