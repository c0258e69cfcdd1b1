"""Ranks for tests: jobs on random text, run through the same launcher as training, with a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import Job
from grok1.training.result import RunResult
from tests.limits import HANG_SECONDS

TWO_RANKS = ("parallel.world_size=2", *ONE_RANK[1:])  # replicas of each other
FOUR_RANKS = ("parallel.world_size=4", "parallel.pipeline=1", "parallel.expert=1")  # split by tensor alone
ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"  # dumps of xAI's own model

MakeJob = Callable[..., Job]
Train = Callable[..., Any]  # a RunResult, unless the entry is another


def grok1_command(*words: object) -> list[str]:
    """The words that start `grok1`."""
    return [sys.executable, "-m", "grok1", *map(str, words)]


def run_grok1(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """`grok1` as a person types it: nothing that this process's tests set says on which device."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")}
    return subprocess.run(
        grok1_command(*words),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, **variables},
        timeout=HANG_SECONDS,
        check=False,
    )


def as_options(overrides: Iterable[str]) -> list[str]:
    """Overrides of a recipe as words of a command line."""
    return [word for override in overrides for word in ("--set", override)]


def run_python(script: str, device: str) -> subprocess.CompletedProcess[str]:
    """A script in an interpreter of its own, whose environment has the device and one thread, nothing else."""
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"GROK1_DEVICE": device, "PATH": "", "OMP_NUM_THREADS": "1"},
        timeout=HANG_SECONDS,
        check=False,
    )


@pytest.fixture(scope="session")
def make_job(corpus: tuple[Path, Path]) -> Callable[..., Job]:
    """A grok1-nano job with overrides: make_job(steps, "parallel.tensor=2", ..., save=folder)."""

    def make(steps: int, *overrides: str, **settings: Any) -> Job:
        recipe: Recipe = load_recipe("grok1-nano", overrides)
        return Job(recipe, steps, *corpus, launched_at=time.time(), **settings)

    return make


@pytest.fixture(scope="session")
def train(make_job: Callable[..., Job]) -> Train:
    """Train grok1-nano on CPU ranks; returns what rank 0 gathered."""

    def run(steps: int, *overrides: str, entry: str = "grok1.training.run:run_rank", **settings: Any) -> Any:
        job = make_job(steps, *overrides, **settings)
        return launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS)

    return run


@pytest.fixture(scope="session")
def one_rank(train: Train) -> RunResult:
    """Ten steps of grok1-nano on one rank: what every layout must reproduce."""
    result: RunResult = train(10, *ONE_RANK)
    return result


@pytest.fixture(scope="session")
def sixteen_ranks(train: Train) -> RunResult:
    """Seven steps of grok1-nano in its own layout: tensor 4 x pipeline 2 x expert 2."""
    result: RunResult = train(7)
    return result


def column(result: RunResult, name: str) -> list[float]:
    """One metric of every step."""
    return [getattr(step, name) for step in result.steps]
