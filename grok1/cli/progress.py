"""What a person sees of a running job: a line a step, or a bar on a terminal. No torch."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tabulate import tabulate

from grok1.config.axes import axes_text
from grok1.config.recipe import Recipe
from grok1.fidelity.result import VerifyResult
from grok1.training.result import Event, StepDone, StepProfile


def comparison_table(result: VerifyResult) -> str:
    """What `grok1 verify` found: every tensor's errors beside its bound, and the verdict."""
    layout = result.layout
    rows = [
        (
            each.name,
            f"{each.max_abs_error:.2e}",
            f"{each.relative_error:.2e}",
            f"{each.tolerance:.0e} {'relative' if each.name.startswith('grad.') else 'absolute'}",
            "pass" if each.passed else "FAIL",
        )
        for each in result.tensors
    ]
    headers = ("tensor", "max abs error", "max rel error", "tolerance", "")
    failed = sum(not each.passed for each in result.tensors)
    verdict = f"FAIL: {failed} of {len(rows)} tensors differ" if failed else f"PASS: all {len(rows)} tensors agree"
    worst = result.worst_gradient
    return (
        f"{tabulate(rows, headers, disable_numparse=True)}\n\n"
        f"{verdict} with {result.oracle} on {layout.world_size} rank{'s' * (layout.world_size > 1)} "
        f"({axes_text(layout)}): "
        f"loss {result.loss:.6f}, logits within {result.of_logits.max_abs_error:.1e}, "
        f"gradients within {worst.relative_error:.1e} ({worst.name})"
    )


def profile_tables(profile: StepProfile, rows: int = 20) -> str:
    """One profiled step of one rank: its time by module, by operator and by kind of collective."""
    step = profile.step_seconds
    modules = [
        (
            name,
            f"{1e3 * each.forward:.2f}",
            f"{1e3 * each.backward:.2f}",
            f"{(each.forward + each.backward) / step:.1%}",
        )
        for name, each in itertools.islice(profile.modules.items(), rows)
    ]
    operators = [
        (name, f"{each.calls:,}", f"{1e3 * each.seconds:.2f}", f"{each.seconds / step:.1%}")
        for name, each in itertools.islice(profile.operators.items(), rows)
    ]
    collectives = [
        (name, f"{each.calls:,}", f"{each.bytes:,}", f"{1e3 * each.seconds:.2f}", f"{each.seconds / step:.1%}")
        for name, each in sorted(profile.collectives.items(), key=lambda item: -item[1].seconds)
    ]
    parts = [f"rank {profile.rank}, step {profile.step}: {step:.4g} s while profiled"]
    if modules:
        parts.append(
            tabulate(modules, ("module, its own operators", "forward ms", "backward ms", "of the step"), **_PLAIN)
        )
    if operators:
        parts.append(tabulate(operators, ("operator", "calls", "own ms", "of the step"), **_PLAIN))
    parts.append(tabulate(collectives, ("collective", "calls", "bytes", "ms", "of the step"), **_PLAIN))
    if profile.trouble:
        parts.append(f"warning: rank {profile.rank}, step {profile.step}: {profile.trouble}")
    if profile.trace:
        parts.append(f"trace for chrome://tracing or ui.perfetto.dev: {profile.trace}")
    return "\n\n".join(parts)


_PLAIN: dict[str, Any] = {"disable_numparse": True}


@contextmanager
def progress(recipe: Recipe, total: int, title: str) -> Iterator[Callable[[Event], None]]:
    """A bar on a terminal, nothing elsewhere; yields what to call with each step's event."""
    console = Console(file=sys.stderr)
    if not console.is_terminal or os.environ.get("CI"):
        yield lambda event: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, status="starting ranks")

        def advance(event: Event) -> None:
            if not isinstance(event, StepDone):
                return
            metrics, seconds = event.metrics, event.step_seconds
            speed = recipe.tokens_per_second_per_processor(seconds)
            status = f"loss {metrics.loss:.4f}  {seconds:.2f} s/step  {speed:.1f} tokens/s/p"
            bar.update(task, completed=metrics.step + 1, status=status)

        yield advance


@contextmanager
def conversion(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; yields what to call with (done, of all)."""
    console = Console(file=sys.stderr)
    if not console.is_terminal or os.environ.get("CI"):
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
