"""What an A/B comparison found, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Annotated, Literal

from pydantic import Field
from tabulate import tabulate

from bench.ab.sequential import Figures, Finding
from bench.ab.sides import Name, Side
from bench.judge.attribution import attribute
from bench.judge.evidence import Judgement, MetricState
from bench.judge.metrics import STEP, figures_of, metric_of
from bench.judge.rule import exit_code_of
from bench.judge.stats import summarise
from bench.records.fields import Strict
from bench.records.record import Record

Pair = tuple[Record, Record]  # base, head
OutcomeState = Literal[MetricState, "void"]


class SideUsed(Strict):
    """One side: what was asked for and what that was."""

    name: Name
    revision: str
    sha: str
    changed: bool  # uncommitted changes ran
    records: list[str]


class MetricRow(Strict):
    """One metric of both sides; `unit` is what the change and its interval are in."""

    name: str
    title: str
    base_median: float
    head_median: float
    change_percent: float
    unit: Literal["%", "% of a step"]
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
    base: SideUsed
    head: SideUsed
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
                f"Medians of {self.pairs} runs a side; changes are means over pairs, their intervals share an error of "
                f"{self.family_error:.1%} each way.",
                "",
            ]
        parts += [f"Where: {self.attribution}.", ""] if self.attribution else []
        parts += [self.ledger, ""] if self.ledger else []
        parts += [f"Note: {note}." for note in self.notes]
        return "\n".join(parts).rstrip()


def _cells(row: MetricRow) -> tuple[str, ...]:
    size, unit = (2**30, " GiB") if row.name == "peak_bytes" else (1, " s")
    return (
        row.title,
        f"{row.base_median / size:.4g}{unit}",
        f"{row.head_median / size:.4g}{unit}",
        f"{row.change_percent:+.2f} {row.unit}",
        f"{row.low_percent:+.2f} to {row.high_percent:+.2f}",
        f"{row.visible_percent:.2f} {row.unit}",
        row.state,
    )


def concluded(sides: tuple[SideUsed, SideUsed], pairs: Sequence[Pair], found: Finding) -> Outcome:
    """The outcome of the pairs and their judgement, without the notes and the ledger."""
    before, after = ([figures_of(summarise(pair[side])) for pair in pairs] for side in (0, 1))
    rows = [_row(name, each, before, after) for name, each in found.judged.items()]
    name, state = found.deciding
    row = next(each for each in rows if each.name == name)
    return Outcome(
        case=pairs[0][0].case,
        state=state,
        sentence=_sentence(pairs[0][0].case, sides, row, found.judged[name]),
        base=sides[0],
        head=sides[1],
        pairs=len(pairs),
        looks=found.stages,
        family_error=found.family_error,
        metrics=rows,
        attribution=attribute(before, after).sentence,
    )


def _row(name: str, judgement: Judgement, before: Sequence[Figures], after: Sequence[Figures]) -> MetricRow:
    metric = metric_of(name)
    assert metric is not None
    evidence = judgement.evidence
    return MetricRow(
        name=name,
        title=metric.title,
        base_median=median(run[name] for run in before),
        head_median=median(run[name] for run in after),
        change_percent=evidence.change_percent,
        unit="%" if metric.scale == "ratio" else "% of a step",
        low_percent=evidence.low_percent,
        high_percent=evidence.high_percent,
        visible_percent=evidence.visible_percent,
        alpha=judgement.alpha,
        state=judgement.state,
    )


def _sentence(case: str, sides: tuple[SideUsed, SideUsed], row: MetricRow, judgement: Judgement) -> str:
    evidence = judgement.evidence
    base, head = (f"{each.revision} ({each.sha[:10]}{' with changes' * each.changed})" for each in sides)
    what = (
        f"takes {row.change_percent:+.1f} % a step"
        if row.name == STEP
        else (f"{row.title} {row.change_percent:+.1f} {row.unit}")
    )
    endings = {
        "fail": "sure, and above the floor",
        "improved": "sure, and above the floor",
        "pass": f"a slowdown of {evidence.visible_percent:.1f} % would have been seen",
        "inconclusive": (
            f"pairs vary by {evidence.spread_percent:.1f} %, so only {evidence.visible_percent:.1f} % would surely "
            "have been seen; give more --pairs or --steps, or a quieter machine"
        ),
    }
    cells = _cells(row)
    return (
        f"{row.state.upper()}: {case} {what} at {head} against {base}, {row.low_percent:+.1f} to "
        f"{row.high_percent:+.1f} % at {1 - judgement.alpha:.2%} each way over {evidence.runs[0]} pairs: "
        f"{cells[1]} became {cells[2]}; {endings[row.state]}"
    )


def side_used(side: Side) -> SideUsed:
    return SideUsed(
        name=side.name,
        revision=side.revision,
        sha=side.sha,
        changed=side.changed,
        records=[record.id for record in side.records],
    )
