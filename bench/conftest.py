"""Fixtures of the benchmark run: what the options mean, where results go, the report at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.announced import announced
from bench.history import store as history
from bench.history import words as history_words
from bench.judge.verdict import undecided
from bench.outputs import end_refused, let_go, refuse_lost_outputs
from bench.session import SESSION, BenchSession, why_unjudged
from grok1.distributed.launch import preload_in_ranks

_SEVERAL_NODES = "test_pretrain.py"
_PARTS = "--parts"
_OPTION_OF = {
    "test_ledger.py": "--ledgers",
    "test_judging.py": "--harness",
    "test_overhead.py": "--harness",
    "test_peers.py": "--peers",
    "test_plan.py": "--plan",
}  # the others' is --parts
_MINUTES = {"--parts": 1, "--ledgers": 1, "--harness": 2, "--peers": 10, "--plan": 13}  # at most, on two free cores
_ONLY_WHEN_ASKED = {"--harness", "--peers", "--plan"}
_ROOM = Path(__file__).parent


# the ledger's counting may launch first, and the forkserver starts once
preload_in_ranks("grok1.training.run")


def _session(config: pytest.Config) -> BenchSession:
    return config.stash.setdefault(SESSION, BenchSession(config))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark"):
        refuse_lost_outputs(config, os.environ.get("GITHUB_STEP_SUMMARY"))


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    let_go(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs once a selected row of the table."""
    if "case" not in metafunc.fixturenames:
        return
    try:
        cases = _session(metafunc.config).cases()
    except ValueError:  # said when all is collected
        cases = []
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """--case means that case alone: files that no option asks for are not even imported, which takes seconds.

    A file that is named always runs, as the main job does; the others as their option says.
    """
    named = {Path(word.partition("::")[0]).name for word in config.args}
    is_ours = collection_path.parent == _ROOM and collection_path.name.startswith("test_")
    if not is_ours or collection_path.name in {_SEVERAL_NODES, *named} or _asked(config, collection_path):
        return None
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A job of several nodes is test_pretrain.py's alone."""
    nnodes = config.getoption("--nnodes")
    if nnodes == 1:
        return
    skip = pytest.mark.skip(reason=f"runs on one machine; --nnodes {nnodes} is for bench/{_SEVERAL_NODES}")
    for item in items:
        if _ROOM in item.path.parents and item.path.name != _SEVERAL_NODES:
            item.add_marker(skip)


def _option_of(path: Path) -> str:
    return _OPTION_OF.get(path.name, _PARTS)


def _asked(config: pytest.Config, path: Path) -> bool:
    option = _option_of(path)
    return config.getoption(option) or not (config.getoption("--case") or option in _ONLY_WHEN_ASKED)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Judge the options before anything runs; a mistake would end the session in any case. Then say what will run."""
    config = session.config
    end_refused(config)
    ours = [item for item in session.items if _ROOM in item.path.parents]
    if not config.getoption("--benchmark") or config.getoption("collectonly") or not ours:
        return
    asked, trains = _session(config), any("case" in getattr(item, "fixturenames", ()) for item in ours)
    try:
        asked.check() if trains else asked.cases()
        past = asked.results / history.FILE_NAME
        told = announced(asked.cases(), asked.job, asked.told_runs, past) if trains else []
    except ValueError as error:
        pytest.exit(str(error), returncode=2)
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        for line in [*told, *_others_told(config, [item for item in ours if item.path.name != _SEVERAL_NODES])]:
            reporter.write_line(line)


def _others_told(config: pytest.Config, others: list[pytest.Item]) -> list[str]:
    """The benchmarks beside the main job, in one line."""
    if not others:
        return []
    minutes = sum(_MINUTES[option] for option in {_option_of(item.path) for item in others})
    what = f"{len(others)} other benchmark{'s' * (len(others) > 1)}"
    left_out_by = "" if config.getoption("--case") else " (--case NAME leaves them out)"
    return [f"and {what}, about {minutes} min on two free cores{left_out_by}"]


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[BenchSession]:
    """The session's settings; writes the report when the last test is done."""
    session: BenchSession = _session(request.config)
    yield session
    if session.records or session.missing:
        try:
            session.report = _write_report(session)
        except ValueError as error:
            pytest.fail(f"the report was not written, the records are in {session.results}: {error}", pytrace=False)
        finally:
            session.history = _remember(session)


def _write_report(session: BenchSession) -> Path:
    from reports.document import write_report

    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    return write_report(
        session.records,
        session.baselines(),
        session.results / "report",
        step_summary=Path(summary) if summary else None,
        ledgers=session.ledgers,
        missing=session.missing,
        verdicts=None if session.verdicts is None else list(session.verdicts.values()),
        expectations=session.expectations(),
    )


def _remember(session: BenchSession) -> str:
    """Append the records to the history; a history that cannot be read fails no benchmark."""
    path = session.results / history.FILE_NAME
    try:
        added = history.append(
            path, session.records, {case: verdict.state for case, verdict in (session.verdicts or {}).items()}
        )
    except ValueError as error:
        return f"nothing was added to the history: {error}"
    return history_words.appended(path, added)


def pytest_why_unjudged(config: pytest.Config) -> str:
    """For --require-baseline, which bench/options.py holds a session to."""
    return why_unjudged(config) or ""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is None or session.report is None:
        return
    terminalreporter.section("performance report")
    if line := undecided(list((session.verdicts or {}).values()), session.require_baseline):
        terminalreporter.write_line(line)
    terminalreporter.write_line(session.report.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    terminalreporter.write_line(f"report: {session.report}")
    terminalreporter.write_line(session.history)
