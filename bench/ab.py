"""Two revisions of this project, run in turns on this machine: which is slower, where, and how sure is that? No torch.

A machine that is shared, or that is another one each day, is no match for a stored baseline. What both sides of a
comparison meet alike cancels: runs alternate ABBA ABBA, one process a run, and the i-th run of one side is paired with
the i-th of the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tabulate import tabulate

from bench import gate, ledger_store, metrics
from bench.attribution import attribute
from bench.cases import select
from bench.evidence import FAMILY_ERROR, FIRST_LOOK, MIN_PAIRS, Judgement, decide
from bench.jsonfile import write_model
from bench.ledger import differences, incomparable
from bench.metrics import STEP, family, figures_of, metric_of
from bench.record import Record, Strict
from bench.sides import Name, Side, run, side
from bench.stats import summarise
from bench.worktree import ROOT
from grok1.config import load_recipe

FOLDER = Path("results") / "ab"
LOSS_PERCENT, GRAD_NORM_PERCENT = 2.0, 10.0  # of a step, between the sides: more is another computation
State = Literal["pass", "fail", "improved", "inconclusive", "void"]
Figures = Mapping[str, float]
Pair = tuple[Record, Record]  # base, head


class VoidError(Exception):
    """A pair that must not be compared: fast but wrong is not fast."""


# ---- in which order, and how often one looks ---------------------------------------------------------------


def order(pair: int) -> tuple[Name, Name]:
    """Who runs first in a pair, counted from 0: base head, head base, ... so that a steady drift cancels."""
    return ("head", "base") if pair % 2 else ("base", "head")


def sequential(
    take: Callable[[int], Sequence[tuple[Figures, Figures]]], pairs: int, confirm: int
) -> tuple[dict[str, Judgement], float, int]:
    """The judgement of each metric, the error it was made at, and how many looks it took.

    `take` runs until there are so many pairs and returns all. With `confirm` there are two looks at most: the first at
    a fifth of the error; what it leaves in doubt gets so many more pairs, all judged together at the rest.
    """
    first = FAMILY_ERROR * FIRST_LOOK if confirm else FAMILY_ERROR
    judged = _judged(take(pairs), first)
    if not confirm or deciding(judged)[1] != "inconclusive":
        return judged, first, 1
    rest = FAMILY_ERROR * (1 - FIRST_LOOK)
    return _judged(take(pairs + confirm), rest), rest, 2


def _judged(pairs: Sequence[tuple[Figures, Figures]], error: float) -> dict[str, Judgement]:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    return decide(family(before, after, is_paired=True), error)


def deciding(judged: Mapping[str, Judgement]) -> tuple[str, State]:
    """The metric that makes the verdict, and its state."""
    worst = metrics.deciding({name: each.state for name, each in judged.items()})
    return worst, judged[worst].state


# ---- what may be compared ----------------------------------------------------------------------------------


def check_pair(base: Record, head: Record) -> list[str]:
    """Notes on how the sides differ.

    Raises:
        VoidError: a run cannot be trusted, or the sides do not learn the same.
        ValueError: the sides do not do the same work.
    """
    for name, record in (("base", base), ("head", head)):
        verdict = gate.judge([record], [])
        if verdict.state == "void":
            raise VoidError(f"{name}: {verdict.sentence.removeprefix('VOID: ')}")
    notes = _notes(base, head)
    if apart := _learning_apart(base, head):
        raise VoidError(apart)
    return notes


def _notes(base: Record, head: Record) -> list[str]:
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(base.work, name), getattr(head.work, name))
        for name in ("tokens_per_step", "model_flops_per_step", "parameters_total")
    }
    pairs["layout"] = (base.layout.model_dump(), head.layout.model_dump())
    pairs["device"] = (base.device.name, head.device.name)
    pairs["dtype"] = (base.device.dtype, head.device.dtype)
    pairs["number of steps"] = (len(base.steps), len(head.steps))
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(f"the sides do not do the same work: {name} is {theirs} at base and {ours} at head")
    notes = []
    if base.recipe.hash != head.recipe.hash:
        notes.append(
            f"the recipe's hash is {base.recipe.hash} at base and {head.recipe.hash} at head: its schema or a value "
            "changed; tokens, FLOPs and parameters of a step are equal"
        )
    names = sorted({*base.software, *head.software})
    moved = [(name, base.software.get(name, "absent"), head.software.get(name, "absent")) for name in names]
    notes += [f"{name} is {theirs} at base and {ours} at head" for name, theirs, ours in moved if theirs != ours]
    return notes


def _learning_apart(base: Record, head: Record) -> str | None:
    """The first step whose loss or gradient norm is not the other side's."""
    for theirs, ours in zip(base.steps, head.steps, strict=True):
        for name, before, after, tolerance in (
            ("loss", theirs.loss, ours.loss, LOSS_PERCENT),
            ("grad norm", theirs.grad_norm, ours.grad_norm, GRAD_NORM_PERCENT),
        ):
            if before is None or after is None:
                continue
            if gate.is_apart(after, before, tolerance):
                return (
                    f"step {ours.step + 1}: {name} {after:.6g} at head where base has {before:.6g}, more than "
                    f"{tolerance:g} % apart: head computes something else"
                )
    return None


