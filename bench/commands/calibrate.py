"""`python -m bench calibrate`: measure this machine's device, for the planner."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from grok1.cli.json_option import Json, write_json
from grok1.device.kind import chosen_kind


def calibrate_command(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Whose operators to time: a shipped recipe or a .toml file. Repeatable. Default: a set."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of each --recipe. Repeatable."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            help="About how long it may take; a CPU's jobs of several ranks take one to three more.", min=0.1, max=600.0
        ),
    ] = 3.0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the profile goes.")] = Path("device.json"),
    json_path: Json = None,
) -> None:
    """Measure this machine's device for the planner: operators, the host's cost, collectives.

    Operators are found by the dry run and timed one by one on one device, cold. Collectives are timed with all ranks
    alive, on a CPU alone. There all of it was executed; never on CUDA, nor on an NPU, whose path ran with a stand-in.
    """
    from bench.calibrate.calibration import calibrate, default_samples, named_samples, progress
    from bench.plan.device import write_device
    from bench.records.terminal import plain

    kind = chosen_kind(device)
    if overrides and not recipe:
        raise ValueError("--set changes a --recipe, and none is given; add --recipe NAME")
    if output.suffix != ".json":
        raise ValueError(f"-o {plain(output)}: a profile is a .json file; give a name that ends so")
    samples = named_samples(recipe, overrides or []) if recipe else default_samples(kind)
    say = progress(lambda line: print(line, file=sys.stderr, flush=True))
    found = calibrate(kind, samples, minutes, say)
    write_device(output, found)
    measured = found.measured
    assert measured is not None
    print(
        f"wrote {plain(output, 5000)}: {len(measured.operators)} operators, {len(measured.collectives)} lines of "
        f"collectives, host {found.host.seconds_a_call.value * 1e6:.2f} us a call and "
        f"{found.host.seconds_a_step.value * 1e3:.2f} ms a step"
    )
    write_json(json_path, {"schema": 1, "file": str(output), "profile": found.model_dump(mode="json", by_alias=True)})
