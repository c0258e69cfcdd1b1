"""What an A/B comparison found, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Annotated, Literal

from pydantic import Field
from tabulate import tabulate

from bench.ab.sequential import Figures, Finding, Role
from bench.judge import rule, words
from bench.judge.attribution import attribute
from bench.judge.evidence import Judgement, MetricState
from bench.judge.metrics import SPEED, STEP, figures_of
from bench.judge.stats import summarise
from bench.records.fields import Strict
from bench.records.markdown import text
from bench.records.record import Record

Pair = tuple[Record, Record]  # base, head
OutcomeState = Literal[MetricState, "void"]


class RevisionUsed(Strict):
    """One of the two revisions: what was asked for, what that was, and the records of its runs."""

    name: Role
    revision: str
    sha: str
    changed: bool  # uncommitted changes ran
    records: list[str]


class MetricRow(Strict):
    """One metric of both revisions; `unit` is what the change and its interval are in."""

    name: str
    title: str
    base_median: float
    head_median: float
    change_percent: float
    unit: words.ChangeUnit
    low_percent: float
    high_percent: float
    visible_percent: float
    alpha: float
    state: MetricState

    @property
    def cells(self) -> tuple[str, ...]:
        """For a row of a table, under `METRIC_HEADERS`."""
        return (
            self.title,
            words.figure(self.name, self.base_median),
            words.figure(self.name, self.head_median),
            words.change(self.name, self.change_percent),
            words.interval(self.low_percent, self.high_percent),
            words.visible(self.name, self.visible_percent).lstrip("+"),
            self.state,
        )


METRIC_HEADERS = ("metric", "base", "head", "change", "interval", "smallest visible", "state")


class Outcome(Strict):
    """What a comparison found; --json writes it."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    case: str
    state: OutcomeState
    sentence: str
    base: RevisionUsed
    head: RevisionUsed
    pairs: int
    looks: int  # stages of the test; 0: void
    family_error: Annotated[float, Field(ge=0, le=1)]  # of the last stage
    metrics: list[MetricRow] = []
    attribution: str = ""
    ledger: str = ""
    notes: list[str] = []

    def exit_code(self, require_answer: bool) -> int:
        """0 if the change may pass, else 1."""
        return rule.exit_code_of(self.state, require_answer)

    @property
    def headline(self) -> str:
        """The answer in a few words: how many times slower or faster, or what would have been seen."""
        found = rule.deciding([(row.name, row.state) for row in self.metrics])
        if found is None:
            return "base and head cannot be compared"
        row = self.metrics[found[0]]
        return _answer(row, found[1]) if row.name in SPEED else _answer_elsewhere(row)

    def as_markdown(self) -> str:
        """The verdict first, then the figures, then where a change is."""
        parts = [self.sentence, ""]
        if self.metrics:
            rows = [row.cells for row in self.metrics]
            parts += [tabulate(rows, METRIC_HEADERS, tablefmt="github", disable_numparse=True), ""]
            parts += [
                f"Medians of {self.pairs} runs of each revision. A change is the mean over pairs. The chance that any "
                f"metric fails without cause is at most {self.family_error:.1%}.",
                "",
            ]
        parts += [f"Where: {self.attribution}.", ""] if self.attribution else []
        parts += [self.ledger, ""] if self.ledger else []
        parts += [f"Note: {text(note)}." for note in self.notes]
        return "\n".join(parts).rstrip()


def _answer(row: MetricRow, state: MetricState) -> str:
    """Of a metric of speed."""
    how_much = f"head is {words.times(row.change_percent, row.low_percent, row.high_percent)}"
    by = "" if row.name == STEP else f" in {row.title}"
    is_seen = row.low_percent > 0 or row.high_percent < 0
    return {
        "fail": f"{how_much} than base{by}",
        "improved": f"{how_much} than base{by}",
        "pass": f"no difference that matters: {how_much}{by}"
        if is_seen
        else f"no difference seen{by}: {words.slowdown(row.visible_percent)} would have been",
        "inconclusive": f"no answer{by}: {row.low_percent:+.1f} to {row.high_percent:+.1f} % of time per step; "
        f"only {words.slowdown(row.visible_percent)} would have been seen",
    }[state]


def _answer_elsewhere(row: MetricRow) -> str:
    """Of another metric, which makes a verdict only where it fails or improves."""
    half = (row.high_percent - row.low_percent) / 2
    amount = f"{abs(row.change_percent):.1f} ± {half:.1f} {row.unit}"
    return f"head has {amount} {'more' if row.change_percent > 0 else 'less'} {row.title} than base"


def concluded(revisions: tuple[RevisionUsed, RevisionUsed], pairs: Sequence[Pair], found: Finding) -> Outcome:
    """The outcome of the pairs and their judgement, without the notes and the ledger."""
    before, after = ([figures_of(summarise(pair[place])) for pair in pairs] for place in (0, 1))
    rows = [_row(name, each, before, after) for name, each in found.judged.items()]
    name, state = found.deciding
    row = next(each for each in rows if each.name == name)
    return Outcome(
        case=pairs[0][0].case,
        state=state,
        sentence=_sentence(pairs[0][0].case, revisions, row, found.judged[name]),
        base=revisions[0],
        head=revisions[1],
        pairs=len(pairs),
        looks=found.stages,
        family_error=found.family_error,
        metrics=rows,
        attribution=attribute(before, after).sentence,
    )


def _row(name: str, judgement: Judgement, before: Sequence[Figures], after: Sequence[Figures]) -> MetricRow:
    evidence = judgement.evidence
    return MetricRow(
        name=name,
        title=words.title(name),
        base_median=median(run[name] for run in before),
        head_median=median(run[name] for run in after),
        change_percent=evidence.change_percent,
        unit=words.change_unit(name),
        low_percent=evidence.low_percent,
        high_percent=evidence.high_percent,
        visible_percent=evidence.visible_percent,
        alpha=judgement.alpha,
        state=judgement.state,
    )


def _sentence(case: str, revisions: tuple[RevisionUsed, RevisionUsed], row: MetricRow, judgement: Judgement) -> str:
    evidence = judgement.evidence
    base, head = (f"at {each.revision} ({each.sha[:10]}{' with changes' * each.changed})" for each in revisions)
    remedy = "give more --pairs or --steps, or a quieter machine"
    before, after = (words.figure(row.name, value) for value in (row.base_median, row.head_median))
    return (
        f"{row.state.upper()}: {case}{words.compared(row.name, row.change_percent, head, base)} "
        f"({words.told_interval(evidence, judgement.alpha)}, {evidence.runs[0]} pairs): {before} became {after}; "
        f"{words.ending(row.state, evidence, 'pairs', '', remedy)}"
    )
