"""Two revisions of this project, run in turns on this machine: which is slower, where, and how sure is that? No torch.

A machine that is shared, or that is another one each day, is no match for a stored baseline. What both sides of a
comparison meet alike cancels: runs alternate ABBA ABBA, one process a run, and the i-th run of one side is paired with
the i-th of the other.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.ab.outcome import Outcome, Pair, concluded, side_used
from bench.ab.request import Request
from bench.ab.sequential import Figures, order, sequential
from bench.ab.show import Show, shown
from bench.ab.sides import Name, Side, run, side
from bench.cases import select
from bench.judge import gate
from bench.judge.metrics import figures_of
from bench.judge.parity import first_departure, traces_of
from bench.judge.stats import summarise
from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.schema import differences, incomparable
from bench.records.jsonfile import write_model
from bench.records.record import Record
from grok1.config.load import load_recipe


class VoidError(Exception):
    """A pair that must not be compared: fast but wrong is not fast."""


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
    """The first step whose loss or gradient norm is not the other revision's."""
    found = first_departure(ours=traces_of(head.steps), theirs=traces_of(base.steps))
    if found is None:
        return None
    return (
        f"step {head.steps[found.index].step + 1}: {found.name} {found.ours:.6g} at head where base has "
        f"{found.theirs:.6g}, more than {found.tolerance_percent:g} % apart: head computes something else"
    )


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
        with shown(request) as show:
            meeting.show = show
            try:
                found = sequential(meeting.take, request.pairs, request.confirm)
            except VoidError as reason:
                return meeting.void(str(reason))
        outcome = concluded((side_used(base), side_used(head)), meeting.pairs, found)
        ledger = _ledger(request, base, head) if outcome.state in ("fail", "improved") else ""
    return outcome.model_copy(update={"ledger": ledger, "notes": meeting.notes})


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
        self.show: Show = Show(None, 0)

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
            base=side_used(self.sides["base"]),
            head=side_used(self.sides["head"]),
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
    return "\n".join(["The exact cost of a step (docs/ledger.md) moved:", *reasons, "", ledger_text.table(found)])
