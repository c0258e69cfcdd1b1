"""What a benchmark session was asked for, and the records it has made."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bench import places
from bench.ab.request import Request
from bench.ab.settle import doubt_of, settle
from bench.cases import Case, select
from bench.history.session_level import SessionLevel, session_level
from bench.history.store import FILE_NAME as HISTORY_FILE
from bench.judge.baseline import Baseline, load_baselines
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR
from bench.judge.gate import judge_suite, missing
from bench.judge.groups import grouped
from bench.judge.planned_runs import PlannedRuns, planned_runs
from bench.judge.verdict import Verdict, exit_code
from bench.ledger.schema import Ledger
from bench.records.expectation import Expectation
from bench.records.record import MAX_ASKED, MAX_ASKED_CHARACTERS, Record
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind, chosen_kind
from grok1.distributed.launch import check_machine, local_ranks
from grok1.distributed.nodes import Nodes
from grok1.distributed.rendezvous import MOST_SECONDS
from grok1.training.job import Job, prepare

_MOST_WAIT_SECONDS = 3600
_MOST_PLANTED_PERCENT = 1000


@dataclass
class BenchSession:
    """What this benchmark session was asked for, and the records it has made."""

    config: pytest.Config
    records: list[Record] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)  # of recipes that were asked for by name, for the report
    verdicts: dict[str, Verdict] | None = None  # by case
    missing: list[Verdict] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)  # cases whose ranks on this node ended well
    report: Path | None = None
    history: str = ""  # what became of the records in results/history.jsonl

    @property
    def device(self) -> Kind:
        return chosen_kind(self.config.getoption("--device"))

    @property
    def results(self) -> Path:
        return Path(self.config.getoption("--results"))

    @property
    def require_baseline(self) -> bool:
        return bool(self.config.getoption("--require-baseline"))

    def nodes(self) -> Nodes:
        option = self.config.getoption
        return Nodes(
            option("--nnodes"),
            option("--node-rank"),
            option("--master-addr"),
            option("--master-port"),
            option("--nproc-per-node"),
            option("--start-timeout"),
        )

    @property
    def collective_seconds(self) -> float:
        return float(self.config.getoption("--collective-timeout"))

    def cases(self) -> list[Case]:
        return select(self.config.getoption("--case"), self.device)

    @property
    def index_cache(self) -> Path | None:
        given = self.config.getoption("--index-cache")
        return Path(given) if given else None

    def recipe(self, case: Case) -> Recipe:
        """The case's recipe with the command line's changes."""
        return load_recipe(self.config.getoption("--recipe") or case.recipe, self.config.getoption("--set"))

    def job(self, case: Case) -> Job:
        """The case's job with the command line's changes."""
        option = self.config.getoption
        job = prepare(
            self.recipe(case),
            case.steps if option("--steps") is None else option("--steps"),
            Path(option("--data")) if option("--data") else None,
            Path(option("--tokenizer")) if option("--tokenizer") else None,
            shared_storage=not option("--no-shared-storage"),
            index_cache=self.index_cache,
        )
        return replace(job, planted_percent=self.planted_percent())

    @property
    def asked(self) -> list[str]:
        """What the command line changes of every case, as a record says it; nothing where it is longer than that.

        That a corpus was given, but not where on this machine it lies.
        """
        option = self.config.getoption
        given = [("recipe", option("--recipe")), ("steps", option("--steps"))]
        given += [("data", option("--data") and "PREFIX"), ("tokenizer", option("--tokenizer") and "PATH")]
        words = [f"--{name}={value}" for name, value in [*given, *(("set", each) for each in option("--set"))] if value]
        has_room = len(words) <= MAX_ASKED and all(len(word) <= MAX_ASKED_CHARACTERS for word in words)
        return words if has_room else []

    def check(self) -> None:
        """Refuse what the options ask for and no run could give, before anything runs.

        Raises:
            ValueError: one line that says what and what to do.
        """
        cases = self.cases()
        self.baselines(), self.confirm_runs(), self.may_settle, self.session_level(), self.wait_seconds()
        self.expectations()
        self._check_nodes()
        for case in cases:
            try:
                if self.runs(case) < 1:
                    raise ValueError(f"--runs {self.runs(case)} measures nothing; give at least 1")
                recipe = self.recipe(case)
                check_machine(recipe, self.device, local_ranks(self.nodes(), recipe.parallel.world_size))
                self.job(case)
            except ValueError as error:
                raise ValueError(f"{case.name}: {error}") from error
        for option in [*(["--results"] if self.holds_rank_0 else []), "--index-cache"]:
            if given := self.config.getoption(option):
                _make_folder(option, Path(given))

    def _check_nodes(self) -> None:
        self._within("--master-port", 65535, least=1)
        self._within("--start-timeout", MOST_SECONDS, " seconds")
        self._within("--collective-timeout", MOST_SECONDS, " seconds", least=1)
        if self.config.getoption("--nproc-per-node") is not None:
            self._within("--nproc-per-node", math.inf, least=1)

    def runs(self, case: Case) -> int:
        runs = self.config.getoption("--runs")
        return case.runs if runs is None else int(runs)

    def told_runs(self, case: Case) -> str:
        """How often it will run, before that can be known exactly."""
        told = f"{self.runs(case)} run{'s' * (self.runs(case) > 1)}"
        return told if self._runs_are_given else f"{told}, or as many as decide against a stored baseline"

    def planned(self, first: Record) -> PlannedRuns | None:
        """The runs that its baseline takes; None where their number is given, or nothing is stored."""
        if self._runs_are_given:
            return None
        error = FIRST_STAGE_ERROR if self.confirm_runs() or self.may_settle else FAMILY_ERROR
        return planned_runs(first, self.baselines(), self.session_level().level, error / len(self.cases()))

    @property
    def _runs_are_given(self) -> bool:
        """By --runs, or by the case where several nodes would have to agree on another number."""
        return self.config.getoption("--runs") is not None or self.nodes().nnodes > 1

    def wait_seconds(self) -> float:
        """How long a run may wait for a quiet machine.

        Raises:
            ValueError: no such time.
        """
        return self._within("--wait-for-quiet", _MOST_WAIT_SECONDS, " seconds")

    def planted_percent(self) -> float:
        """By how much each step is made longer.

        Raises:
            ValueError: no such share.
        """
        return self._within("--plant-slowdown", _MOST_PLANTED_PERCENT, " percent")

    def _within(self, option: str, most: float, unit: str = "", least: float = 0) -> float:
        value = float(self.config.getoption(option))
        if not least <= value <= most:
            bounds = f"at least {least:g}" if most == math.inf else f"within {least:g} to {most:.0f}"
            raise ValueError(f"{option} {value:g} is not {bounds}{unit}")
        return value

    @property
    def holds_rank_0(self) -> bool:
        return int(self.config.getoption("--node-rank")) == 0

    def baselines(self) -> list[Baseline]:
        given = self.config.getoption("--baselines")
        return load_baselines(Path(given) if given else places.baselines())

    def records_of(self, case: Case) -> list[Record]:
        return [record for record in self.records if record.case == case.name]

    @property
    def may_settle(self) -> bool:
        """Whether a doubt that no run of this session can settle is settled by A/B.

        Raises:
            ValueError: several nodes, of which only one knows the doubt.
        """
        wanted = bool(self.config.getoption("--settle"))
        if wanted and self.nodes().nnodes > 1:
            raise ValueError("--settle needs one machine; run both commits by hand, in turns, and compare them")
        return wanted

    def session_level(self) -> SessionLevel:
        """What is assumed to be between sessions."""
        given = self.config.getoption("--session-spread")
        if given is None:
            return SessionLevel()
        return session_level(given, self.results / HISTORY_FILE, [record.id for record in self.records])

    def ab_request(self, case: str, base: str, pairs: int) -> Request:
        """Of a commit beside the working tree, with what this session runs."""
        option = self.config.getoption
        words = [("--data", self._absolute("--data")), ("--tokenizer", self._absolute("--tokenizer"))]
        words += [("--index-cache", self._absolute("--index-cache")), ("--nproc-per-node", option("--nproc-per-node"))]
        words += [("--collective-timeout", str(self.collective_seconds))]
        return Request(
            base=base,
            head=None,
            case=case,
            pairs=pairs,
            recipe=option("--recipe"),
            overrides=tuple(option("--set")),
            steps=option("--steps"),
            device=self.device,
            results=self.results / "settle" / case,
            more_words=tuple(f"{name}={value}" for name, value in words if value is not None),
        )

    def _absolute(self, name: str) -> str | None:
        given = self.config.getoption(name)
        return str(Path(given).resolve()) if given else None

    def expectations(self) -> list[Expectation]:
        """What is expected of the runs so far, where a device profile is named or known to be of this device.

        A profile that lacks a figure which a job needs costs no report: one line on stderr says so.

        Raises:
            ValueError: the named profile is none, or is damaged.
        """
        from bench.plan.device import load_device
        from bench.plan.expected import known_expectations

        profile = self.config.getoption("--device-profile")
        if profile is not None:
            load_device(profile)  # a damaged one is refused before there are records too
        try:
            return known_expectations(self.records, profile)
        except ValueError as error:
            print(f"warning: nothing is expected of the runs: {error}", file=sys.stderr, flush=True)
            return []

    def confirm_runs(self) -> int:
        """More runs that a doubtful case may have.

        Raises:
            ValueError: several nodes, of which only one knows the doubt.
        """
        more = int(self.config.getoption("--confirm"))
        if more < 0 or (more and self.nodes().nnodes > 1):
            raise ValueError(f"--confirm {more} needs a positive number and one machine; give --runs instead")
        return more

    def settle(self, run_more: Callable[[Case, int], None], say: Callable[[str], None] = print) -> dict[str, Verdict]:
        """The verdict of each case that ran, by name; all their metrics share one error. Judged once, then kept.

        With --confirm or --settle there are two stages (bench.judge.evidence.FIRST_STAGE_SHARE). With --settle, a case
        that no run of this session can decide is decided by A/B; with --confirm, any other that is inconclusive runs
        again, and is judged on all its runs. Both share the error that is left. There is no third stage.
        """
        if self.verdicts is None:
            more, may_settle = self.confirm_runs(), self.may_settle
            self.verdicts = self._judged(FIRST_STAGE_ERROR if more or may_settle else FAMILY_ERROR)
            doubts = [found for each in self.verdicts.values() if may_settle and (found := doubt_of(each))]
            by_ab = {each.verdict.case for each in doubts}
            again = [
                name
                for name, verdict in self.verdicts.items()
                if more and verdict.state == "inconclusive" and name not in by_ab
            ]
            share = SECOND_STAGE_ERROR / max(1, len(doubts) + bool(again))
            for case in self.cases():
                if case.name in again:
                    run_more(case, more)
            if again:
                second = self._judged(share)
                self.verdicts |= {name: second[name] for name in again}
            self.verdicts |= settle(doubts, self.baselines(), self.ab_request, share, say)
        return self.verdicts

    def _judged(self, error: float) -> dict[str, Verdict]:
        found = judge_suite(
            grouped(self.records, self.baselines()), self.baselines(), error, self.session_level().level
        )
        return {each.case: each for each in found}


def _make_folder(option: str, folder: Path) -> None:
    """What is written there comes after hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{option} {folder}: cannot be written: {reason}; choose another folder") from None


