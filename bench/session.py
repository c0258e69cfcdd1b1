"""What a benchmark session was asked for, and the records it has made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.baseline import Baseline, load_baselines
from bench.cases import Case, select
from bench.ledger import Ledger
from bench.record import Record
from grok1.config import load_recipe
from grok1.job import Job, prepare
from grok1.launch import Nodes, default_device

# what is timed on one rank in this process, or without the waiting of sixteen for each other on two cores
ONE_RANK = tuple(f"parallel.{axis}=1" for axis in ("world_size", "tensor", "pipeline", "expert", "expert_tensor"))


@dataclass
class BenchSession:
    """What this benchmark session was asked for, and the records it has made."""

    config: pytest.Config
    records: list[Record] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)  # of the full-size job, for the report
    report: Path | None = None

    @property
    def device(self) -> str:
        return str(self.config.getoption("--device") or default_device())

    @property
    def results(self) -> Path:
        return Path(self.config.getoption("--results"))

    @property
    def require_baseline(self) -> bool:
        return bool(self.config.getoption("--require-baseline"))

    def nodes(self) -> Nodes:
        option = self.config.getoption
        return Nodes(
            option("--nnodes"),
            option("--node-rank"),
            option("--master-addr"),
            option("--master-port"),
            option("--nproc-per-node"),
        )

    def cases(self) -> list[Case]:
        return select(self.config.getoption("--case"), self.device)

    def job(self, case: Case) -> Job:
        """The case's job with the command line's changes."""
        option = self.config.getoption
        return prepare(
            load_recipe(option("--recipe") or case.recipe, option("--set")),
            case.steps if option("--steps") is None else option("--steps"),
            Path(option("--data")) if option("--data") else None,
            Path(option("--tokenizer")) if option("--tokenizer") else None,
            shared_storage=not option("--no-shared-storage"),
        )

    def runs(self, case: Case) -> int:
        runs = self.config.getoption("--runs")
        return case.runs if runs is None else int(runs)

    def baselines(self) -> list[Baseline]:
        return load_baselines(Path(self.config.getoption("--baselines")))


def show_in_benchmark_table(benchmark: Any, seconds: Iterable[float]) -> None:
    """Hand times taken in other processes to pytest-benchmark, as if its own fixture had taken them.

    Its public `pedantic` would time the launcher, not the steps, so this uses the fixture's inner statistics.
    """
    stats = benchmark._make_stats(1)
    benchmark._mode = "external"
    for value in seconds:
        stats.update(value)
