"""With --require-baseline a session is a gate: whatever left a case without a verdict, pytest's exit code is not 0."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.judge.verdict import Verdict
from bench.session import SESSION, BenchSession, why_unjudged
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
REQUIRED = "error: --require-baseline: "


def _pytest(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--require-baseline", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=HANG_SECONDS, check=False
    )


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ("bench/test_pretrain.py", "--benchmark", "--case", "grok1-nano", "--benchmark-only"),
            "grok1-nano has no verdict: --benchmark-only left its tests out",
        ),
        (("bench/test_pretrain.py",), "no benchmark ran; give pytest bench/ --benchmark"),
        (("bench/test_pretrain.py", "--benchmark", "--case", "grok1-nano", "-k", "nothing"), "-k left its tests out"),
        (
            ("bench", "--benchmark", "--case", "grok1-nano", "--ignore-glob", "*/test_*.py"),
            "grok1-nano has no verdict: --ignore-glob left its tests out",
        ),
    ],
)
def test_a_session_without_a_verdict_fails_in_one_line(words: tuple[str, ...], complaint: str) -> None:
    done = _pytest(*words)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith(REQUIRED)]
    assert len(said) == 1
    assert complaint in said[0]


def test_the_help_is_shown() -> None:
    """A single percent sign in the help of an option is a TypeError of argparse."""
    done = _pytest("--help")
    assert done.returncode == 0
    assert "both share the 1 % error rate" in " ".join(done.stdout.split())


def test_what_pytest_answers_without_a_session_is_refused() -> None:
    done = _pytest("bench/", "--benchmark", "--fixtures")
    assert done.returncode == 4
    assert "--require-baseline with --fixtures would judge nothing" in done.stderr


# ---- the rule itself -----------------------------------------------------------------------------------


class _Config:
    """Of pytest, what the rule reads."""

    def __init__(self, **options: Any) -> None:
        self.options = {"benchmark": True, "case": ["grok1-nano"], "device": "cpu", "nnodes": 1, "node_rank": 0}
        self.options |= {"start_timeout": 1.0, "master_addr": "", "master_port": 1} | options
        self.stash = pytest.Stash()

    def getoption(self, name: str, default: Any = None) -> Any:
        return self.options.get(name.removeprefix("--").replace("-", "_"), default)


def _session(state: Any = None, **options: Any) -> BenchSession:
    config: Any = _Config(**options)
    session = BenchSession(config)
    config.stash[SESSION] = session
    if state is not None:
        session.verdicts = {"grok1-nano": Verdict(state, "grok1-nano", f"{state} is the verdict")}
    return session


@pytest.mark.parametrize("state", ["pass", "improved"])
def test_a_verdict_that_passes_is_enough(state: str) -> None:
    assert why_unjudged(_session(state).config) is None


@pytest.mark.parametrize("state", ["fail", "void", "missing", "inconclusive", "no_baseline"])
def test_a_verdict_that_does_not_pass_fails_where_its_test_was_expected_to(state: str) -> None:
    assert why_unjudged(_session(state).config) == f"{state} is the verdict"


def test_every_case_needs_its_own() -> None:
    session = _session("pass", case=["grok1-nano", "grok1-tiny"])
    assert (why_unjudged(session.config) or "").startswith("grok1-tiny has no verdict: its tests were skipped")


def test_a_case_that_there_is_not_is_named_where_no_test_asked_for_it() -> None:
    config: Any = _Config(case=["nothing"])
    assert (why_unjudged(config) or "").startswith("unknown case 'nothing'; choose from")


def test_a_stored_baseline_whose_case_did_not_run_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session("pass", case=None)
    session.verdicts = {case.name: Verdict("pass", case.name, "") for case in session.cases()}
    monkeypatch.setattr(BenchSession, "baselines", lambda self: [])
    gone = Verdict("missing", "gone", "MISSING: gone has no run to judge")
    monkeypatch.setattr("bench.session.missing", lambda records, baselines: [gone])
    assert why_unjudged(session.config) == gone.sentence


def test_a_node_without_rank_0_judges_nothing_but_must_have_run() -> None:
    session = _session(nnodes=2, node_rank=1, nproc_per_node=1)
    assert (why_unjudged(session.config) or "").startswith("grok1-nano did not run here")
    session.joined.append("grok1-nano")
    assert why_unjudged(session.config) is None
    assert why_unjudged(_session(node_rank=1).config) is not None