SESSION = pytest.StashKey[BenchSession]()


def why_unjudged(config: pytest.Config) -> str | None:
    """With --require-baseline: what keeps this pytest session from being a gate that judged, whatever its tests say.

    A skipped, deselected or expected failure is green to pytest. Here each case needs a verdict that passes; a node
    without rank 0 judges nothing, and needs each case to have run.
    """
    if not config.getoption("--benchmark"):
        return f"no benchmark ran; give {places.RUN_BENCH}"
    session = config.stash.get(SESSION, None) or BenchSession(config)  # there is none where no case was collected
    try:
        cases = [case.name for case in session.cases()]
    except ValueError as error:
        return str(error)
    if not session.holds_rank_0 and session.nodes().nnodes > 1:
        return _left_out("did not run here", [name for name in cases if name not in session.joined], config)
    verdicts = session.verdicts or {}
    for name in cases:
        if name in verdicts and exit_code(verdicts[name], require_baseline=True):
            return verdicts[name].sentence
    if not cases:
        return "there is no case to judge; name one with --case"
    unjudged = _left_out("has no verdict", [name for name in cases if name not in verdicts], config)
    if unjudged is None and not config.getoption("--case"):
        return next((each.sentence for each in missing(session.records, session.baselines())), None)
    return unjudged


