"""What an A/B comparison found, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Annotated, Literal

from pydantic import Field
from tabulate import tabulate

from bench.ab.checkouts import Checkout, Role
from bench.ab.sequential import Figures, Finding
from bench.judge import words
from bench.judge.attribution import attribute
from bench.judge.evidence import Judgement, MetricState
from bench.judge.metrics import figures_of
from bench.judge.rule import exit_code_of
from bench.judge.stats import summarise
from bench.records.fields import Strict
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
        return exit_code_of(self.state, require_answer)

    def as_markdown(self) -> str:
        """The verdict first, then the figures, then where a change is."""
        parts = [self.sentence, ""]
        if self.metrics:
            headers = ("metric", "base", "head", "change", "interval", "smallest visible", "state")
            rows = [_cells(row) for row in self.metrics]
            parts += [tabulate(rows, headers, tablefmt="github", disable_numparse=True), ""]
            parts += [
                f"Medians of {self.pairs} runs of each revision. A change is the mean over pairs. The chance that any "
                f"metric fails without cause is at most {self.family_error:.1%}.",
                "",
            ]
        parts += [f"Where: {self.attribution}.", ""] if self.attribution else []
        parts += [self.ledger, ""] if self.ledger else []
        parts += [f"Note: {note}." for note in self.notes]
        return "\n".join(parts).rstrip()


def _cells(row: MetricRow) -> tuple[str, ...]:
    return (
        row.title,
        words.figure(row.name, row.base_median),
        words.figure(row.name, row.head_median),
        words.change(row.name, row.change_percent),
        words.interval(row.low_percent, row.high_percent),
        words.visible(row.name, row.visible_percent).lstrip("+"),
        row.state,
    )


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


def revision_used(checkout: Checkout) -> RevisionUsed:
    return RevisionUsed(
        name=checkout.name,
        revision=checkout.revision,
        sha=checkout.sha,
        changed=checkout.changed,
        records=[record.id for record in checkout.records],
    )
