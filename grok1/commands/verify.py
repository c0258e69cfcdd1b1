"""`grok1 verify`: this model beside xAI's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.options import Device, Overrides
from grok1.commands.ranks import run_ranks
from grok1.device.kind import chosen_kind


def verify(
    oracle: Annotated[
        Path, typer.Option(metavar="FILE", help="A reference dump NAME.npz, with NAME.grads*.npz beside it.")
    ],
    device: Device = None,
    overrides: Overrides = None,
    json_path: Json = None,
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

    result = run_ranks("grok1.fidelity.verify:run_rank", VerifyJob(recipe, dump.path), recipe, chosen_kind(device))
    if result is None:
        return
    print(comparison_table(result))
    write_json(json_path, {"schema": 1, "recipe": recipe.resolved(), **result.as_json()})
    if not result.passed:
        raise typer.Exit(1)
