"""What a person sees while an A/B comparison runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.ab.request import Request


class RunProgress:
    """A line for each pair on stderr; on a terminal also a bar of runs."""

    def __init__(self, bar: Progress | None, pairs: int) -> None:
        self._bar, self._pairs = bar, pairs
        self._task = None if bar is None else bar.add_task("", total=2 * pairs)

    def total(self, pairs: int) -> None:
        if pairs > self._pairs > 0:
            self.line(f"inconclusive after the first stage: {pairs - self._pairs} more pairs, then the last stage")
        self._pairs = pairs
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=2 * pairs)

    def running(self, index: int, name: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"pair {index + 1} of {self._pairs}, {name} runs")

    def ran(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def pair(self, index: int, base: float, head: float) -> None:
        self.line(
            f"pair {index + 1} of {self._pairs}: base {base:.3g} s/step, head {head:.3g} ({head / base - 1:+.1%})"
        )

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def run_progress(request: Request) -> Iterator[RunProgress]:
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield RunProgress(None, request.pairs)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # drawn twice a second: the machine is for the runs
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=2) as bar:
        yield RunProgress(bar, request.pairs)