# ---- the outcome -------------------------------------------------------------------------------------------


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
    state: State


class Outcome(Strict):
    """What a comparison found; --json writes it."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    case: str
    state: State
    sentence: str
    base: SideUsed
    head: SideUsed
    pairs: int
    looks: int  # 0: void
    family_error: Annotated[float, Field(ge=0, le=1)]  # that the last look was made at
    metrics: list[MetricRow] = []
    attribution: str = ""
    ledger: str = ""
    notes: list[str] = []

    def exit_code(self, require_answer: bool) -> int:
        """0 if the change may pass, else 1."""
        return int(self.state in ("fail", "void") or (require_answer and self.state == "inconclusive"))

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


def concluded(
    sides: tuple[SideUsed, SideUsed], pairs: Sequence[Pair], found: tuple[dict[str, Judgement], float, int]
) -> Outcome:
    """The outcome of the pairs and their judgement, without the notes and the ledger."""
    judged, error, looks = found
    before, after = ([figures_of(summarise(pair[side])) for pair in pairs] for side in (0, 1))
    rows = [_row(name, each, before, after) for name, each in judged.items()]
    name, state = deciding(judged)
    row = next(each for each in rows if each.name == name)
    return Outcome(
        case=pairs[0][0].case,
        state=state,
        sentence=_sentence(pairs[0][0].case, sides, row, judged[name]),
        base=sides[0],
        head=sides[1],
        pairs=len(pairs),
        looks=looks,
        family_error=error,
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


# ---- running both sides ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What to compare and how; `head` None is the working tree as it is."""

    base: str
    head: str | None
    case: str
    pairs: int = 5
    confirm: int = 0
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    device: str | None = None
    results: Path = FOLDER
    root: Path = ROOT

    def __post_init__(self) -> None:
        select([self.case], "cpu")  # refuses a case that is none
        if self.pairs < MIN_PAIRS or self.confirm < 0:
            raise ValueError(
                f"--pairs {self.pairs} --confirm {self.confirm}: {MIN_PAIRS} pairs at least, and no less than none more"
            )

    @property
    def own_recipe(self) -> str | None:
        """In place of the case's; a file is the same one for both sides, which run elsewhere."""
        is_file = self.recipe is not None and self.recipe.endswith(".toml")
        return str(Path(self.recipe).resolve()) if self.recipe is not None and is_file else self.recipe

    @property
    def words(self) -> list[str]:
        """Of a run's command line, the same for both sides."""
        options = [("case", self.case), ("recipe", self.own_recipe), ("steps", self.steps), ("device", self.device)]
        options += [("set", each) for each in self.overrides]
        # joined: pytest takes a path that stands alone for one of tests, and looks for its settings above it
        return [f"--{name}={value}" for name, value in options if value is not None]


def compare(request: Request) -> Outcome:
    """Run both sides in turns and judge them.

    Raises:
        ValueError: a side is none, refuses its input, or does not do the other's work.
        RunFailedError: a run broke.
    """
    with ExitStack() as stack:
        base = stack.enter_context(side("base", request.base, request.results, request.root))
        head = stack.enter_context(side("head", request.head, request.results, request.root))
        meeting = _Meeting(request, base, head)
        with _shown(request) as show:
            meeting.show = show
            try:
                found = sequential(meeting.take, request.pairs, request.confirm)
            except VoidError as reason:
                return meeting.void(str(reason))
        outcome = concluded((_used(base), _used(head)), meeting.pairs, found)
        ledger = _ledger(request, base, head) if outcome.state in ("fail", "improved") else ""
    return outcome.model_copy(update={"ledger": ledger, "notes": meeting.notes})


