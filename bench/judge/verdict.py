"""A verdict and its rows: what a judgement says, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.judge.attribution import Attribution
from bench.judge.evidence import Evidence
from bench.judge.findings import Finding
from bench.judge.remedy import Remedy
from bench.judge.rule import WORST_FIRST, RowState, VerdictState, exit_code_of

_MOST_NAMED = 5


@dataclass(frozen=True)
class Row:
    """One metric beside one baseline. `limit_percent` is the change beyond which it fails, or that must be ruled out.

    `evidence` says how sure that is, of step seconds; a published figure has none.
    """

    metric: str
    measured: float
    baseline: float
    change_percent: float
    limit_percent: float | None
    state: RowState
    label: str
    source: str
    evidence: Evidence | None = None
    remedy: Remedy | None = None  # where it is inconclusive


@dataclass(frozen=True)
class Refusal:
    """A baseline of the same case or recipe that does not judge, and what differs. A shown one is compared anyway."""

    label: str
    differences: tuple[str, ...]
    is_shown: bool = False
    is_weighed: bool = False  # it has runs enough to know its own noise


@dataclass(frozen=True)
class Measured:
    """What the judged runs of a case measured: medians over the runs."""

    tokens_per_second_per_processor: float
    step_seconds: float
    runs: int


@dataclass(frozen=True)
class Verdict:
    """The judgement of one or more runs of one case."""

    state: VerdictState
    case: str
    sentence: str
    rows: tuple[Row, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    attribution: Attribution | None = None
    findings: tuple[Finding, ...] = ()  # the costliest first
    measured: Measured | None = None  # None where nothing can be trusted, or nothing ran
    which: str = ""  # of several verdicts of one case

    @property
    def name(self) -> str:
        """The case, and which of several."""
        return name_of(self.case, self.which)

    def judged(self, metric: str) -> Row | None:
        """The metric beside the baseline that judges, if one does: of several, the one by which it is worst."""
        rows = [row for row in self.rows if row.metric == metric and row.state != "compared"]
        return min(rows, key=lambda row: WORST_FIRST.index(row.state), default=None)


def name_of(case: str, which: str) -> str:
    """A case, and which of several verdicts of it; `which` is empty where it has one."""
    return f"{case} ({which})" if which else case


def undecided(verdicts: Sequence[Verdict], require_verdict: bool) -> str:
    """The line that must come first where a case has no answer; empty where all have one, or where one fails."""
    if any(each.state in ("void", "fail", "missing") for each in verdicts):
        return ""
    found = [each for each in verdicts if each.state in ("no_baseline", "inconclusive")]
    if not found:
        return ""
    named = ", ".join(f"{each.name} ({each.state.replace('_', ' ')})" for each in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    follows = "which fails, as --require-verdict asks" if require_verdict else "and --require-verdict would fail it"
    return f"NOTHING WAS DECIDED about {named}{more}, {follows}"


def verdict_lines(verdicts: Sequence[Verdict], require_verdict: bool) -> list[str]:
    """What a command says of its verdicts, line by line: first where nothing was decided."""
    return [line for line in (undecided(verdicts, require_verdict), *(each.sentence for each in verdicts)) if line]


def exit_code(verdict: Verdict, require_baseline: bool) -> int:
    """0 if the case may pass a gate, else 1. Where a baseline is required, so is an answer: neither may be missing."""
    return exit_code_of(verdict.state, require_answer=require_baseline)
