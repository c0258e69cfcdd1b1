"""The main job: fixed-step pretraining of each selected case, recorded and judged."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from bench import measure
from bench.cases import Case
from bench.gate import exit_code, judge
from bench.record import Record
from bench.session import BenchSession, show_in_benchmark_table
from bench.stats import summarise
from grok1.launch import LaunchError
from grok1.progress import progress

_RUN_SECONDS = 24 * 3600  # the ranks have their own time limits; a real job may take hours


@pytest.mark.timeout(_RUN_SECONDS)
def test_pretrain(case: Case, session: BenchSession, request: pytest.FixtureRequest) -> None:
    """tokens/s/p and s/step hold against the stored baselines."""
    try:
        baselines = session.baselines()  # a damaged one is refused before hours of training, not after
        with _uncaptured(request.config):  # or nobody would see the progress
            records = _run(case, session)
    except (LaunchError, ValueError) as error:
        pytest.exit(f"{case.name}: {error}", returncode=2)
    if not records:
        return  # this node does not hold rank 0, which records for all
    verdict = judge(records, baselines)
    print(verdict.sentence)
    if verdict.state != "void":
        # asked for only now: the fixture complains where a run was refused and it had nothing to time
        _show(request.getfixturevalue("benchmark"), records)
    if exit_code(verdict, session.require_baseline):
        pytest.fail(verdict.sentence, pytrace=False)


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Where pytest captures what is printed: not meanwhile."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


def _run(case: Case, session: BenchSession) -> list[Record]:
    records = []
    for index in range(session.runs(case)):
        job = session.job(case)
        title = f"{case.name} run {index + 1}/{session.runs(case)}"
        with progress(job.recipe, job.num_steps, title) as on_event:
            record = measure.run(case.name, job, session.device, session.nodes(), on_event)
        if record is not None:
            record.write(session.results / "records" / f"{case.name}-{record.id}.json")
            records.append(record)
    session.records.extend(records)
    return records


def _show(benchmark: Any, records: list[Record]) -> None:
    """Steady step times in the table; the figures and where they came from beside them."""
    summaries = [summarise(record) for record in records]
    show_in_benchmark_table(benchmark, [x for each in summaries for x in each.step_seconds[each.steady_from :]])
    benchmark.extra_info.update(
        tokens_per_second_per_processor=[each.tokens_per_second_per_processor for each in summaries],
        recipe=records[-1].recipe.name,
        recipe_hash=records[-1].recipe.hash,
        record_ids=[record.id for record in records],
    )
