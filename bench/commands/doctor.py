"""`python -m bench doctor`: is this machine fit to be measured?"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cases import usual_recipe
from bench.records.jsonfile import discard, write_model
from grok1.cli.json_option import Json
from grok1.config.axes import axes_of
from grok1.config.load import load_recipe
from grok1.device.kind import chosen_kind

if TYPE_CHECKING:
    from bench.doctor.examine import Doctor
    from bench.doctor.findings import Finding, Report


def doctor_command(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Whose layout, kernels and dtype to check; default: grok1-40b, -tuned on a GPU, grok1-nano on a CPU."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Use so many devices; default: all, on a CPU 8 ranks.", min=1, max=1024)
    ] = None,
    oracle: Annotated[
        Path | None, typer.Option(help="A reference dump NAME.npz.", show_default="D.npz of the tests")
    ] = None,
    limit_seconds: Annotated[
        float | None, typer.Option(help="A check that takes longer hangs; default: 600, on a CPU 120.", min=1.0)
    ] = None,
    json_path: Json = None,
) -> None:
    """Check this machine from the driver up to ten training steps, so that a wrong run is not taken for a slow one.

    One line a check: pass, fail with the remedy, measured (nothing to hold it against), or not run. Exit 1 if a check
    failed. docs/first-run.md says what each one means.
    """
    from bench.doctor.examine import Doctor, Patient
    from bench.doctor.oracle import DUMP

    discard(json_path)
    kind = chosen_kind(device)
    chosen = load_recipe(recipe or ("grok1-nano" if kind == "cpu" else usual_recipe(kind)), overrides or [])
    if oracle is not None and not oracle.is_file():
        raise ValueError(f"--oracle {oracle} does not exist; give the NAME.npz of a reference dump")
    started = time.monotonic()
    patient = Patient(kind, chosen, ranks or 0, oracle or DUMP, limit_seconds or 0.0)
    doctor = Doctor(patient, say=lambda what: print(f"... {what}", file=sys.stderr, flush=True))
    findings = []
    for finding in doctor.run():
        print(finding.line(), flush=True)
        findings.append(finding)
    report = _report(doctor, findings, time.monotonic() - started)
    print(report.summary())
    if json_path is not None:
        write_model(json_path, report)
    if report.failures:
        raise typer.Exit(1)


def _report(doctor: Doctor, findings: list[Finding], seconds: float) -> Report:
    from bench.doctor.findings import Report
    from bench.git import commit

    return Report(
        schema=1,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=doctor.patient.kind,
        device_name=doctor.machine.device_name,
        recipe=doctor.patient.recipe.name,
        layout=axes_of(doctor.layout),
        software={"python": doctor.machine.python, **doctor.machine.packages},
        commit=commit()["sha"],
        seconds=seconds,
        findings=findings,
    )
