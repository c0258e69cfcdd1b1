"""`grok1 train`: its options in groups, the job, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.options import Device, Grouped, Overrides, RecipeName
from grok1.cli.outputs import Filled
from grok1.commands.ranks import run_ranks, speaks
from grok1.commands.weights import CHECKPOINT_FILES
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import chosen_kind
from grok1.distributed.nodes import START_SECONDS, Nodes
from grok1.distributed.rendezvous import COLLECTIVE_SECONDS, COME_SECONDS, MOST_SECONDS

if TYPE_CHECKING:
    from grok1.cli.trackers import Tracker
    from grok1.training.job import Job
    from grok1.training.result import RunResult

_JSON_SCHEMA = 2  # 1 counted steps from 0
_ENTRY = "grok1.training.run:run_rank"

_data = partial(typer.Option, rich_help_panel="Data")
_checkpoints = partial(typer.Option, rich_help_panel="Checkpoints")
_output = partial(typer.Option, rich_help_panel="Curves and profiles")
_machines = partial(typer.Option, rich_help_panel="Several machines")


@dataclass(frozen=True)
class What:
    """The job itself."""

    recipe: RecipeName = "grok1-tiny"
    overrides: Overrides = None
    steps: Annotated[
        int, typer.Option(metavar="N", help="Stop after this many steps in all, those before a resume included.")
    ] = 20
    device: Device = None
    json_path: Json = None


@dataclass(frozen=True)
class Data:
    """What it learns from."""

    data: Annotated[
        Path | None, _data(metavar="PREFIX", help="Prefix of the .bin/.idx pair; default: the sample corpus.")
    ] = None
    tokenizer: Annotated[Path | None, _data(metavar="PATH", help="The tokenizer that made --data.")] = None
    index_cache: Annotated[
        Path | None, _data(metavar="DIR", help="Keep the sample index here; default: beside the corpus.")
    ] = None
    no_shared_storage: Annotated[bool, _data("--no-shared-storage", help="Nodes do not share a disk.")] = False


@dataclass(frozen=True)
class Checkpoints:
    """What is kept, and what to go on from."""

    save: Annotated[Path | None, _checkpoints(metavar="DIR", help="Write checkpoints into this folder.")] = None
    save_interval: Annotated[
        int, _checkpoints(metavar="N", help="Steps between checkpoints; 0: only at the end.", min=0)
    ] = 0
    load: Annotated[
        Path | None, _checkpoints(metavar="DIR", help="Resume from the newest checkpoint in this folder.")
    ] = None
    allow_change: Annotated[
        list[str] | None,
        _checkpoints(metavar="KEY", help="A value that --load may find changed, like training.seed. Repeatable."),
    ] = None


@dataclass(frozen=True)
class Output:
    """What to look at later."""

    tensorboard: Annotated[Path | None, _output(metavar="DIR", help="Write TensorBoard's curves here.")] = None
    wandb: Annotated[
        str | None, _output(metavar="PROJECT", help="Send curves to W&B; WANDB_MODE=offline keeps them here.")
    ] = None
    profile: Annotated[
        str | None, _output(metavar="STEPS", help="Profile these steps, like 5 or 4,8-9; writes traces.")
    ] = None
    profile_ranks: Annotated[str, _output(metavar="RANKS", help="Ranks to profile, like 0 or 0,8.")] = "0"
    profile_dir: Annotated[Path, _output(metavar="DIR", help="Write the traces into this folder.")] = Path("profile")


@dataclass(frozen=True)
class Machines:
    """Where the ranks run, and how long they wait."""

    nnodes: Annotated[
        int, _machines(metavar="N", help="Number of machines; not needed under torchrun or Slurm.", min=1)
    ] = 1
    node_rank: Annotated[int, _machines(metavar="R", help="Number of this machine, from 0.", min=0)] = 0
    master_addr: Annotated[str, _machines(metavar="HOST", help="Address of the first machine.")] = "127.0.0.1"
    master_port: Annotated[
        int, _machines(metavar="PORT", help="A free port on the first machine.", min=1, max=65535)
    ] = 29500
    nproc_per_node: Annotated[int | None, _machines(metavar="N", help="Number of ranks on this machine.", min=1)] = None
    start_timeout: Annotated[
        float | None,
        _machines(
            metavar="SECONDS",
            help=f"How long nodes wait for each other; default: {START_SECONDS:g}. "
            f"Under torchrun and Slurm, how long ranks do; default: {COME_SECONDS:g}.",
            min=1,
            max=MOST_SECONDS,
        ),
    ] = None
    collective_timeout: Annotated[
        float, _machines(metavar="SECONDS", help="How long a collective may take.", min=1, max=MOST_SECONDS)
    ] = COLLECTIVE_SECONDS
    progress_timeout: Annotated[
        float | None,
        _machines(
            metavar="SECONDS",
            help="How long no step may end; default: by the steps' own time; 0: for ever.",
            min=0,
            max=MOST_SECONDS,
        ),
    ] = None

    def nodes(self) -> Nodes:
        """As the launcher takes them."""
        return Nodes(
            self.nnodes,
            self.node_rank,
            self.master_addr,
            self.master_port,
            self.nproc_per_node,
            self.start_timeout or START_SECONDS,
        )


def own_folders(values: Mapping[str, Any]) -> Iterator[Filled]:
    """What goes into the folders of checkpoints, curves and traces."""
    traces = None if values["profile"] is None else values["profile_dir"]
    for name, folder, patterns in (
        ("--save", values["save"], CHECKPOINT_FILES),
        ("--tensorboard", values["tensorboard"], ("events.out.tfevents.*",)),
        ("--profile-dir", traces, ("rank-*-step-*.json.gz",)),
    ):
        if folder is not None:
            yield Filled(name, folder, patterns)


@Grouped
def train(what: What, data: Data, checkpoints: Checkpoints, output: Output, machines: Machines) -> None:
    """Train a recipe. Starts its ranks on this machine, or joins as one rank under torchrun or Slurm."""
    from grok1.cli.train_log import TrainLog, start_line

    recipe, kind, nodes = load_recipe(what.recipe, what.overrides or []), chosen_kind(what.device), machines.nodes()
    is_first = speaks(nodes)
    if is_first:
        print(start_line(recipe, what.steps, kind, data.data), flush=True)
    job = _job(recipe, what, data, checkpoints, output)
    if job.load is not None and job.first_step >= what.steps:
        if is_first:
            print(
                f"checkpoint {checkpoints.load} holds step {job.first_step} and --steps is {what.steps}: "
                "there is nothing left to train"
            )
            write_json(what.json_path, _of(recipe) | {"steps": []})
        return
    with _trackers(output, recipe) if is_first else nullcontext([]) as trackers:
        log = TrainLog(recipe, what.steps, trackers)
        result: RunResult | None = run_ranks(
            _ENTRY,
            job,
            recipe,
            kind,
            nodes,
            log.hear,
            timeout_seconds=machines.collective_timeout,
            terms=job.terms(),
            progress_seconds=machines.progress_timeout,
            come_seconds=machines.start_timeout or COME_SECONDS,
        )
        if result is None:
            return
        write_json(what.json_path, _as_json(recipe, result))
        print(log.summary(*_written(what, output, trackers)))
        if result.steps and not result.steps[-1].is_finite:
            raise RuntimeError(f"step {result.steps[-1].step + 1}: loss or grad norm is not a number; the run is void")


def _job(recipe: Recipe, what: What, data: Data, checkpoints: Checkpoints, output: Output) -> Job:
    """The job that the options ask for, or their refusal."""
    from grok1.training.job import prepare, profile_request

    for name, is_given, needed, other in (
        ("--save-interval", checkpoints.save_interval > 0, checkpoints.save, "--save DIR"),
        ("--profile-ranks", output.profile_ranks != Output.profile_ranks, output.profile, "--profile STEPS"),
        ("--profile-dir", output.profile_dir != Output.profile_dir, output.profile, "--profile STEPS"),
    ):
        if is_given and needed is None:
            raise ValueError(f"{name} counts for nothing without {other}; add that, or leave it out")
    job = prepare(
        recipe,
        what.steps,
        data.data,
        data.tokenizer,
        checkpoints.save,
        checkpoints.save_interval,
        checkpoints.load,
        not data.no_shared_storage,
        index_cache=data.index_cache,
        allowed_changes=checkpoints.allow_change or [],
    )
    if output.profile is None:
        return job
    ranks = recipe.parallel.world_size
    return replace(
        job, profile=profile_request(output.profile, output.profile_ranks, output.profile_dir, what.steps, ranks)
    )


def _trackers(output: Output, recipe: Recipe) -> AbstractContextManager[list[Tracker]]:
    from grok1.cli.trackers import trackers

    return trackers(output.tensorboard, output.wandb, recipe)


def _written(what: What, output: Output, trackers: list[Tracker]) -> list[str]:
    """Where to find what was written beside checkpoints."""
    measurements = [] if what.json_path is None or str(what.json_path) == "-" else [f"measurements {what.json_path}"]
    traces = [] if output.profile is None else [f"traces {output.profile_dir}"]
    return [*measurements, *traces, *(each.where for each in trackers)]


def _as_json(recipe: Recipe, result: RunResult) -> Mapping[str, object]:
    return _of(recipe) | result.as_json()


def _of(recipe: Recipe) -> dict[str, object]:
    return {"schema": _JSON_SCHEMA, "recipe": recipe.resolved(), "recipe_hash": recipe.hash()}
