"""What `grok1 train` says: the job at once, a line a step, each checkpoint, and a summary. No torch."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from grok1.cli.progress import profile_tables
from grok1.cli.trackers import Tracker
from grok1.config.axes import axes_text
from grok1.config.recipe import Recipe
from grok1.config.refusals import printable
from grok1.device.kind import Kind
from grok1.training.result import CheckpointSaved, Event, ProfileDone, Resumed, StepDone

_SEPARATOR = " | "
# parts of a step's line that a narrow terminal does without, the first one first
_LEFT_OUT_FIRST = ("TFLOP/s/p", "lr", "MiB", "aux loss", "z loss", "dropped", "grad norm", "tokens/s/p", "s/step")


class TrainLog:
    """Prints events as they come, hands steps to trackers, and remembers what the summary needs."""

    def __init__(self, recipe: Recipe, total: int, trackers: Iterable[Tracker] = ()) -> None:
        self._recipe, self._total, self._trackers = recipe, total, tuple(trackers)
        self._steps: list[StepDone] = []
        self._saved: CheckpointSaved | None = None

    def hear(self, event: Event) -> None:
        """Print one event."""
        if isinstance(event, StepDone):
            self._steps.append(event)
            print(step_line(event, self._recipe, self._total, _width()), flush=True)
            for tracker in self._trackers:
                tracker.log(event.metrics.step + 1, scalars(event, self._recipe))
        elif isinstance(event, Resumed):
            print(f"resumed from {_shown(event.folder)} at step {event.step}", flush=True)
        elif isinstance(event, CheckpointSaved):
            self._saved = event
            print(f"saved step {event.step} to {_shown(event.folder)} in {event.seconds:.1f} s", flush=True)
        elif isinstance(event, ProfileDone):
            print("\n\n".join(profile_tables(each) for each in event.profiles), flush=True)
        else:
            raise AssertionError(f"{event}: only a benchmark times modules")

    def summary(self, *written: str) -> str:
        """How many steps and tokens, how fast, the last loss, and where to find what was written."""
        if not self._steps:
            return ""
        recipe, median = self._recipe, statistics.median(each.step_seconds for each in self._steps)
        count = len(self._steps)
        saved = [] if self._saved is None else [f"checkpoints {_shown(self._saved.folder)}"]
        said = [
            f"done: {count:,} step{'s' * (count != 1)}, {count * recipe.tokens_per_step:,} tokens",
            f"median {_seconds(median)} s/step, {_rate(recipe, median)} tokens/s/p",
            f"last loss {self._steps[-1].metrics.loss:.6f}",
            *saved,
            *written,
        ]
        return _SEPARATOR.join(said)


def start_line(recipe: Recipe, steps: int, kind: Kind, data: Path | None) -> str:
    """The job in one line, before anything takes time."""
    layout = recipe.parallel
    sample = "the sample corpus" if recipe.data.has_sample_corpus else "not given"
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    return _SEPARATOR.join(
        (
            f"{printable(recipe.name)}: {_count(recipe.parameters())} parameters, "
            f"{_count(recipe.active_parameters())} active",
            f"{ranks} on {kind}, {axes_text(layout)}",
            f"data {sample if data is None else _shown(data)}",
            f"to step {steps:,}, {recipe.tokens_per_step:,} tokens each",
        )
    )


def step_line(done: StepDone, recipe: Recipe, total: int, width: int | None = None) -> str:
    """One step as text. On a terminal of `width` columns, as much as fits, the least telling parts left out first."""
    metrics, seconds, ranks = done.metrics, done.step_seconds, recipe.parallel.world_size
    parts = {
        "step": f"step {metrics.step + 1:>{len(str(total))}}/{total}",
        "loss": f"loss {metrics.loss:.6f}",
        "aux loss": f"aux loss {metrics.aux_loss:.4f}",
        "z loss": "" if metrics.z_loss is None else f"z loss {metrics.z_loss:.4f}",
        "dropped": "" if metrics.dropped_pairs is None else f"dropped {metrics.dropped_pairs:,}",
        "grad norm": f"grad norm {metrics.grad_norm:.4f}",
        "lr": f"lr {metrics.learning_rate:.3e}",
        "s/step": f"{_seconds(seconds)} s/step",
        "tokens/s/p": f"{_rate(recipe, seconds)} tokens/s/p",
        "TFLOP/s/p": f"{recipe.flops_per_step() / seconds / ranks / 1e12:.4g} TFLOP/s/p",
        "MiB": f"{done.peak_bytes / 2**20:.0f} MiB",
    }
    line = _SEPARATOR.join(filter(None, parts.values()))
    for name in _LEFT_OUT_FIRST:
        if width is None or len(line) <= width:
            break
        del parts[name]
        line = _SEPARATOR.join(filter(None, parts.values()))
    return line


def scalars(done: StepDone, recipe: Recipe) -> dict[str, float]:
    """A step's numbers by name, for trackers."""
    metrics = done.metrics
    found = {
        "loss": metrics.loss,
        "aux_loss": metrics.aux_loss,
        "z_loss": metrics.z_loss,
        "dropped_pairs": metrics.dropped_pairs,
        "grad_norm": metrics.grad_norm,
        "learning_rate": metrics.learning_rate,
        "step_seconds": done.step_seconds,
        "tokens_per_second_per_processor": recipe.tokens_per_second_per_processor(done.step_seconds),
        "peak_bytes": done.peak_bytes,
    }
    return {name: value for name, value in found.items() if value is not None}


def _width() -> int | None:
    """Columns of the terminal; None where a line goes elsewhere, and is wanted whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _rate(recipe: Recipe, step_seconds: float) -> str:
    return f"{recipe.tokens_per_second_per_processor(step_seconds):,.1f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _count(number: int) -> str:
    """As people say it: 1.23 M, 40.97 B."""
    scale, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / scale:,.2f} {unit}"


def _shown(path: Path) -> str:
    """Below the current folder as a person would type it."""
    here = Path.cwd()
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path))
