"""TensorBoard and W&B, where a person asks for them. Neither is imported before."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from grok1.config.recipe import Recipe
from grok1.config.refusals import printable, reason_of
from grok1.files import cannot_write


class Tracker(Protocol):
    """Something that draws curves."""

    where: str  # for a person who looks for it

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step, counted from 1."""
        ...


@contextmanager
def trackers(tensorboard: Path | None, wandb: str | None, recipe: Recipe) -> Iterator[list[Tracker]]:
    """Those that were asked for, which hold all that they were told when the block ends, however it ends.

    Raises:
        ValueError: one is not installed, or refuses; one line says what to do.
    """
    with ExitStack() as stack:
        found: list[Tracker] = []
        if tensorboard is not None:
            found.append(stack.enter_context(_tensorboard(tensorboard)))
        if wandb is not None:
            found.append(stack.enter_context(_wandb(wandb, recipe)))
        yield found


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Tracker]:
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard, or leave it out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    tracker = _TensorBoard(folder)
    try:
        yield tracker
    finally:
        tracker.close()


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.where = f"TensorBoard {printable(str(folder))}"
        self._folder = folder
        self._writer: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:  # now, and not earlier: it imports torch, which a rank makes ready first
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _wandb(project: str, recipe: Recipe) -> Iterator[Tracker]:
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs the package wandb: pip install wandb, or leave it out")
    import wandb

    settings = wandb.Settings(console="off", silent=True)  # it would print, and take in what we print
    try:
        run = wandb.init(project=project, name=recipe.name, config=recipe.resolved(), settings=settings)
    except wandb.Error as error:
        raise ValueError(
            f"--wandb {printable(project)}: {reason_of(error)} Or set WANDB_MODE=offline, which needs no account"
        ) from None
    with run:  # ends it as failed after an error
        yield _Wandb(run)


class _Wandb:
    def __init__(self, run: Any) -> None:
        # without an account there is no address, but a folder that `wandb sync` takes
        self.where = f"W&B {printable(str(Path(run.dir).parent if run.offline else run.url))}"
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)
