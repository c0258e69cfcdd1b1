"""Runs for a baseline, made now: several in one session, each on a machine that is quiet or was waited for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from bench import places
from bench.judge.difference import MIN_BASELINE_RUNS

FOLDER = Path("results/recorded")
DEFAULT_WAIT_SECONDS = 60.0

Case = Annotated[
    str | None, typer.Option(metavar="NAME", help="Without RECORDS: run this case now. Default: the device's own.")
]
Recipe = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Run this recipe instead of the case's own.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable.")
]
Steps = Annotated[int | None, typer.Option(help="Training steps per run; default: the case's own.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")]
Data = Annotated[
    Path | None, typer.Option(metavar="PREFIX", help="Indexed dataset; default: the recipe's sample corpus.")
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Tokenizer of --data; default: of the sample corpus.")
]
Runs = Annotated[int, typer.Option(help="Runs to make.", min=MIN_BASELINE_RUNS, max=1000)]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="S",
        min=0,
        max=3600,
        help="Before each run, wait for a quiet CPU, at most S seconds.",
    ),
]
AllowBusy = Annotated[
    bool,
    typer.Option("--allow-busy", help="Keep runs that other programs disturbed: the gate then sees less."),
]


@dataclass(frozen=True)
class FreshRuns:
    """What to run."""

    case: str | None
    recipe: str | None
    overrides: Sequence[str]
    steps: int | None
    device: str | None
    runs: int
    wait_seconds: float
    data: Path | None = None
    tokenizer: Path | None = None

    @property
    def words(self) -> list[str]:
        """Of pytest's command line. Joined: it takes a path that stands alone for one of tests."""
        options = [("case", self.case), ("recipe", self.recipe), ("steps", self.steps), ("device", self.device)]
        options += [("set", each) for each in self.overrides]
        words = (f"--{name}={value}" for name, value in options if value is not None)
        return [*words, *corpus_words(self.data, self.tokenizer)]


def corpus_words(data: Path | None, tokenizer: Path | None) -> tuple[str, ...]:
    """Of pytest's command line, whatever the folder in which it runs."""
    given = {"data": data, "tokenizer": tokenizer}
    return tuple(f"--{name}={path.resolve()}" for name, path in given.items() if path is not None)


def make(fresh: FreshRuns) -> Path:
    """Run them, live on this terminal; the folder of their records.

    Raises:
        ValueError: they could not be run, or one failed.
    """
    results = FOLDER / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    where = [str(places.ROOT / "bench/test_pretrain.py::test_pretrain")] if places.SOURCES else []
    where = where or ["--pyargs", "bench.test_pretrain::test_pretrain"]
    command = [sys.executable, "-m", "pytest", *where, "--benchmark", "-q", "-p", "no:cacheprovider"]
    command += [f"--runs={fresh.runs}", f"--wait-for-quiet={fresh.wait_seconds:g}", f"--results={results}"]
    print(f"making {fresh.runs} runs into {results}", flush=True)
    code = subprocess.run([*command, *fresh.words], check=False).returncode
    if code:
        raise ValueError(f"the runs ended with exit code {code}, as said above: no baseline is made of them")
    return results / "records"
