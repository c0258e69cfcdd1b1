"""`python -m bench ingest`: make a record from another program's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bench.ingest.facts import NEEDED
from bench.ingest.make import described, key_values, make_record
from bench.ingest.read import read_logs
from bench.records.files import OWN_FILES, file_name
from bench.records.terminal import plain
from grok1.cli.json_option import Json, write_json
from grok1.cli.outputs import Filled, Given, refuse_lost
from grok1.config.load import load_recipe

_QUIET_BYTES = 32 * 2**20  # a smaller log is read in a moment


_RECORDS = Path("results/records")


def own_files(values: Mapping[str, Any]) -> Iterator[Filled]:
    """The record, where no file is named for it."""
    if values["output"] is None:
        yield Filled("the records' folder", _RECORDS, OWN_FILES)


def ingest_command(
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOGS...", help="The logs of one job, in the order they were written.")
    ],
    case: Annotated[str, typer.Option(metavar="NAME", help="The case to record it as, as baselines name it.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe that ran; default: taken from the log."),
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
    active_parameters: Annotated[int | None, typer.Option(min=1, help="Parameters that one token uses.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32.")] = None,
    device_name: Annotated[str | None, typer.Option(help="For example Ascend910B3.")] = None,
    device_kind: Annotated[str | None, typer.Option(help="npu, cuda or cpu; default: from the device's name.")] = None,
    software: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A version, such as torch=2.7.1. Repeatable.")
    ] = None,
    from_step: Annotated[int, typer.Option(min=0, help="Ignore lines before this step, as the log numbers it.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: results/records/<case>-<id>.json.")
    ] = None,
    json_path: Json = None,
) -> None:
    """Make a record from the log of a job that another program ran.

    Supported are the logs of Megatron-LM, ModelLink, MindSpeed-LLM, torchtitan and NeMo. Options state what the
    log does not; an option that contradicts the log is refused.
    """
    stated = locals()
    if overrides and recipe is None:
        raise ValueError("--set changes a --recipe, and none is given; add --recipe NAME")
    names = (*NEEDED, "parameters", "active_parameters", "device_kind")
    given = {name: stated[name] for name in names if stated[name] is not None}
    chosen = None if recipe is None else load_recipe(recipe, overrides or [])
    with reading(logs) as advanced:
        log = read_logs(logs, from_step, advanced)
    made = make_record(log, case, given, chosen, key_values(software or []))
    path = output or _RECORDS / file_name(made.record)
    refuse_lost([Given("the record", path, is_written=True), *(Given("LOGS", each, is_written=False) for each in logs)])
    made.record.write(path)
    print(f"{described(made)}\nwrote {plain(path, 5000)}")
    write_json(json_path, {"schema": 1, "file": str(path), "record_id": made.record.id, "valid": made.record.valid})


@contextmanager
def reading(logs: Sequence[Path], console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """A bar of the bytes read, on a terminal and for files that take a moment; else nothing."""
    console = console or Console(stderr=True)
    total = sum(map(_size, logs))
    if not console.is_terminal or total < _QUIET_BYTES:
        yield lambda _: None
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=total)
        yield lambda count: progress.advance(task, count)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the reader says what is wrong with it
        return 0
