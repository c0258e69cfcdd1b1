"""`python -m bench rank`: one rank of a large job, with real tensors, on one device."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cases import usual_recipe
from bench.commands.expected import DeviceProfile, told
from bench.commands.ledger import routing_shares
from bench.judge.alone import Alone, alone
from bench.judge.beside import median_beside
from bench.judge.stats import Summary, summarise
from bench.records.expectation import Expectation
from bench.records.files import file_name
from bench.records.lone_rank import LoneRank
from bench.records.record import Record
from bench.records.terminal import plain, table
from grok1.cli.json_option import Json
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import chosen_kind
from grok1.training.result import StepDone
from reports.formats import percent, seconds_unit, traffic_unit

_MIN_STEPS = 4  # the first is warm-up, and a verdict needs three


def rank_command(
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A shipped recipe (see `grok1 recipes`) or a .toml file. "
            f"Default: {', '.join(f'{usual_recipe(each)} on {each}' for each in ('npu', 'cuda', 'cpu'))}."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Which rank; the first of each stage stands for its stage.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Steps of a run.", min=_MIN_STEPS, max=10_000)] = 12,
    runs: Annotated[int, typer.Option(help="Runs, each of a process of its own; a baseline takes five.", min=1)] = 1,
    routing: Annotated[
        str | None,
        typer.Option(help="Each expert's share of the (token, expert) pairs, such as 0.3,0.1,...; default: equal."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    device_profile: DeviceProfile = None,
    case: Annotated[str | None, typer.Option(help="The records' case. Default: RECIPE-rank-RANK.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Records go to its folder records.")] = Path("results"),
    json_path: Json = None,
) -> None:
    """Measure one rank of a job on one device, without the others, and record it: what its own work takes.

    Every kernel of the whole job's step runs, on tensors of its sizes. Collectives return at once, so the numbers that
    it computes mean nothing, and communication is left out. Its records are judged by baselines of the same rank
    alone, never by those of whole jobs.
    """
    from bench import lone_rank
    from bench.plan.expected import check_profile, known_expectations

    kind = chosen_kind(device)
    chosen = load_recipe(recipe or usual_recipe(kind), overrides or [])
    job = lone_rank.LoneJob(chosen, rank, steps, tuple(routing_shares(routing) or ()))
    lone_rank.check(job)
    if device_profile is not None:
        check_profile(chosen, LoneRank(rank=rank, routing_shares=list(job.routing_shares)), device_profile)
    name = case or f"{chosen.name}-rank-{rank}"
    found: list[tuple[Path, Record]] = []
    for run in range(runs):
        record = lone_rank.run(name, job, kind, _shown(run + 1, runs, steps))
        path = results / "records" / file_name(record)
        record.write(path)
        found.append((path, record))
        print(text(record, chosen), end=f"\nrecord: {plain(path, 5000)}\n")
    expectation = next(iter(known_expectations([record for _, record in found], device_profile)), None)
    if expectation is not None:
        valid = [record for _, record in found if record.valid]
        print(f"\n{told(valid, median_beside(valid, expectation))}\n\n{_predicted(expectation)}")
        print(f"\n{_job(valid[-1], expectation)}")
    if json_path is not None:
        from grok1.files import write_json

        write_json(json_path, as_json(found, expectation))
    if any(not record.valid for _, record in found):
        raise typer.Exit(1)


def _shown(run: int, runs: int, steps: int) -> Any:
    """A line a step, for those who wait."""

    def show(done: StepDone) -> None:
        print(f"run {run}/{runs} step {done.metrics.step + 1}/{steps}: {done.step_seconds:.4g} s", file=sys.stderr)

    return show


def text(record: Record, recipe: Recipe) -> str:
    """For a terminal."""
    summary = summarise(record)
    found = alone(record, summary)
    assert found is not None
    lines = [
        f"{recipe.name}: {found.title} on {plain(record.device.name)}: {found.step_seconds:.4g} s a step "
        f"({summary.steady_steps} steady of {len(record.steps)}), peak {summary.peak.max_bytes / 2**30:.2f} GiB",
        *(f"VOID: {reason}" for reason in record.void_reasons[:3]),
        "",
        _split(summary, found),
        "",
        _communication(record),
        "",
        f"the job: a step of {record.work.num_micro_batches} micro-batches on {record.layout.pipeline} stages takes "
        f"{found.least_step_seconds:.4g} s or more, so at most "
        f"{found.most_tokens_per_second_per_processor:,.5g} tokens/s/p, without communication",
    ]
    return "\n".join(lines)


def _split(summary: Summary, found: Alone) -> str:
    """The phases of a step; then, of the whole step, what operators take and what the host does."""
    step = found.step_seconds
    parts = list(summary.phase_seconds.items())
    if found.operators_seconds is not None:
        name = f"of all: {found.operator_calls:,} operators, profiled"
        parts.append((name, found.operators_seconds))
    if found.host_seconds is not None:
        each = found.host_seconds_a_call
        a_call = "" if each is None else f", {1e6 * each:.3g} us an operator"
        parts.append((f"of all: the host{a_call}", found.host_seconds))
    unit = seconds_unit(seconds for _, seconds in parts)
    rows = [(name, unit.of(seconds), percent(seconds / step)) for name, seconds in parts]
    return table(["phase", unit.name, "of the step"], rows, numbers=(1, 2))


def _communication(record: Record) -> str:
    """What this rank would exchange in a step: counted, not measured."""
    steps, collectives = len(record.steps), record.ranks[0].collectives
    moved = traffic_unit(each.bytes / steps for each in collectives.values())
    rows = [(name, f"{each.calls / steps:,.6g}", moved.of(each.bytes / steps)) for name, each in collectives.items()]
    headers = ["communication, counted and not measured", "calls a step", f"{moved.name} a step"]
    return table(headers, rows, numbers=(1, 2)) if rows else "no communication: the job is of one rank"


def _predicted(expectation: Expectation) -> str:
    """What the rank would exchange, priced by the profile: the job takes what shows of it longer."""
    exchanges = sorted(expectation.exchanges, key=lambda each: -each.seconds)
    total = sum(each.seconds for each in exchanges)
    unit, moved = seconds_unit([total]), traffic_unit(each.bytes for each in exchanges)
    rows = [(each.name, f"{each.calls:,}", moved.of(each.bytes), unit.of(each.seconds)) for each in exchanges]
    rows.append(("all, one after the other", "", "", unit.of(total)))
    headers = [
        "communication, predicted and not measured",
        "calls a step",
        f"{moved.name} a step",
        f"{unit.name} a step",
    ]
    return table(headers, rows, numbers=(1, 2, 3))


def _job(record: Record, expectation: Expectation) -> str:
    """The measured rank and the predicted communication together."""
    found = alone(record, summarise(record))
    assert found is not None
    seconds = found.job_seconds(expectation.terms, record.work.num_micro_batches)
    rate = record.work.tokens_per_step / seconds / record.layout.world_size
    return (
        f"the job, if all its stages are as this one: {seconds:.4g} s a step and {rate:,.5g} tokens/s/p, of which "
        f"communication as profile {plain(expectation.profile)} predicts what shows of it"
    )


def as_json(found: list[tuple[Path, Record]], expectation: Expectation | None = None) -> dict[str, object]:
    """As `--json` writes it."""
    return {
        "schema": 1,
        "runs": [_run(path, record) for path, record in found],
        "expectation": None if expectation is None else expectation.model_dump(),
    }


def _run(path: Path, record: Record) -> dict[str, object]:
    summary = summarise(record)
    found, steps = alone(record, summary), len(record.steps)
    assert found is not None
    return {
        "record": str(path),
        "id": record.id,
        "case": record.case,
        "recipe": {"name": record.recipe.name, "hash": record.recipe.hash},
        **asdict(found),
        "peak_bytes": summary.peak.max_bytes,
        "phase_seconds": summary.phase_seconds,
        "communication": {
            name: {"calls": each.calls / steps, "bytes": each.bytes / steps}
            for name, each in record.ranks[0].collectives.items()
        },
    }
