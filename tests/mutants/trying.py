"""Tries mutants in copies of the tree, so many at a time: is there a test that fails?"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from tests.mutants.mutant import Mutant

Tests = tuple[str, ...]
Outcome = Literal["caught", "survived", "time limit", "broken"]
# What takes long to load. torch starts no threads when it is loaded, so it can be forked.
LOADED = ("numpy", "scipy.stats", "scipy.optimize", "scipy.special", "hypothesis", "pydantic", "ruptures", "torch")
_FACTOR, _MORE_SECONDS = 5.0, 20.0  # of what the tests take without a fault: a mutant that loops is caught
_MOST_SECONDS = 600.0  # that they may take


@dataclass(frozen=True)
class Trial:
    """What the tests said of one mutant. `said` is the first test that failed, or what went wrong."""

    mutant: Mutant
    outcome: Outcome
    said: str
    seconds: float


def copied(root: Path, folder: Path) -> Path:
    """A copy of the files that git knows or would add."""
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for path in filter(None, listed.split("\0")):
        if (root / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, folder / path)
    return folder


class Copy:
    """A copy of the tree and the process that runs tests in it."""

    def __init__(self, folder: Path, loaded: Sequence[str]) -> None:
        self.folder = folder
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file of one second and size have one .pyc
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.zygote", *loaded],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # whoever asked for the trials ends it, not the terminal
        )

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def test(self, tests: Sequence[str], limit_seconds: float) -> tuple[Outcome, str, float]:
        """(outcome, what was said, seconds) of the tree as it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"tests": tests, "limit_seconds": limit_seconds}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"outcome": "broken", "said": "ended", "seconds": 0}')
        return cast(Outcome, answer["outcome"]), str(answer["said"]), float(answer["seconds"])

    def try_out(self, mutant: Mutant, limit_seconds: float) -> Trial:
        """Of the tree with this fault in it."""
        path = self.folder / mutant.path
        assert path.read_text(encoding="utf-8") == mutant.original
        path.write_text(mutant.mutated, encoding="utf-8")
        try:
            return Trial(mutant, *self.test(mutant.tests, limit_seconds))
        finally:
            path.write_text(mutant.original, encoding="utf-8")


@contextmanager
def copies(root: Path, folder: Path, count: int, loaded: Sequence[str] = LOADED) -> Iterator[list[Copy]]:
    """So many copies under a folder; their processes end with the context."""
    with ExitStack() as stack:
        found = []
        for place in range(count):
            found.append(Copy(copied(root, folder / str(place)), loaded))
            stack.callback(found[-1].end)
        yield found


def seconds_without_fault(copies: Sequence[Copy], mutants: Sequence[Mutant]) -> dict[Tests, float]:
    """What the tests of these mutants take where nothing is changed.

    Raises:
        RuntimeError: they fail without a fault, so that they would seem to catch any.
    """
    unchanged = {each.tests: replace(each, mutated=each.original) for each in mutants}
    trials = try_all(copies, list(unchanged.values()), dict.fromkeys(unchanged, _MOST_SECONDS), lambda trial: None)
    for trial in trials:
        if trial.outcome != "survived":
            raise RuntimeError(f"{' '.join(trial.mutant.tests)}: {trial.outcome} without a fault: {trial.said}")
    return {trial.mutant.tests: trial.seconds for trial in trials}


def try_all(
    copies: Sequence[Copy],
    mutants: Sequence[Mutant],
    seconds: Mapping[Tests, float],
    tell: Callable[[Trial], None],
) -> list[Trial]:
    """In the order of the mutants; `tell` is called with each trial as it ends."""
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Trial]] = queue.SimpleQueue()
    for place in range(len(mutants)):
        places.put(place)
    for copy in copies:
        threading.Thread(target=_serve, args=(copy, places, mutants, seconds, done), daemon=True).start()
    found: dict[int, Trial] = {}
    while len(found) < len(mutants):
        place, trial = done.get()
        found[place] = trial
        tell(trial)
    return [found[place] for place in range(len(mutants))]


def _serve(
    copy: Copy,
    places: queue.SimpleQueue[int],
    mutants: Sequence[Mutant],
    seconds: Mapping[Tests, float],
    done: queue.SimpleQueue[tuple[int, Trial]],
) -> None:
    while True:
        try:
            place = places.get_nowait()
        except queue.Empty:
            return
        mutant = mutants[place]
        try:
            trial = copy.try_out(mutant, _FACTOR * seconds[mutant.tests] + _MORE_SECONDS)
        except Exception as error:  # else whoever waits for this trial waits for ever
            trial = Trial(mutant, "broken", repr(error), 0.0)
        done.put((place, trial))
