"""Train Grok-1, check it against xAI's model, and move text and weights in and out. Bad input ends with exit code 2."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from grok1.cli import console
from grok1.config.load import load_recipe, recipe_names
from grok1.config.recipe import Recipe
from grok1.config.refusals import printable
from grok1.device.kind import Kind, chosen_kind, set_kind, set_recipe
from grok1.distributed.nodes import ONE_MACHINE, START_SECONDS, Nodes, Terms
from grok1.distributed.rendezvous import COLLECTIVE_SECONDS, COME_SECONDS, rendezvous_from_environment

if TYPE_CHECKING:
    from grok1.training.result import Event

app = console.App(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value, like parallel.tensor=2. Repeatable."),
]


@app.command()
def train(
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")] = "grok1-tiny",
    steps: Annotated[int, typer.Option(help="Stop after this many steps in all, those before a resume included.")] = 20,
    data: Annotated[Path | None, typer.Option(help="Prefix of the .bin/.idx pair; default: the sample corpus.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer that made --data.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write checkpoints into this folder.")] = None,
    save_interval: Annotated[int, typer.Option(help="Steps between checkpoints; 0: only at the end.", min=0)] = 0,
    load: Annotated[Path | None, typer.Option(help="Resume from the newest checkpoint in this folder.")] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A value that --load may find changed, like training.seed. Repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    overrides: Overrides = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all measurements to this file.")] = None,
    no_shared_storage: Annotated[bool, typer.Option("--no-shared-storage", help="Nodes do not share a disk.")] = False,
    index_cache: Annotated[
        Path | None, typer.Option(help="Keep the sample index here; default: beside the corpus.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="STEPS", help="Profile these steps, like 5 or 4,8-9; writes traces."),
    ] = None,
    profile_ranks: Annotated[str, typer.Option(metavar="RANKS", help="Ranks to profile, like 0 or 0,8.")] = "0",
    profile_dir: Annotated[Path, typer.Option(help="Write the traces into this folder.")] = Path("profile"),
    nnodes: Annotated[int, typer.Option(help="Number of machines; not needed under torchrun or Slurm.", min=1)] = 1,
    node_rank: Annotated[int, typer.Option(help="Number of this machine, from 0.", min=0)] = 0,
    master_addr: Annotated[str, typer.Option(help="Address of the first machine.")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option(help="A free port on the first machine.", min=1, max=65535)] = 29500,
    nproc_per_node: Annotated[int | None, typer.Option(help="Number of ranks on this machine.", min=1)] = None,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            help=f"Seconds that nodes wait for each other; default: {START_SECONDS:g}. "
            f"Under torchrun and Slurm, seconds that ranks wait for each other; default: {COME_SECONDS:g}.",
            min=1,
        ),
    ] = None,
    collective_timeout: Annotated[
        float, typer.Option(help="Seconds that a collective may take.", min=1)
    ] = COLLECTIVE_SECONDS,
    progress_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds without a step that end the job; default: by the steps; 0: none.", min=0),
    ] = None,
) -> None:
    """Train a recipe. Starts its ranks on this machine, or joins as one rank under torchrun or Slurm."""
    from grok1.training.job import prepare, profile_request

    chosen = load_recipe(recipe, overrides or [])
    job = prepare(
        chosen,
        steps,
        data,
        tokenizer,
        save,
        save_interval,
        load,
        not no_shared_storage,
        index_cache=index_cache,
        allowed_changes=allow_change or [],
    )
    if load is not None and job.first_step >= steps:
        print(f"checkpoint {load} holds step {job.first_step} and --steps is {steps}: there is nothing left to train")
        return
    if profile is not None:
        world_size = chosen.parallel.world_size
        job = replace(job, profile=profile_request(profile, profile_ranks, profile_dir, steps, world_size))
    kind = chosen_kind(device)
    nodes = Nodes(nnodes, node_rank, master_addr, master_port, nproc_per_node, start_timeout or START_SECONDS)
    result = _run(
        job,
        chosen,
        kind,
        nodes,
        lambda event: print(_line(event, chosen, steps), flush=True),
        timeout_seconds=collective_timeout,
        terms=job.terms(),
        progress_seconds=progress_timeout,
        come_seconds=start_timeout or COME_SECONDS,
    )
    if result is None:
        return
    if json_path is not None:
        from grok1.files import write_json

        written = {"schema": 1, "recipe": chosen.resolved(), "recipe_hash": chosen.hash(), **result.as_json()}
        write_json(json_path, written)
    if result.steps and not result.steps[-1].is_finite:
        raise RuntimeError(f"step {result.steps[-1].step + 1}: loss or grad norm is not a number; the run is void")


def _run(
    job: Any,
    recipe: Recipe,
    kind: Kind,
    nodes: Nodes,
    on_event: Any,
    entry: str = "grok1.training.run:run_rank",
    timeout_seconds: float = COLLECTIVE_SECONDS,
    terms: Terms | None = None,
    progress_seconds: float | None = None,
    come_seconds: float = COME_SECONDS,
) -> Any:
    """What the job's first rank returns; None on other ranks under torchrun or Slurm."""
    where = rendezvous_from_environment(timeout_seconds, come_seconds) if nodes.nnodes == 1 else None
    if where is not None:
        set_kind(kind)
        set_recipe(recipe)
        from grok1.distributed.join import run_here

        where = replace(where, progress_seconds=progress_seconds)
        return run_here(entry, job, recipe, kind, where, on_event, terms or {})
    from grok1.distributed.launch import launch

    return launch(
        job,
        recipe,
        kind,
        nodes,
        on_event,
        entry=entry,
        timeout_seconds=timeout_seconds,
        terms=terms,
        progress_seconds=progress_seconds,
    )


