"""What the harness itself costs: its step over the same step in a bare loop. A figure to read, not a gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import pytest
from scipy.stats import binom

from bench.session import BenchSession, show_in_benchmark_table
from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare

# on one rank nothing waits for others, so the harness's own time is not hidden behind theirs
_STEPS = 40  # a side
_RUN_SECONDS = 600


@pytest.mark.timeout(_RUN_SECONDS)
def test_harness_overhead(session: BenchSession, benchmark: Any) -> None:
    """Median over rounds of harness over bare, on the default case."""
    recipe = load_recipe("grok1-tiny", ONE_RANK)
    seconds = launch(prepare(recipe, _STEPS), recipe, session.device, entry="bench.overhead:run_rank")
    assert len(seconds["harness"]) == len(seconds["bare"]) == len(seconds["control"]) >= _STEPS
    overhead, control = (paired_excess(seconds[side], seconds["bare"]) for side in ("harness", "control"))
    print(
        f"harness overhead: {overhead} of a bare step of {median(seconds['bare']) * 1e3:.3f} ms; "
        f"bare against bare in the same run: {control}; {_STEPS} steps a side, 95 % intervals"
    )
    show_in_benchmark_table(benchmark, seconds["harness"])
    benchmark.extra_info.update(
        overhead=asdict(overhead),
        control=asdict(control),
        harness_median_seconds=median(seconds["harness"]),
        bare_median_seconds=median(seconds["bare"]),
        n=len(seconds["harness"]),
        recipe=recipe.name,
        recipe_hash=recipe.hash(),
    )


@dataclass(frozen=True)
class Excess:
    """How much longer one side's steps are, as a share of the other's: median over rounds, and its interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:+.2%} ({self.low:+.2%} to {self.high:+.2%})"


def paired_excess(side: Sequence[float], other: Sequence[float]) -> Excess:
    """Rounds are pairs of steps. The interval is that of order statistics (the sign test's), 95 %."""
    rounds = sorted(sum(side[i : i + 2]) / sum(other[i : i + 2]) - 1.0 for i in range(0, len(side), 2))
    cut = int(binom.ppf(0.025, len(rounds), 0.5))
    return Excess(median(rounds), rounds[max(0, cut - 1)], rounds[min(len(rounds) - 1, len(rounds) - cut)])
