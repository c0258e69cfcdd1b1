"""`python -m bench ledger`: the exact cost of a step, counted, compared and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.schema import Ledger, read_ledger, write_ledger
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe


def ledger(
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")] = "grok1-40b",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    ranks: Annotated[str, typer.Option(help="stages (the first rank of each), all, or numbers like 0,15.")] = "stages",
    routing: Annotated[
        str | None,
        typer.Option(help="Each expert's share of the (token, expert) pairs, like 0.3,0.1,...; default: all alike."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the whole ledger here.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the stored one; exit 1 at any difference.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Store this ledger; needs --rationale.")] = False,
    rationale: Annotated[str, typer.Option(help="Why the cost of the step changed; kept in the stored ledger.")] = "",
    memory_gib: Annotated[float, typer.Option(help="What a rank's device has; an Ascend 910B has 64.", min=0.0)] = 64.0,
    baselines: Annotated[Path, typer.Option(help="The folder of stored ledgers.")] = ledger_store.FOLDER,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Compare two: each a ledger's file, a recipe, or a git revision at which --recipe is counted."
        ),
    ] = None,
) -> None:
    """Count what a step of the full-size job costs each rank, exactly, without its data or its hardware.

    The real training step runs on tensors that have shapes and no content. FLOPs, bytes, collectives, operator calls
    and memory are what ran, not what a formula says; there is no noise, so --check has no tolerance.
    """
    chosen = load_recipe(recipe, overrides or [])
    if diff is not None:
        before, after = (ledger_store.resolve(each, recipe, overrides or []) for each in diff)
        print(ledger_text.as_markdown(before, after, diff))
        return
    if update and not rationale.strip():
        raise ValueError("--update replaces what every later change is held against; say why with --rationale")
    counted = ledger_store.counted(chosen, _ranks(ranks, chosen), _shares(routing))
    if json_path is not None:
        write_ledger(json_path, counted)
    print(ledger_text.summary(counted, chosen, memory_gib))
    if update:
        print(f"wrote {ledger_store.store(counted, baselines, rationale)}")
    elif check:
        _compare(counted, baselines)


def _compare(counted: Ledger, folder: Path) -> None:
    path = ledger_store.path_of(folder, counted.recipe_name)
    if not path.is_file():
        raise ValueError(f"{path}: no ledger of {counted.recipe_name} is stored; add it with --update --rationale")
    complaint = ledger_text.complaint(read_ledger(path), counted)
    if complaint:
        print(f"\n{complaint}")
        raise typer.Exit(1)
    print(f"\nthe same as {path}, to the last byte")


def _ranks(text: str, recipe: Recipe) -> list[int] | None:
    if text == "stages":
        return None
    if text == "all":
        return list(range(recipe.parallel.world_size))
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"--ranks {text!r} is none of: stages, all, or numbers like 0,15") from None


def _shares(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"--routing {text!r} is not numbers like 0.3,0.1,0.1,0.1,0.1,0.1,0.1,0.1") from None