def _line(event: Event, recipe: Recipe, total: int) -> str:
    from grok1.cli.progress import log_line, profile_tables
    from grok1.training.result import ProfileDone, StepDone

    if isinstance(event, StepDone):
        return log_line(event, recipe, total)
    if isinstance(event, ProfileDone):
        return "\n\n".join(profile_tables(each) for each in event.profiles)
    raise AssertionError(f"{event}: only a benchmark times modules")


@app.command()
def verify(
    oracle: Annotated[Path, typer.Option(help="A reference dump NAME.npz, with NAME.grads*.npz beside it.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    overrides: Overrides = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the comparison to this file.")] = None,
) -> None:
    """Compare logits, loss and every gradient with a dump of xAI's own model; exit 1 where they differ.

    One rank, unless --set names a layout: --set parallel.tensor=4 --set parallel.pipeline=2 --set parallel.expert=2.
    """
    from grok1.fidelity.dump import check_dump
    from grok1.fidelity.dump_recipe import oracle_recipe

    dump = check_dump(oracle.absolute())
    recipe = oracle_recipe(dump, overrides or [])
    from grok1.cli.progress import comparison_table
    from grok1.fidelity.job import VerifyJob

    job = VerifyJob(recipe, dump.path)
    result = _run(job, recipe, chosen_kind(device), ONE_MACHINE, lambda event: None, "grok1.fidelity.verify:run_rank")
    if result is None:
        return
    print(comparison_table(result))
    if json_path is not None:
        from grok1.files import write_json

        write_json(json_path, {"schema": 1, "recipe": recipe.resolved(), **result.as_json()})
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def generate(
    load: Annotated[Path, typer.Option(help="The folder that `grok1 train --save` wrote.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue. Repeatable.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="A file of prompts, one per line.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe or .toml file; default: the checkpoint's own.")] = None,
    overrides: Overrides = None,
    tokenizer: Annotated[Path | None, typer.Option(help="As in training; default: the sample corpus's.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most new tokens per prompt.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens up to this total probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tokens.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the completions to this file.")] = None,
) -> None:
    """Continue prompts with a checkpoint's newest weights, on the recipe's layout with one pipeline stage."""
    from grok1.generation.job import Sampling, prepare_generate, read_prompts
    from grok1.generation.result import transcript

    prompts = [*(prompt or []), *(read_prompts(prompts_file) if prompts_file else [])]
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    job = prepare_generate(load, prompts, sampling, recipe, overrides or [], tokenizer)
    result = _run(
        job, job.sized, chosen_kind(device), ONE_MACHINE, lambda event: None, "grok1.generation.decode:run_rank"
    )
    if result is None:
        return
    print(transcript(result))
    if json_path is not None:
        from grok1.files import write_json

        write_json(json_path, {"schema": 1, "recipe": job.recipe.resolved(), **result.as_json()})


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A folder of safetensors, or a folder of checkpoints.")],
    target: Annotated[Path, typer.Argument(help="A new folder for the other format.")],
    recipe: Annotated[str, typer.Option(help="Of the safetensors; a checkpoint has its own.")] = "grok1-314b",
    overrides: Overrides = None,
    shard_gib: Annotated[float, typer.Option(help="Size limit of a written safetensors file.", min=0.001)] = 5.0,
) -> None:
    """Published weights (safetensors, hpcai-tech/grok-1's names) into a checkpoint for any layout, or back.

    Streams: no more than one shard is in memory. Dtypes stay, so a round trip is bitwise.
    """
    from grok1.cli.progress import conversion
    from grok1.weights.folder import holds_checkpoint

    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give one of safetensors files, or a checkpoint's")
    from grok1.weights.exporting import export_weights
    from grok1.weights.importing import import_weights

    with conversion(f"{source.name} to {target.name}") as progress:
        if holds_checkpoint(source):
            export_weights(source, target, int(shard_gib * 2**30), progress)
        else:
            import_weights(source, target, load_recipe(recipe, overrides or []), progress)
    print(f"wrote {printable(str(target))}")


@app.command()
def seal(
    folder: Annotated[Path, typer.Argument(help="The folder that `grok1 train --save` wrote.")],
) -> None:
    """Write the checksums of a checkpoint that has none, because it is older than they are. Look at it first."""
    from grok1.weights.folder import seal as write_checksums

    step = write_checksums(folder)
    print(f"wrote the checksums of step {step} in {folder}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe in full.")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the shipped recipes, or show one with its counts."""
    if name is not None:
        recipe = load_recipe(name, overrides or [])
        content = {**recipe.resolved(), "hash": recipe.hash(), "counts": _counts(recipe)}
        print(json.dumps(content, indent=None if as_json else 2))
        return
    rows = [load_recipe(each) for each in recipe_names()]
    if as_json:
        print(json.dumps([{"name": row.name, "hash": row.hash(), "counts": _counts(row)} for row in rows]))
        return
    for row in rows:
        layout = row.parallel
        print(
            f"{row.name:<17} {row.parameters() / 1e9:8.3f} B parameters  {layout.world_size:>3} ranks  "
            f"TP{layout.tensor} PP{layout.pipeline} EP{layout.expert}  {row.hash()}  {row.description}"
        )


def _counts(recipe: Recipe) -> dict[str, Any]:
    return {
        "parameters": recipe.parameters(),
        "active_parameters": recipe.active_parameters(),
        "flops_per_token": recipe.flops_per_token(),
        "tokens_per_step": recipe.tokens_per_step,
        "estimated_bytes_per_rank": recipe.bytes_per_rank(),
    }


def main() -> None:
    """Entry point: 0 done, 1 the run failed, 2 the input was refused, 130 interrupted."""
    from grok1.data.preprocess import preprocess_command

    app.command(name="preprocess")(preprocess_command)
    try:
        console.run(app, "grok1", failures=(RuntimeError,))
    except SystemExit as end:
        if "grok1.training.run" in sys.modules:  # this process was itself a rank
            _leave(end.code)
        raise


def _leave(code: Any) -> NoReturn:
    """End at once: while Python takes itself apart, a gloo thread that lets go of its last tensor aborts the process.

    A race that is known and open: pytorch/pytorch issue 190489. The launcher's ranks end like this too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
