"""`python -m bench gate --settle` from stored records to an exit code: both commits run, and their runs decide."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import git as revisions
from bench.ab import settle_stored
from bench.ab.outcome import Outcome
from bench.ab.request import Request
from bench.cases import select
from bench.judge.baseline import BaselineFile, recorded_baseline
from grok1.config.load import load_recipe
from tests.bench.ab.test_ab import does, git, repository, worktrees  # noqa: F401 (fixtures are found by name)
from tests.bench.ab.test_settle import TWO_DAYS, runs_of
from tests.in_process import Command

CASE = "grok1-40b"


def of_the_case() -> dict[str, Any]:
    """What a record of the case says that was made on this machine."""
    recipe = {"name": CASE, "hash": load_recipe(select([CASE], "cpu")[0].recipe).hash()}
    return {"recipe": recipe, "layout": {"nodes": 1, "ranks_per_node": 16}}


@pytest.fixture
def doubtful(
    bench: Command,
    repository: Path,  # noqa: F811 (the fixture)
    synthetic_record: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Records 3 % slower than a baseline of another day, where the repository's runs are: its commit is 10 % slower."""
    (repository / "bench" / "git.py").write_text("")
    does(repository, "run 1.1", "head")
    monkeypatch.setattr(revisions, "ROOT", repository)
    monkeypatch.setattr(settle_stored, "Request", partial(Request, root=repository))
    monkeypatch.setattr(settle_stored, "machine", lambda: "a" * 12)
    shared = of_the_case()
    base, head = (
        shared | {"commit": {"sha": git(repository, "rev-parse", tag), "dirty": False}} for tag in ("base", "head")
    )
    baseline = recorded_baseline(runs_of(synthetic_record, TWO_DAYS[0], 39.8, 1, **base), "to test with")
    BaselineFile(schema=1, baselines=[baseline]).write(Path("baselines/one.json"))
    Path("records").mkdir()
    for each in runs_of(synthetic_record, TWO_DAYS[1], 41.0, 21, **head):
        each.write(Path("records") / f"{each.id}.json")
    return repository


@pytest.mark.slow
def test_settle_runs_both_commits_and_their_runs_decide(bench: Command, doubtful: Path) -> None:
    code, output, _ = bench("gate", "records")
    assert (code, output.splitlines()[1].split(":")[0]) == (0, "INCONCLUSIVE")
    base, head = (git(doubtful, "rev-parse", tag)[:10] for tag in ("base", "head"))
    assert f"settle by A/B: python -m bench ab --base {base}" in output
    code, output, errors = bench("gate", "records", "--settle", "--json", "verdicts.json")
    assert (code, output.split(":")[0]) == (1, "FAIL"), output
    sentence = output.splitlines()[0]
    assert f"at the working tree ({head}) than at " in sentence
    assert "5 pairs" in sentence
    assert "Settled by A/B in this session, as the gate could not: it takes 3." in sentence
    assert f"{CASE} is in doubt: it takes 3." in errors
    assert "10 runs (about " in errors
    settled = Outcome.model_validate_json(Path(f"results/settle/{CASE}/settled.json").read_bytes())
    assert (settled.state, len(settled.base.records), len(settled.head.records)) == ("fail", 5, 5)
    assert json.loads(Path("verdicts.json").read_text())["verdicts"][0]["state"] == "fail"
    assert not worktrees(doubtful)


def test_settle_leaves_an_answer_alone(bench: Command, doubtful: Path, synthetic_record: Any) -> None:
    """Half as slow again is no doubt, and nothing runs."""
    does(doubtful, "break", "broken")
    for path in Path("records").iterdir():
        path.unlink()
    for each in runs_of(synthetic_record, TWO_DAYS[0], 60.0, 41, **of_the_case()):
        each.write(Path("records") / f"{each.id}.json")
    code, output, errors = bench("gate", "records", "--settle")
    assert (code, output.split(":")[0], "in doubt" in errors) == (1, "FAIL", False)
    assert not Path("results").exists()
