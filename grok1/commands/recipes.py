"""`grok1 recipes`: what can be trained."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.options import Overrides
from grok1.config.load import load_recipe, recipe_names
from grok1.config.recipe import Recipe


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe in full.")] = None,
    overrides: Overrides = None,
    json_path: Json = None,
) -> None:
    """List the shipped recipes, or show one with its counts."""
    if name is not None:
        recipe = load_recipe(name, overrides or [])
        shown = {**recipe.resolved(), "hash": recipe.hash(), "counts": _counts(recipe)}
        print(json.dumps(shown, indent=2))
        write_json(json_path, shown)
        return
    if overrides:
        raise ValueError("--set changes a recipe, and none is named; name one, such as grok1-nano")
    rows = [load_recipe(each) for each in recipe_names()]
    for row in rows:
        print(_line(row))
    write_json(json_path, [{"name": row.name, "hash": row.hash(), "counts": _counts(row)} for row in rows])


def _line(recipe: Recipe) -> str:
    layout = recipe.parallel
    return (
        f"{recipe.name:<17} {recipe.parameters() / 1e9:8.3f} B parameters  {layout.world_size:>3} ranks  "
        f"TP{layout.tensor} PP{layout.pipeline} EP{layout.expert}  {recipe.hash()}  {recipe.description}"
    )


def _counts(recipe: Recipe) -> dict[str, Any]:
    return {
        "parameters": recipe.parameters(),
        "active_parameters": recipe.active_parameters(),
        "flops_per_token": recipe.flops_per_token(),
        "tokens_per_step": recipe.tokens_per_step,
        "estimated_bytes_per_rank": recipe.bytes_per_rank(),
    }
