"""What the harness itself costs: its step over the same step in a bare loop. A figure to read, not a gate."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

import pytest

from bench.session import BenchSession, show_in_benchmark_table
from grok1.config import load_recipe
from grok1.job import prepare
from grok1.launch import launch

# one rank: no waiting for others, so the harness's own time is not hidden behind theirs
_ONE_RANK = [f"parallel.{axis}=1" for axis in ("world_size", "tensor", "pipeline", "expert", "expert_tensor")]
_STEPS = 100  # a side
_RUN_SECONDS = 600


@pytest.mark.timeout(_RUN_SECONDS)
def test_harness_overhead(session: BenchSession, benchmark: Any) -> None:
    """Ratio of median step seconds, harness over bare, on the smallest recipe: where overhead weighs most."""
    recipe = load_recipe("grok1-nano", _ONE_RANK)
    seconds = launch(prepare(recipe, _STEPS), recipe, session.device, entry="bench.overhead:run_rank")
    harness, bare = seconds["harness"], seconds["bare"]
    assert len(harness) == len(bare) >= _STEPS
    ratio = median(harness) / median(bare)
    print(
        f"harness overhead: {ratio - 1:+.2%} ({median(harness) * 1e3:.3f} ms over {median(bare) * 1e3:.3f} ms a step, "
        f"medians of {len(harness)} steps a side; middle half of the bare steps {_middle_half(bare)} ms)"
    )
    show_in_benchmark_table(benchmark, harness)
    benchmark.extra_info.update(
        ratio=ratio,
        harness_median_seconds=median(harness),
        bare_median_seconds=median(bare),
        n=len(harness),
        recipe=recipe.name,
        recipe_hash=recipe.hash(),
    )


def _middle_half(seconds: list[float]) -> str:
    low, _, high = quantiles(seconds, n=4)
    return f"{low * 1e3:.3f} to {high * 1e3:.3f}"
