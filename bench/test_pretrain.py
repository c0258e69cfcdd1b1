"""The main job: fixed-step pretraining of each selected case, recorded; then all of it judged together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import pytest

from bench import measure
from bench.cases import Case
from bench.judge.case_figures import counting
from bench.judge.gate import missing
from bench.judge.junit import properties_of
from bench.judge.stats import summarise
from bench.judge.verdict import Verdict, exit_code
from bench.quiet import wait_until_quiet
from bench.records.record import Record
from bench.session import BenchSession, show_in_benchmark_table
from grok1.cli.progress import progress
from grok1.distributed.launch import LaunchError, NodeFailedError, RankFailedError, local_ranks

T = TypeVar("T")

_RUN_SECONDS = 24 * 3600  # the ranks have their own time limits; a real job may take hours


@pytest.mark.timeout(_RUN_SECONDS)
def test_pretrain(case: Case, session: BenchSession, request: pytest.FixtureRequest) -> None:
    """The case trains, and what it computes can be trusted."""
    _refusing(
        lambda: [
            *session.baselines(),
            session.confirm_runs(),
            session.may_settle,
            session.session_level(),
            session.expectations(),
        ],
        case,
    )  # a damaged one is refused before hours of training, not after
    records = _measured(case, session, session.runs(case), request.config)
    if records and (planned := session.planned(records[0])) and planned.runs > len(records):
        _say(request.config, planned.sentence)
        records += _measured(case, session, planned.runs - len(records), request.config)
    session.joined.append(case.name)
    if not records:
        return  # this node does not hold rank 0, which records for all
    void = next((record.void_reasons[0] for record in records if not record.valid), None)
    if void is not None:
        pytest.fail(f"VOID: {case.name} cannot be judged: {void}", pytrace=False)
    # asked for only now: the fixture complains where a run was refused and it had nothing to time
    _show(request.getfixturevalue("benchmark"), records)


@pytest.mark.timeout(_RUN_SECONDS)
def test_verdict(
    case: Case,
    session: BenchSession,
    request: pytest.FixtureRequest,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """tokens/s/p, s/step, memory, skew and phases hold against the stored baselines."""
    if not session.holds_rank_0:
        pytest.skip("the node of rank 0 records and judges for all")
    if not session.records_of(case):
        pytest.fail(f"MISSING: {case.name} left no record to judge", pytrace=False)
    verdict = _settled(session, request.config, case)[case.name]
    for name, value in properties_of(verdict).items():  # of the suite: schemas know none of a test
        record_testsuite_property(f"{case.name}.{name}", value)
    if exit_code(verdict, session.require_baseline):
        pytest.fail(verdict.sentence, pytrace=False)
    print(verdict.sentence)


def test_nothing_is_missing(session: BenchSession) -> None:
    """Each case with a recorded baseline of this device ran; only where no --case chose among them."""
    if session.config.getoption("--case") or not session.records:
        pytest.skip("cases were chosen by name" if session.records else "nothing ran")
    session.missing = missing(session.records, session.baselines())
    if session.missing:
        pytest.fail("\n".join(verdict.sentence for verdict in session.missing), pytrace=False)


def _settled(session: BenchSession, config: pytest.Config, case: Case) -> dict[str, Verdict]:
    """All verdicts, by case; more runs and A/B are shown as they happen."""

    say = functools.partial(_say, config)

    def verdicts() -> list[dict[str, Verdict]]:
        for line in filter(None, map(session.session_level().told, session.records_of(case)[:1])):
            say(line)
        return [session.settle(functools.partial(_confirm, session, config), say)]

    return _refusing(verdicts, case)[0]


def _confirm(session: BenchSession, config: pytest.Config, case: Case, runs: int) -> None:
    _say(config, f"{case.name} is in doubt at the first look: {runs} more runs, then the last look")
    _measured(case, session, runs, config)


def _measured(case: Case, session: BenchSession, runs: int, config: pytest.Config) -> list[Record]:
    with _uncaptured(config):  # or nobody would see the progress
        return list(_refusing(lambda: _run(case, session, runs), case))


def _refusing(do: Callable[[], list[T]], case: Case) -> list[T]:
    """Bad input ends the session in one line, as it would fail every case alike."""
    try:
        return do()
    except (LaunchError, ValueError) as error:
        pytest.exit(f"{case.name}: {error}", returncode=2)
    except (NodeFailedError, RankFailedError) as error:
        failure = f"{case.name}: {error}"
    pytest.fail(failure, pytrace=False)  # out here, or pytest shows the same words twice


def _say(config: pytest.Config, line: str) -> None:
    """Live, in a line of its own."""
    with _uncaptured(config):
        print(f"\n{line}", flush=True)


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Where pytest captures what is printed: not meanwhile."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


def _run(case: Case, session: BenchSession, runs: int) -> list[Record]:
    records = []
    done = len(session.records_of(case))
    for index in range(done, done + runs):
        job = session.job(case)
        if session.device == "cpu" and (most := session.wait_seconds()):
            ranks = local_ranks(session.nodes(), job.recipe.parallel.world_size)
            wait_until_quiet(ranks, most, lambda line: print(f"{case.name}: {line}", flush=True))
        title = f"{case.name} run {index + 1}/{done + runs}"
        with progress(job.recipe, job.num_steps, title) as on_event:
            record = measure.run(
                case.name, job, session.device, session.nodes(), on_event, session.collective_seconds, session.asked
            )
        if record is not None:
            record.write(session.results / "records" / f"{case.name}-{record.id}.json")
            records.append(record)
            session.records.append(record)
    return records


def _show(benchmark: Any, records: list[Record]) -> None:
    """Steady steps in the table; of several runs one time each, so that its median is that of every other place."""
    summaries = [summarise(records[place]) for place in counting(records)]
    one = summaries[0]
    steps = one.step_seconds[one.steady_from :]
    show_in_benchmark_table(
        benchmark, [each.median_step_seconds for each in summaries] if len(summaries) > 1 else steps
    )
    benchmark.extra_info.update(
        tokens_per_second_per_processor=[each.tokens_per_second_per_processor for each in summaries],
        recipe=records[-1].recipe.name,
        recipe_hash=records[-1].recipe.hash,
        record_ids=[record.id for record in records],
    )
