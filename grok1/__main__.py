"""The `grok1` command: train, preprocess, recipes. Parses, refuses bad input with exit code 2, calls the rest."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from grok1.config import Recipe, load_recipe, recipe_names

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer of the oldest supported Python reads this form
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value, like parallel.tensor=2. Repeatable."),
]


@app.command()
def train(
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")] = "grok1-tiny",
    steps: Annotated[int, typer.Option(help="Train until this many steps are done.")] = 20,
    data: Annotated[Path | None, typer.Option(help="Prefix of the .bin/.idx pair; default: sample text.")] = None,
    tokenizer: Annotated[Optional[Path], typer.Option(help="The tokenizer that made --data.")] = None,  # noqa: UP045
    save: Annotated[Optional[Path], typer.Option(help="Write checkpoints below this folder.")] = None,  # noqa: UP045
    save_interval: Annotated[int, typer.Option(help="Steps between checkpoints; 0: at the end only.", min=0)] = 0,
    load: Annotated[Optional[Path], typer.Option(help="Resume from the newest checkpoint here.")] = None,  # noqa: UP045
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    overrides: Overrides = None,
    json_path: Annotated[Optional[Path], typer.Option("--json", help="Write all measurements here.")] = None,  # noqa: UP045
    no_shared_storage: Annotated[bool, typer.Option("--no-shared-storage", help="Nodes share no disk.")] = False,
    nnodes: Annotated[int, typer.Option(help="Machines of the job, when not under torchrun.", min=1)] = 1,
    node_rank: Annotated[int, typer.Option(help="Which of them this is.", min=0)] = 0,
    master_addr: Annotated[str, typer.Option(help="Address of the first machine.")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option(help="A free port there.", min=1, max=65535)] = 29500,
    nproc_per_node: Annotated[Optional[int], typer.Option(help="Ranks on this machine.", min=1)] = None,  # noqa: UP045
) -> None:
    """Train a recipe: starts its ranks here, or joins as one rank under torchrun or Slurm."""
    from grok1.job import prepare
    from grok1.launch import Nodes, default_device

    chosen = load_recipe(recipe, overrides or [])
    job = prepare(chosen, steps, data, tokenizer, save, save_interval, load, not no_shared_storage)
    kind = device or os.environ.get("GROK1_DEVICE") or default_device()
    if kind not in ("cpu", "cuda", "npu"):
        raise ValueError(f"--device {kind} is none of cpu, cuda, npu")
    nodes = Nodes(nnodes, node_rank, master_addr, master_port, nproc_per_node)
    result = _run(job, chosen, kind, nodes, lambda event: print(_line(event, chosen, steps), flush=True))
    if result is None:
        return
    if json_path is not None:
        from grok1.files import write_json

        write_json(json_path, {"schema": 1, "recipe": chosen.resolved(), "recipe_hash": chosen.hash(), **result})
    last = result["steps"][-1] if result["steps"] else None
    if last is not None and (last["loss"] != last["loss"] or last["grad_norm"] != last["grad_norm"]):
        raise RuntimeError(f"step {last['step'] + 1}: loss or grad norm is not a number; the run is void")


def _run(job: Any, recipe: Recipe, kind: str, nodes: Any, on_event: Any) -> Any:
    """The job's measurements on its first rank; None on other ranks under torchrun or Slurm."""
    if "RANK" in os.environ or "SLURM_PROCID" in os.environ:
        os.environ.setdefault("GROK1_DEVICE", kind)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from grok1.train import prepare_process, rendezvous_from_environment, run_rank

        where = rendezvous_from_environment()
        if where is not None:
            if where.world_size != recipe.parallel.world_size:
                raise ValueError(
                    f"started with {where.world_size} ranks, the recipe has {recipe.parallel.world_size}; "
                    f"use --set parallel.world_size={where.world_size} or start that many"
                )
            prepare_process()
            return run_rank(job, where, on_event)
    from grok1.launch import launch

    return launch(job, recipe, kind, nodes, on_event)


def _line(event: dict[str, Any], recipe: Recipe, total: int) -> str:
    from grok1.progress import log_line

    return log_line(event, recipe, total)


@app.command()
def recipes(
    name: Annotated[Optional[str], typer.Argument(help="Show this one whole.")] = None,  # noqa: UP045
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
    from grok1.preprocess import preprocess_command

    app.command(name="preprocess")(preprocess_command)
    # a job that is told to end must end its ranks as if interrupted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # typer returns the exit code of what it caught itself, Ctrl-C included
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        print("grok1: interrupted; all processes were ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except ValueError as error:
        print(f"grok1: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        print(f"grok1: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        _exit_for_usage(error)


def _exit_for_usage(error: Exception) -> None:
    """Typer's own complaints (an unknown option, a bad number) print as they do by default; others are ours to fix."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
