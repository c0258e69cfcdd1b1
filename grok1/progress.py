"""What a person sees of a running job: a line a step, or a bar on a terminal. No torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grok1.config import Recipe


def log_line(event: dict[str, Any], recipe: Recipe, total: int) -> str:
    """One step as text: loss, aux loss, grad norm, learning rate, s/step, tokens/s/p, TFLOP/s/p, memory."""
    seconds, ranks = event["seconds"], recipe.parallel.world_size
    return " | ".join(
        (
            f"step {event['step'] + 1:>{len(str(total))}}/{total}",
            f"loss {event['loss']:.6f}",
            f"aux loss {event['aux_loss']:.4f}",
            f"grad norm {event['grad_norm']:.4f}",
            f"lr {event['learning_rate']:.3e}",
            f"{seconds:.3f} s/step",
            f"{recipe.tokens_per_step / seconds / ranks:.1f} tokens/s/p",
            f"{recipe.flops_per_step() / seconds / ranks / 1e12:.4g} TFLOP/s/p",
            f"{event['peak_bytes'] / 2**20:.0f} MiB",
        )
    )


@contextmanager
def progress(recipe: Recipe, total: int, title: str) -> Iterator[Callable[[dict[str, Any]], None]]:
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

        def advance(event: dict[str, Any]) -> None:
            speed = recipe.tokens_per_step / event["seconds"] / recipe.parallel.world_size
            status = f"loss {event['loss']:.4f}  {event['seconds']:.2f} s/step  {speed:.1f} tokens/s/p"
            bar.update(task, completed=event["step"] + 1, status=status)

        yield advance
