"""`python -m bench`: the harness beside its benchmarks. Exit codes: 0 done, 1 a gate failed, 2 input was refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import baseline_commands, gate_commands, history_commands, ingest, ledger_store
from bench.jsonfile import write_atomically
from bench.ledger import Ledger, read_ledger, write_ledger
from grok1 import console
from grok1.config import Recipe, load_recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(baseline_commands.app, name="baseline")
app.add_typer(history_commands.app, name="history")
app.command(name="gate")(gate_commands.gate)


@app.command()
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
        print(ledger_store.as_markdown(before, after, diff))
        return
    if update and not rationale.strip():
        raise ValueError("--update replaces what every later change is held against; say why with --rationale")
    counted = ledger_store.counted(chosen, _ranks(ranks, chosen), _shares(routing))
    if json_path is not None:
        write_ledger(json_path, counted)
    print(ledger_store.summary(counted, chosen, memory_gib))
    if update:
        print(f"wrote {ledger_store.store(counted, baselines, rationale)}")
    elif check:
        _compare(counted, baselines)


@app.command(name="selftest")
def selftest_command(
    records: Annotated[
        Path | None,
        typer.Option(help="A folder of records of one unchanged program, to replay instead of what ships."),
    ] = None,
    condition: Annotated[str, typer.Option(help="What those runs ran under, like quiet or busy neighbour.")] = "given",
    trials: Annotated[int, typer.Option(help="Draws of runs a figure.", min=10, max=100_000)] = 1000,
    store: Annotated[Path | None, typer.Option(help="Keep the records as a series in this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the power curves into this PNG file.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every count here.")] = None,
) -> None:
    """Replay recorded noise through the gate with slowdowns put in: how often it is wrong, and others' rules beside it.

    Without --records also simulated noise of 1 %. Exit 1 where the gate's false alarms are surely above the 1 % that it
    states.
    """
    from bench import selftest
    from bench.record import Record

    if records is None:
        series = [selftest.read_series(path) for path in sorted(selftest.FOLDER.glob("*.json"))]
        series.append(selftest.simulated(spread_percent=1.0))
    else:
        found = [Record.read(path) for path in sorted(records.glob("*.json"))]
        series = [selftest.series_of(condition, found)]
    if store is not None:
        selftest.write_series(store, series[0])
    outcomes, parts = [], []
    for each in series:
        replayed, halves = selftest.replay(each, trials), selftest.held_back(each, trials)
        print(f"{selftest.table(replayed, each)}\n\n{selftest.halves_table(halves)}\n")
        outcomes += replayed
        parts.append(selftest.as_json(each, replayed, halves))
    if json_path is not None:
        write_atomically(json_path, selftest.json_text(parts))
    if plot is not None:
        from reports.plots import power_curves

        write_atomically(plot, power_curves(outcomes))
    if not selftest.is_sound(outcomes):
        print("the gate's false alarms are surely above what it states")
        raise typer.Exit(1)


@app.command(name="ab")
def ab_command(
    base: Annotated[str, typer.Option(metavar="REV", help="The git revision to compare with.")],
    case: Annotated[str, typer.Option(metavar="NAME", help="The case that both run.")],
    head: Annotated[
        str | None, typer.Option(metavar="REV", help="The revision in question; default: the working tree as it is.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Runs a side.", min=3, max=1000)] = 5,
    confirm: Annotated[
        int, typer.Option(help="More pairs if the first look leaves a doubt; the two looks share one error.", min=0)
    ] = 0,
    recipe: Annotated[str | None, typer.Option(help="Run this recipe in place of the case's own.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps a run; default: the case's own.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    results: Annotated[Path, typer.Option(help="Where records and logs of both sides go.")] = Path("results/ab"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all that was found here.")] = None,
    require_answer: Annotated[bool, typer.Option("--require-answer", help="Exit 1 if it is inconclusive.")] = False,
) -> None:
    """Compare two revisions on this machine: both run in turns, so that what disturbs one disturbs the other.

    Exit 1 where head is surely slower, or does not learn what base learns.
    """
    from bench import ab
    from bench.sides import RunFailedError

    request = ab.Request(base, head, case, pairs, confirm, recipe, tuple(overrides or ()), steps, device, results)
    try:
        outcome = ab.compare(request)
    except RunFailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(outcome.as_markdown())
    if json_path is not None:
        ab.write(json_path, outcome)
    if code := outcome.exit_code(require_answer):
        raise typer.Exit(code)


@app.command(name="ingest")
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
    names = (*ingest.NEEDED, "parameters", "active_parameters", "device_kind")
    given = {name: stated[name] for name in names if stated[name] is not None}
    chosen = None if recipe is None else load_recipe(recipe, overrides or [])
    log = ingest.read_logs(logs, from_step)
    made = ingest.make_record(log, case, given, chosen, ingest.key_values(software or []))
    path = output or Path("results/records") / f"{ingest.file_name(made.record)}"
    made.record.write(path)
    print(f"{ingest.described(made)}\nwrote {path}")


def _compare(counted: Ledger, folder: Path) -> None:
    path = ledger_store.path_of(folder, counted.recipe_name)
    if not path.is_file():
        raise ValueError(f"{path}: no ledger of {counted.recipe_name} is stored; add it with --update --rationale")
    complaint = ledger_store.complaint(read_ledger(path), counted)
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


def main() -> None:
    """Entry point."""
    console.run(app, "bench")


if __name__ == "__main__":
    main()
