"""`python -m bench ingest`: a record of a job that was not started here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.ingest.facts import NEEDED
from bench.ingest.make import described, file_name, key_values, make_record
from bench.ingest.read import read_logs
from grok1.config.load import load_recipe


def ingest_command(
    logs: Annotated[list[Path], typer.Argument(help="The logs of one job, in the order in which they were written.")],
    case: Annotated[str, typer.Option(help="The case that the record is of, as baselines name it.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe that ran; default: what the log says."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of --recipe. Repeatable."),
    ] = None,
    world_size: Annotated[int | None, typer.Option(min=1)] = None,
    nodes: Annotated[int | None, typer.Option(min=1)] = None,
    tensor: Annotated[int | None, typer.Option(min=1)] = None,
    pipeline: Annotated[int | None, typer.Option(min=1)] = None,
    expert: Annotated[int | None, typer.Option(min=1)] = None,
    expert_tensor: Annotated[int | None, typer.Option(min=1)] = None,
    sequence_length: Annotated[int | None, typer.Option(min=1)] = None,
    global_batch: Annotated[int | None, typer.Option(min=1)] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1)] = None,
    parameters: Annotated[int | None, typer.Option(min=1)] = None,
    active_parameters: Annotated[int | None, typer.Option(min=1, help="That one token meets.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32.")] = None,
    device_name: Annotated[str | None, typer.Option(help="Like Ascend910B3.")] = None,
    device_kind: Annotated[str | None, typer.Option(help="npu, cuda or cpu; default: by name.")] = None,
    software: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeatable.")] = None,
    from_step: Annotated[int, typer.Option(min=0, help="Leave out lines before this step, as the log counts.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Default: results/records/<case>-<id>.json.")] = None,
) -> None:
    """Make a record of a job that was not started here, from its log.

    Understood are the logs of Megatron-LM, ModelLink and MindSpeed-LLM, of torchtitan and of NeMo. A flag states what
    the log does not; one that contradicts the log is refused.
    """
    stated = locals()
    names = (*NEEDED, "parameters", "active_parameters", "device_kind")
    given = {name: stated[name] for name in names if stated[name] is not None}
    chosen = None if recipe is None else load_recipe(recipe, overrides or [])
    log = read_logs(logs, from_step)
    made = make_record(log, case, given, chosen, key_values(software or []))
    path = output or Path("results/records") / f"{file_name(made.record)}"
    made.record.write(path)
    print(f"{described(made)}\nwrote {path}")
