"""`python -m bench lone-rank`: one rank of a large job, with real tensors, on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grok1.config.load import load_recipe
from grok1.device.kind import chosen_kind


def lone_rank_command(
    recipe: Annotated[
        str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")
    ] = "grok1-40b-tuned",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Which rank; the first of each stage stands for its stage.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="Measured rounds, each of two steps.", min=1, max=1000)] = 5,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: what the machine has.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file.")] = None,
) -> None:
    """Time one rank of a job on one device, without the others: what its own work takes at least.

    Collectives return at once, so the numbers that it computes mean nothing. Their time and the memory are real.
    """
    from bench.lone_rank import as_json, measure, text

    chosen = load_recipe(recipe, overrides or [])
    found = measure(chosen, rank, chosen_kind(device), rounds)
    print(text(found, chosen))
    if json_path is not None:
        from grok1.files import write_json

        write_json(json_path, as_json(found, chosen))
