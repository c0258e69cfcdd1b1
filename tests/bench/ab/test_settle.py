"""A doubt across sessions, decided by A/B: which doubts, of which commit, at what error, and what the verdict says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.ab import settle as settling
from bench.ab.outcome import Outcome, concluded
from bench.ab.request import Request
from bench.ab.sequential import sequential
from bench.ab.settle import doubt_of, settle
from bench.ab.settle_stored import settle_stored, why_not
from bench.judge.baseline import Baseline, BaselineFile, recorded_baseline
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR, decide
from bench.judge.gate import judge
from bench.judge.metrics import STEP, Sessions, family, figures_of
from bench.judge.remedy import base_of, runs_needed
from bench.judge.stats import summarise
from bench.judge.verdict import Verdict
from bench.records.record import Commit, Record, Session
from tests.bench.ab.test_ab import REVISIONS, does, git, pairs_at, repository  # noqa: F401 (fixtures are found by name)

SHA = "0" * 40
TWO_DAYS = ("2025-01-31", "2025-02-07")


def runs_of(
    synthetic_record: Any, day: str, seconds: float, first: int, count: int = 5, **changes: Any
) -> list[Record]:
    """Runs of one session, twenty minutes apart, that differ by 0.2 %."""
    between = 1 + 0.002 * np.random.default_rng(first).standard_normal(count)
    session = Session(machine="a" * 12, boot="b" * 12, day=day, job=None)
    return [
        synthetic_record(
            seed=first + index,
            noise=0.002,
            median_seconds=float(seconds * between[index]),
            created_at=f"{day}T{10 + index // 3}:{20 * (index % 3):02d}:00Z",
            session=session,
            **changes,
        )
        for index in range(count)
    ]


@pytest.fixture
def stored(synthetic_record: Any) -> Baseline:
    return recorded_baseline(runs_of(synthetic_record, TWO_DAYS[0], 39.8, 1), "to test with")


@pytest.fixture
def suspected(synthetic_record: Any) -> list[Record]:
    """3 % slower on another day: clear within a session, and nothing that another session could not explain."""
    return runs_of(synthetic_record, TWO_DAYS[1], 41.0, 21)


def first_stage(runs: list[Record], baseline: Baseline) -> Verdict:
    return judge(runs, [baseline], FIRST_STAGE_ERROR)


def with_commits(baseline: Baseline, commits: list[Commit]) -> Baseline:
    runs = [run.model_copy(update={"commit": commits[i % len(commits)]}) for i, run in enumerate(baseline.runs)]
    return baseline.model_copy(update={"runs": runs})


def standing_in(monkeypatch: pytest.MonkeyPatch, synthetic_record: Any, slower: float) -> list[tuple[Request, float]]:
    """A/B that finds such a change, without a run; what it was asked for."""
    asked: list[tuple[Request, float]] = []

    def compare(request: Request, family_error: float) -> Outcome:
        asked.append((request, family_error))
        pairs = pairs_at(synthetic_record, slower, request.pairs)
        figures = [(figures_of(summarise(base)), figures_of(summarise(head))) for base, head in pairs]
        found = sequential(lambda count: figures[:count], len(pairs), 0, family_error)
        return concluded(REVISIONS, pairs, found)

    monkeypatch.setattr(settling, "compare", compare)
    monkeypatch.setattr(settling, "commit_of", lambda revision, root: revision)
    return asked


# ---- which doubts, and of which commit -----------------------------------------------------------------


def test_a_suspicion_is_for_ab_and_an_answer_is_not(
    synthetic_record: Any, stored: Baseline, suspected: list[Record]
) -> None:
    verdict = first_stage(suspected, stored)
    assert verdict.state == "inconclusive", verdict.sentence
    found = doubt_of(verdict)
    assert found is not None
    assert found.remedy.is_suspicion
    assert found.row.metric == STEP
    assert doubt_of(first_stage(runs_of(synthetic_record, TWO_DAYS[1], 50.0, 41), stored)) is None  # fails
    same_session = runs_of(synthetic_record, TWO_DAYS[0], 41.0, 61, count=1)
    verdict = first_stage(same_session, stored)
    assert verdict.state == "inconclusive"
    assert doubt_of(verdict) is None, "more runs of this session settle it"


def test_a_change_that_a_busier_machine_may_explain_is_for_ab_even_within_a_session(
    synthetic_record: Any, stored: Baseline
) -> None:
    taken = {"throttled_seconds": 500.0}
    verdict = first_stage(runs_of(synthetic_record, TWO_DAYS[0], 50.0, 61, host=taken), stored)
    assert verdict.state == "inconclusive"
    doubt = doubt_of(verdict)
    assert doubt is not None
    announced = settling._announced(doubt, Request(SHA, None, "grok1-40b", 5), SECOND_STAGE_ERROR)
    assert "% more time per step than in " in announced
    assert ", and the machine was busier: its CPU quota held runs back for " in announced


@pytest.mark.parametrize(
    ("commits", "told"),
    [
        ([Commit(sha=None, dirty=None)], "names no commit"),
        ([Commit(sha=SHA, dirty=False), Commit(sha=SHA, dirty=True)], "0000000000 with changes that no commit holds"),
        ([Commit(sha=SHA, dirty=False), Commit(sha="1" * 40, dirty=False)], "2 commits (0000000000 and 1111111111)"),
    ],
)
def test_a_baseline_of_no_one_commit_leaves_the_doubt_and_says_so(
    stored: Baseline, suspected: list[Record], commits: list[Commit], told: str
) -> None:
    baseline = with_commits(stored, commits)
    doubt = doubt_of(first_stage(suspected, baseline))
    assert doubt is not None
    said: list[str] = []
    found = settle([doubt], [baseline], lambda *_: pytest.fail("ran"), SECOND_STAGE_ERROR, said.append)["grok1-40b"]
    assert found.state == "inconclusive"
    assert told in found.sentence
    assert len(said) == 1
    assert told in said[0]
    assert "\n" not in said[0]


def test_a_commit_that_git_has_not_leaves_the_doubt(stored: Baseline, suspected: list[Record]) -> None:
    doubt = doubt_of(first_stage(suspected, stored))
    assert doubt is not None

    def wanted(case: str, base: str, pairs: int) -> Request:
        return Request(base, None, case, pairs)

    found = settle([doubt], [stored], wanted, SECOND_STAGE_ERROR, lambda line: None)["grok1-40b"]
    assert found.state == "inconclusive"
    assert f"'{SHA}' is not a" in found.sentence or f"'{SHA}' is not in" in found.sentence
    assert base_of(stored) == SHA


# ---- one session of pytest -----------------------------------------------------------------------------


def session_of(tmp_path: Path, records: list[Record], baseline: Baseline, **given: Any) -> Any:
    from bench.session import BenchSession

    options: dict[str, Any] = {
        "--case": ["grok1-40b"],
        "--device": "npu",
        "--baselines": str(tmp_path),
        "--results": str(tmp_path),
    }
    options |= {"--nnodes": 1, "--node-rank": 0, "--master-addr": "", "--master-port": 1, "--nproc-per-node": None}
    options |= {"--confirm": 0, "--settle": True, "--set": [], "--data": None, "--collective-timeout": 600.0} | given
    config = type("Config", (), {"getoption": lambda self, name: options.get(name)})()
    session = BenchSession(config)
    session.records = list(records)
    BaselineFile(schema=1, baselines=[baseline]).write(tmp_path / "npu" / "grok1-40b.json")
    return session


@pytest.mark.parametrize(("slower", "state"), [(0.0, "pass"), (0.05, "fail"), (-0.05, "improved")])
def test_ab_decides_and_the_verdict_says_both(
    tmp_path: Path,
    synthetic_record: Any,
    stored: Baseline,
    suspected: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    slower: float,
    state: str,
) -> None:
    asked = standing_in(monkeypatch, synthetic_record, slower)
    said: list[str] = []
    session = session_of(tmp_path, suspected, stored, **{"--data": "corpus", "--confirm": 3})
    verdict = session.settle(lambda case, runs: pytest.fail("ran more"), said.append)["grok1-40b"]
    assert verdict.state == state, verdict.sentence
    assert verdict.sentence.startswith(f"{state.upper()}: grok1-40b takes ")
    assert "5 pairs" in verdict.sentence
    assert "Settled by A/B in this session, as the gate could not: it takes 3." in verdict.sentence
    assert "1.2 % between sessions, assumed" in verdict.sentence
    ((request, error),) = asked
    assert (request.base, request.head, request.pairs, error) == (SHA, None, 5, SECOND_STAGE_ERROR)
    assert f"--data={Path('corpus').resolve()}" in request.words
    assert "10 runs (about " in said[0]
    assert "an error of 0.80%; with the gate's 0.20% at most 1% in all" in said[0]
    assert Outcome.model_validate_json((tmp_path / "settle" / "grok1-40b" / "settled.json").read_bytes()).state == state
    assert session.settle(lambda case, runs: None)["grok1-40b"] is verdict
    assert len(asked) == 1, "there is no third stage"


def test_without_settle_nothing_runs(
    tmp_path: Path, synthetic_record: Any, stored: Baseline, suspected: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = standing_in(monkeypatch, synthetic_record, 0.05)
    session = session_of(tmp_path, suspected, stored, **{"--settle": False})
    verdict = session.settle(lambda case, runs: None)["grok1-40b"]
    assert (verdict.state, asked) == ("inconclusive", [])
    assert "settle by A/B" in verdict.sentence


def test_a_wider_assumed_level_hides_more_and_a_smaller_one_fails(
    tmp_path: Path, synthetic_record: Any, stored: Baseline, suspected: list[Record]
) -> None:
    for given, state in (("0.1", "fail"), ("5", "inconclusive")):
        session = session_of(tmp_path, suspected, stored, **{"--settle": False, "--session-spread": given})
        assert session.settle(lambda case, runs: None)["grok1-40b"].state == state


def test_settling_needs_one_machine(tmp_path: Path, stored: Baseline) -> None:
    with pytest.raises(ValueError, match="--settle needs one machine; run both"):
        _ = session_of(tmp_path, [], stored, **{"--nnodes": 2}).may_settle


# ---- stored records ------------------------------------------------------------------------------------


def test_stored_records_settle_only_where_they_can_run_again(
    stored: Baseline, suspected: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = first_stage(suspected, stored)
    (found,) = settle_stored([suspected], [verdict], [stored])
    assert found.state == "inconclusive"
    assert "the records are of another machine" in found.sentence
    monkeypatch.setattr("bench.ab.settle_stored.machine", lambda: "a" * 12)
    assert "2 machines" in str(why_not(suspected))
    layout = suspected[0].layout.model_copy(update={"nodes": 1, "ranks_per_node": 16})
    ours = [each.model_copy(update={"layout": layout}) for each in suspected]
    monkeypatch.setattr("bench.ab.settle_stored.commit", lambda: {"sha": SHA, "dirty": True})
    assert "the working tree has changes" in str(why_not(ours))
    monkeypatch.setattr("bench.ab.settle_stored.commit", lambda: {"sha": "1" * 40, "dirty": False})
    assert "the records are of 0000000000, and 1111111111 is checked out" in str(why_not(ours))
    monkeypatch.setattr("bench.ab.settle_stored.commit", lambda: {"sha": SHA, "dirty": False})
    assert "a changed recipe (0123456789ab" in str(why_not(ours))


# ---- the error of both stages --------------------------------------------------------------------------

TRIALS = 800
SIGMAS = 4.0  # of a count of trials, as in test_ab


def both_stages(random: np.random.Generator, slower: float) -> str:
    """Sessions 3 % apart, runs 1 %: five stored runs of one session, five new ones of another, and A/B in that."""
    levels = random.normal(0.0, 0.03, 2)
    before, after = (np.exp(level + random.normal(0.0, 0.01, 5)) for level in levels)
    sides = [[{STEP: float(value)} for value in side] for side in (before, after * (1 + slower))]
    sessions = Sessions(before=["old"] * 5, after=["new"] * 5, spread=np.log1p(0.03))
    (comparison,) = family(*sides, sessions=sessions).values()
    found = decide({STEP: comparison}, FIRST_STAGE_ERROR)[STEP]
    if found.state != "inconclusive" or not (found.is_suspicion or runs_needed(comparison, found.alpha) is None):
        return found.state
    pairs = np.exp(levels[1] + random.normal([0.0, np.log1p(slower)], 0.01, (8, 2)))
    figures = [({STEP: float(base)}, {STEP: float(head)}) for base, head in pairs]
    return sequential(lambda count: figures[:count], 8, 0, SECOND_STAGE_ERROR).deciding[1]


def test_both_stages_err_at_most_as_stated_and_find_a_slowdown() -> None:
    random = np.random.default_rng(15)
    equal = [both_stages(random, 0.0) for _ in range(TRIALS)]
    bound = FAMILY_ERROR + SIGMAS * (FAMILY_ERROR * (1 - FAMILY_ERROR) / TRIALS) ** 0.5
    assert equal.count("fail") / TRIALS <= bound
    assert equal.count("improved") / TRIALS <= bound
    slower = [both_stages(random, 0.05) for _ in range(TRIALS // 4)]
    assert slower.count("fail") / len(slower) > 0.95


# ---- for real, in a repository that stands in for ours ---------------------------------------------------


@pytest.mark.slow
def test_a_suspicion_is_settled_by_runs_of_both_commits(
    repository: Path,  # noqa: F811 (the fixture)
    stored: Baseline,
    suspected: list[Record],
) -> None:
    does(repository, "run 1.1")
    sha = git(repository, "rev-parse", "base")
    baseline = with_commits(stored, [Commit(sha=sha, dirty=False)])
    doubt = doubt_of(first_stage(suspected, baseline))
    assert doubt is not None

    def request(case: str, base: str, pairs: int) -> Request:
        return Request(base, None, case, pairs, results=repository.parent / "results", root=repository)

    said: list[str] = []
    verdict = settle([doubt], [baseline], request, SECOND_STAGE_ERROR, said.append)["grok1-40b"]
    assert verdict.state == "fail", verdict.sentence
    assert f"at the working tree ({sha[:10]} with changes) than at {sha} ({sha[:10]})" in verdict.sentence
    assert "Settled by A/B in this session" in verdict.sentence
    assert len(said) == 1