# pytest's and pytest-benchmark's options that leave tests out: their names in the configuration
_LEAVING_OUT = {
    "benchmark_only": "--benchmark-only",
    "benchmark_skip": "--benchmark-skip",
    "collectonly": "--collect-only",
    "setuponly": "--setup-only",
    "setupplan": "--setup-plan",
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "lf": "--last-failed",
    "stepwise": "--stepwise",
}


def _left_out(what: str, cases: list[str], config: pytest.Config) -> str | None:
    if not cases:
        return None
    given = [option for name, option in _LEAVING_OUT.items() if config.getoption(name, None)]
    because = (
        f"{', '.join(given)} left its tests out" if given else "its tests were skipped, left out or expected to fail"
    )
    remedy = "give the gate no such option" if given else "run all of bench/test_pretrain.py"
    return f"{', '.join(cases)} {what}: {because}; {remedy}"


def show_in_benchmark_table(benchmark: Any, seconds: Iterable[float]) -> None:
    """Hand times taken in other processes to pytest-benchmark, as if its own fixture had taken them.

    Its public `pedantic` would time the launcher, not the steps, so this uses the fixture's inner statistics.
    """
    stats = benchmark._make_stats(1)
    benchmark._mode = "external"
    for value in seconds:
        stats.update(value)
