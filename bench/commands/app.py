"""Judge, compare and store what the benchmarks measured. Exit codes: 0 done, 1 a gate failed, 2 bad input."""

from __future__ import annotations

from bench.commands import (
    ab,
    baseline,
    calibrate,
    doctor,
    expected,
    gate,
    history,
    ingest,
    ledger,
    nightly,
    plan,
    rank,
    selftest,
)
from bench.records.files import OWN_FILES, is_kept
from bench.records.jsonfile import discard
from grok1.cli import console

app = console.with_version(console.App(is_kept, help=__doc__))
app.add_typer(baseline.app, name="baseline")
app.add_typer(history.app, name="history")
app.add_typer(nightly.app, name="nightly")
app.command(name="gate", forgets=discard)(gate.gate)
app.command(name="ledger", fills=ledger.own_files)(ledger.ledger)
app.command(name="selftest")(selftest.selftest_command)
app.command(name="ab", fills=ab.own_files, forgets=discard)(ab.ab_command)
app.command(name="doctor", forgets=discard)(doctor.doctor_command)
app.command(name="plan")(plan.plan)
app.command(name="rank", fills=console.into("results", [f"records/{each}" for each in OWN_FILES]))(rank.rank_command)
app.command(name="expected")(expected.expected_command)
app.command(name="calibrate")(calibrate.calibrate_command)
app.command(name="ingest", fills=ingest.own_files)(ingest.ingest_command)
