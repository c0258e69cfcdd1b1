"""Record, inspect, store and retire baselines, the figures that runs are compared with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import places
from bench.baselines import store as baseline_store
from bench.baselines.option import Baselines
from bench.baselines.sessions import added, require_sessions, require_sound, sessions_of
from bench.commands import baseline_json, baseline_text, fresh_runs
from bench.judge.baseline import DEFAULT_TOLERANCE_PERCENT, Baseline, stored_baselines
from bench.judge.difference import FLOOR_PERCENT, MIN_BASELINE_RUNS
from bench.judge.outliers import accidents, outliers
from bench.records.files import read_records
from bench.records.terminal import plain, table
from grok1.cli import console
from grok1.cli.json_option import Json, write_json
from grok1.cli.outputs import Filled
from grok1.files import in_place

app = console.App(help=__doc__)

CANDIDATES = Path("results/baselines")

Records = Annotated[
    list[Path], typer.Argument(metavar="RECORDS...", help="Record files, or folders that hold them (*.json).")
]
MaybeRecords = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RECORDS...", help="Record files, or folders of them. Default: run the case now."),
]
Candidate = Annotated[Path, typer.Argument(metavar="CANDIDATE", help="A file that `record` wrote.")]
Rationale = Annotated[str, typer.Option(metavar="TEXT", help="Why, in one sentence; stored with the baseline.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Default: results/baselines/<device>/<case>.json."),
]
Tolerance = Annotated[float, typer.Option(min=0.01, max=50.0, help="The slowdown that a pass rules out, in percent.")]
Floor = Annotated[float, typer.Option(min=0.01, max=50.0, help="A smaller change never fails, in percent.")]
AllowOutliers = Annotated[
    bool,
    typer.Option("--allow-outliers", help="Keep runs far from the others: each is named wherever the baseline is."),
]
Gone = Annotated[str | None, typer.Option(hidden=True)]


def _own_candidates(values: Mapping[str, Any]) -> Iterator[Filled]:
    """The candidate, where no file is named for it, and the runs that are made now."""
    if values["output"] is None:
        yield Filled("the candidates' folder", CANDIDATES, ("*/*.json",))
    if not values["records"]:
        yield Filled("the runs' folder", fresh_runs.FOLDER, ("*",))


@app.command(fills=_own_candidates)
def record(
    records: MaybeRecords = None,
    output: Output = None,
    tolerance_percent: Tolerance = DEFAULT_TOLERANCE_PERCENT,
    floor_percent: Floor = FLOOR_PERCENT,
    allow_outliers: AllowOutliers = False,
    allow_busy: fresh_runs.AllowBusy = False,
    case: fresh_runs.Case = None,
    recipe: fresh_runs.Recipe = None,
    overrides: fresh_runs.Overrides = None,
    steps: fresh_runs.Steps = None,
    device: fresh_runs.Device = None,
    data: fresh_runs.Data = None,
    tokenizer: fresh_runs.Tokenizer = None,
    runs: fresh_runs.Runs = MIN_BASELINE_RUNS,
    wait: fresh_runs.Wait = fresh_runs.DEFAULT_WAIT_SECONDS,
    max_cv_percent: Gone = None,
    least_sessions: Annotated[
        int,
        typer.Option("--sessions", metavar="N", min=1, max=1000, help="Refuse runs of fewer sessions than this."),
    ] = 1,
    json_path: Json = None,
) -> None:
    """Make a candidate baseline from five or more runs of one program, for a person to review and promote.

    Without RECORDS the runs are made now. Before each, it waits until other programs leave the CPU to it.

    If any run is unfit, or far from the others, all are refused. Leaving such runs out would choose the spread that
    later runs are judged by.
    """
    if max_cv_percent is not None:
        raise ValueError("--max-cv-percent is gone: steps that vary are noted and refuse no run; leave the option out")
    fresh = fresh_runs.FreshRuns(case, recipe, overrides or (), steps, device, runs, wait, data, tokenizer)
    if records and fresh.words:
        raise ValueError(f"RECORDS are of runs that were made, and {fresh.words[0]} is for new ones; give one of them")
    before = baseline_store.seen(output or CANDIDATES)
    if output is not None:
        baseline_store.require_replaceable(output)
    found = read_records(records or [fresh_runs.make(fresh)])
    baseline_store.require_enough(len(found))
    require_sessions([each for _, each in found], least_sessions)
    require_sound([each for _, each in found])
    complaints = baseline_store.unfit(found, allow_busy)
    if complaints:
        print("\n".join(plain(each, 5000) for each in complaints), file=sys.stderr)
        raise ValueError(
            f"{len(complaints)} complaint{'s'[: len(complaints) - 1]} about {len(found)} records, listed above; "
            "run all of them again on a machine that nothing else uses"
            + ("" if allow_busy else ", or keep disturbed ones with --allow-busy: the gate then sees less")
        )
    made = baseline_store.candidate_of(
        [each for _, each in found], tolerance_percent=tolerance_percent, floor_percent=floor_percent
    )
    if not allow_outliers:
        _refuse_outliers(made)
    path = output or baseline_store.default_path(CANDIDATES, made)
    if in_place(path):
        baseline_store.write(path, [made])
    else:
        path = baseline_store.write_candidate(path, made, before, places.baselines())
    print(baseline_text.described(made))
    where = plain(path, 5000)
    print(f"\nwrote {where}; next: python -m bench baseline promote {shlex.quote(where)} --rationale TEXT")
    write_json(json_path, baseline_json.written(path, made))


def _refuse_outliers(made: Baseline) -> None:
    """One or two runs far from the others; more are how the machine runs."""
    if not (found := accidents(made)):
        return
    print("\n".join(plain(each.sentence, 5000) for each in found), file=sys.stderr)
    far = len({each.record_id for each in found})
    raise ValueError(
        f"{far} of {len(made.runs)} runs far from the others, named above; record all of them again, or add as many "
        "runs: if three or more are far, they are this machine's noise. --allow-outliers keeps them, at a wider spread"
    )


@app.command(name="list")
def list_command(baselines: Baselines, json_path: Json = None) -> None:
    """List all stored baselines, and name their runs that are far from the others."""
    stored = stored_baselines(baselines)
    rows = [
        (
            each.label,
            each.kind,
            each.role,
            ", ".join(each.device.kinds) if each.device.match == "any" else each.device.name,
            each.case,
            (each.recipe.hash or "-")[:12],
            each.layout.short,
            f"{each.metrics.step_seconds:.4g}",
            len(each.runs) or "-",
            baseline_text.age(each),
        )
        for _, each in stored
    ]
    headers = ["label", "kind", "role", "device", "case", "recipe", "layout", "s/step", "runs", "age"]
    print(table(headers, rows, numbers=(7, 8, 9)) if rows else f"{plain(baselines)}: holds no baselines")
    for _, each in stored:
        for far in outliers(each):
            print(f"{plain(each.label)}: {plain(far.sentence, 5000)}")
    write_json(json_path, baseline_json.stored(stored))


@app.command()
def show(label: str, baselines: Baselines, json_path: Json = None) -> None:
    """Show everything that is stored about one baseline."""
    path, baseline = baseline_store.find(baselines, stored_baselines(baselines), label)
    print(f"{baseline_text.described(baseline)}\n\nfile  {plain(path)}")
    write_json(json_path, baseline_json.stored([(path, baseline)]))


@app.command()
def diff(candidate: Candidate, baselines: Baselines, json_path: Json = None) -> None:
    """Compare a candidate with the stored baseline that it would replace, or else with the nearest one."""
    made, stored = baseline_store.read_candidate(candidate), [each for _, each in stored_baselines(baselines)]
    print(baseline_text.compared(made, stored))
    if json_path is not None:
        write_json(json_path, baseline_json.compared(made, stored))


@app.command(fills=console.into("baselines", ("*.json",)))  # any may be the file of its key
def promote(candidate: Candidate, rationale: Rationale, baselines: Baselines, json_path: Json = None) -> None:
    """Store a candidate: from now on it judges the runs of its key, instead of the baseline that did so far.

    A different software version is a different key: both baselines are kept, and each judges its own runs.
    """
    reason = baseline_store.required(rationale)
    accepted = baseline_store.read_candidate(candidate)
    print(baseline_text.compared(accepted, [each for _, each in stored_baselines(baselines)]), end="\n\n")
    path, replaced = baseline_store.promote(baselines, accepted, reason)
    print(
        f"wrote {plain(path, 5000)}: {plain(accepted.label)}"
        + (f", in place of {plain(replaced.label)}" if replaced else "")
    )
    write_json(json_path, baseline_json.written(path, accepted, replaced))


@app.command()
def add(
    target: Annotated[
        str, typer.Argument(metavar="CANDIDATE|LABEL", help="A file that `record` wrote, or a stored baseline.")
    ],
    records: Records,
    baselines: Baselines,
    allow_outliers: AllowOutliers = False,
    json_path: Json = None,
) -> None:
    """Add the runs of further sessions to a candidate or to a stored baseline, of the same key and software.

    A baseline of five sessions or more knows how far sessions are apart. Unfit runs are refused, as by `record`.
    """
    found = read_records(records)
    if complaints := baseline_store.unfit(found):
        print("\n".join(plain(each, 5000) for each in complaints), file=sys.stderr)
        raise ValueError(
            f"{len(complaints)} complaint{'s'[: len(complaints) - 1]} about {len(found)} records, listed above; "
            "run them all again"
        )
    with _target(target, baselines) as (path, old, beside):
        new = added(old, [each for _, each in found], datetime.now(timezone.utc).date())
        if not allow_outliers:
            _refuse_outliers(new)
        baseline_store.write(path, [new if each is old else each for each in beside] or [new])
    for each in sessions_of([record for _, record in found]):
        print(f"added  {plain(each.told, 1000)}")
    print(f"\n{baseline_text.described(new)}\n")
    print(f"wrote {plain(path, 5000)}: {plain(new.label)}, in place of {plain(old.label)}")
    write_json(json_path, baseline_json.written(path, new, old))


@contextmanager
def _target(target: str, folder: Path) -> Iterator[tuple[Path, Baseline, list[Baseline]]]:
    """The file of a candidate or label, the baseline that is meant, and all that a file of stored ones holds.

    Nobody else writes to it meanwhile.
    """
    if (path := Path(target)).is_file():
        with baseline_store.held_candidate(path, folder):
            yield path, baseline_store.read_candidate(path), []
        return
    with baseline_store.held(folder) as at:
        stored = stored_baselines(at)
        path, old = baseline_store.find(at, stored, target)
        yield path, old, [each for file, each in stored if file == path]


@app.command()
def retire(label: str, rationale: Rationale, baselines: Baselines, json_path: Json = None) -> None:
    """Retire a baseline: it stays for people to read, but judges no more."""
    path = baseline_store.retire(baselines, label, rationale, datetime.now(timezone.utc).date())
    print(f"wrote {plain(path, 5000)}: {plain(label)} is retired")
    write_json(json_path, {"schema": 1, "file": str(path), "retired": label})
