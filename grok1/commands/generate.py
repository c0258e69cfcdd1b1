"""`grok1 generate`: prompts continued by a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.options import Device, Overrides
from grok1.commands.ranks import run_ranks
from grok1.device.kind import chosen_kind


def generate(
    load: Annotated[Path, typer.Option(metavar="DIR", help="The folder that `grok1 train --save DIR` wrote.")],
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Text to continue. Repeatable.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file of prompts, one per line.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="A recipe or .toml file; default: the checkpoint's own.")
    ] = None,
    overrides: Overrides = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="PATH", help="As in training; default: the sample corpus's.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Most new tokens per prompt.")] = 64,
    temperature: Annotated[float, typer.Option(metavar="T", help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Sample from the likeliest tokens up to this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same tokens.")] = 0,
    device: Device = None,
    json_path: Json = None,
) -> None:
    """Continue prompts with a checkpoint's newest weights, on the recipe's layout with one pipeline stage."""
    from grok1.generation.job import Sampling, prepare_generate, read_prompts
    from grok1.generation.result import transcript

    prompts = [*(prompt or []), *(read_prompts(prompts_file) if prompts_file else [])]
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    job = prepare_generate(load, prompts, sampling, recipe, overrides or [], tokenizer)
    result = run_ranks("grok1.generation.decode:run_rank", job, job.sized, chosen_kind(device))
    if result is None:
        return
    print(transcript(result))
    write_json(json_path, {"schema": 1, "recipe": job.recipe.resolved(), **result.as_json()})