def _used(side: Side) -> SideUsed:
    return SideUsed(
        name=side.name,
        revision=side.revision,
        sha=side.sha,
        changed=side.changed,
        records=[record.id for record in side.records],
    )


def write(path: Path, outcome: Outcome) -> None:
    """Write all that was found as JSON, atomically."""
    write_model(path, outcome)


class _Meeting:
    """The two sides' runs, pair by pair."""

    def __init__(self, request: Request, base: Side, head: Side) -> None:
        self.request = request
        self.sides: dict[Name, Side] = {"base": base, "head": head}
        self.pairs: list[Pair] = []
        self.notes: list[str] = []
        self.show: _Show = _Show(None, 0)

    def take(self, count: int) -> list[tuple[Figures, Figures]]:
        self.show.total(count)
        while len(self.pairs) < count:
            index = len(self.pairs)
            for name in order(index):
                self.show.running(index, name)
                self.sides[name].records.append(run(self.sides[name], index, self.request.words))
                self.show.ran()
            base, head = (self.sides[name].records[-1] for name in ("base", "head"))
            self.notes = check_pair(base, head)
            self.pairs.append((base, head))
            before, after = (summarise(each).median_step_seconds for each in (base, head))
            self.show.pair(index, before, after)
        return [(figures_of(summarise(base)), figures_of(summarise(head))) for base, head in self.pairs]

    def void(self, reason: str) -> Outcome:
        return Outcome(
            case=self.request.case,
            state="void",
            sentence=f"VOID: {self.request.case} cannot be compared: {reason}",
            base=_used(self.sides["base"]),
            head=_used(self.sides["head"]),
            pairs=len(self.pairs),
            looks=0,
            family_error=0.0,
            notes=self.notes,
        )


def _ledger(request: Request, base: Side, head: Side) -> str:
    """Whether the exact cost of the step moved as well: then the program changed, not only its speed."""
    recipe, changes = request.own_recipe or select([request.case], "cpu")[0].recipe, list(request.overrides)
    print("counting the exact cost of a step on both sides", file=sys.stderr)
    try:
        before = ledger_store.counted_in(base.tree, recipe, changes, base.python)
        if request.head is None:
            after = ledger_store.counted(load_recipe(recipe, changes))
        else:
            after = ledger_store.counted_in(head.tree, recipe, changes, head.python)
    except (ValueError, RuntimeError) as error:
        return f"The exact cost of a step was not counted: {str(error).splitlines()[0]}"
    found = differences(before, after)
    reasons = [f"- not the same thing: {reason}" for reason in incomparable(before, after)]
    if not found:
        return "\n".join(["The exact cost of a step (docs/ledger.md) is the same on both sides.", *reasons])
    return "\n".join(["The exact cost of a step (docs/ledger.md) moved:", *reasons, "", ledger_store.table(found)])


# ---- what a person sees meanwhile --------------------------------------------------------------------------


class _Show:
    """A line a pair on the errors; on a terminal also a bar of runs."""

    def __init__(self, bar: Progress | None, pairs: int) -> None:
        self._bar, self._pairs = bar, pairs
        self._task = None if bar is None else bar.add_task("", total=2 * pairs)

    def total(self, pairs: int) -> None:
        if pairs > self._pairs > 0:
            self.line(f"in doubt at the first look: {pairs - self._pairs} more pairs, then the last look")
        self._pairs = pairs
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=2 * pairs)

    def running(self, index: int, name: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"pair {index + 1} of {self._pairs}, {name} runs")

    def ran(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def pair(self, index: int, base: float, head: float) -> None:
        self.line(
            f"pair {index + 1} of {self._pairs}: base {base:.3g} s/step, head {head:.3g} ({head / base - 1:+.1%})"
        )

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def _shown(request: Request) -> Iterator[_Show]:
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Show(None, request.pairs)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # drawn twice a second: the machine is for the runs
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=2) as bar:
        yield _Show(bar, request.pairs)
