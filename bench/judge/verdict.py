"""A verdict, its rows and its exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.judge.attribution import Attribution
from bench.judge.evidence import Evidence
from bench.judge.metrics import STEP

RATE = "tokens_per_second_per_processor"

State = Literal["pass", "fail", "improved", "inconclusive", "no_baseline", "void", "missing"]
# Of cases: what a reader must look at comes first.
WORST_FIRST: tuple[State, ...] = ("void", "fail", "missing", "inconclusive", "no_baseline", "improved", "pass")
RowState = Literal["pass", "fail", "improved", "inconclusive", "compared"]
WORST_ROW_FIRST: tuple[RowState, ...] = ("fail", "inconclusive", "improved", "pass", "compared")
STATE_OF_ROW: dict[RowState, State] = {
    "fail": "fail",
    "inconclusive": "inconclusive",
    "improved": "improved",
    "pass": "pass",
}


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

    @property
    def decides(self) -> bool:
        """Whether the verdict can hang on it: of metrics beside speed, only where there is something to say."""
        return self.state != "compared" and (self.metric in (RATE, STEP) or self.state in ("fail", "improved"))


@dataclass(frozen=True)
class Refusal:
    """A baseline of the same case or recipe that may not be compared, and what differs."""

    label: str
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one or more runs of one case."""

    state: State
    case: str
    sentence: str
    rows: tuple[Row, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    attribution: Attribution | None = None


def exit_code(verdict: Verdict, require_baseline: bool) -> int:
    """0 if the case may pass a gate, else 1. Where a baseline is required, so is an answer: neither may be missing."""
    if verdict.state in ("no_baseline", "inconclusive"):
        return int(require_baseline)
    return int(verdict.state in ("fail", "void", "missing"))
