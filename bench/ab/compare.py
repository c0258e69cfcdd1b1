"""Two revisions of this project, run in turns on this machine: which is slower, where, and how sure is that? No torch.

Where the machine is shared, or is a different one each day, a stored baseline does not help. Here, what disturbs both
revisions alike cancels: runs alternate ABBA ABBA, one process per run, and the i-th run of one is paired with the i-th
of the other.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.ab.checkouts import Checkout, checkout, run
from bench.ab.outcome import Outcome, Pair, RevisionUsed, concluded
from bench.ab.progress import RunProgress, run_progress
from bench.ab.request import Request
from bench.ab.sequential import Figures, Role, order, sequential
from bench.cases import select
from bench.judge import gate
from bench.judge.baseline import other_versions
from bench.judge.evidence import FAMILY_ERROR
from bench.judge.metrics import figures_of
from bench.judge.parity import first_departure, traces_of
from bench.judge.stats import summarise
from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.schema import differences, incomparable
from bench.records.jsonfile import write_model
from bench.records.markdown import text
from bench.records.origin import why_several_programs
from bench.records.record import Record
from grok1.config.load import load_recipe


class VoidError(Exception):
    """A pair that must not be compared: fast but wrong is not fast."""


def check_pair(base: Record, head: Record) -> list[str]:
    """Notes on how the two runs differ.

    Raises:
        VoidError: a run cannot be trusted, or the two do not learn the same.
        ValueError: the two do not do the same work.
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
            raise ValueError(f"base and head do not do the same work: {name} is {theirs} at base and {ours} at head")
    notes = []
    if base.recipe.hash != head.recipe.hash:
        notes.append(
            f"the recipe's hash is {base.recipe.hash} at base and {head.recipe.hash} at head: its schema or a value "
            "changed; tokens, FLOPs and parameters of a step are equal"
        )
    moved = other_versions(head.software, base.software)
    return notes + [f"{name} is {theirs} at base and {ours} at head" for name, ours, theirs in moved]


def _learning_apart(base: Record, head: Record) -> str | None:
    """The first step whose loss or gradient norm is not the other revision's."""
    found = first_departure(ours=traces_of(head.steps), theirs=traces_of(base.steps))
    if found is None:
        return None
    step = head.steps[found.index].number
    return f"step {step}: {found.told('at head where base has')}: head computes something else"


def compare(request: Request, family_error: float = FAMILY_ERROR) -> Outcome:
    """Run both revisions in turns and judge them, at this family-wise error.

    Raises:
        ValueError: a revision does not exist, refuses its input, or does not do the other's work.
        RunFailedError: a run broke.
    """
    with ExitStack() as stack:
        base = stack.enter_context(checkout("base", request.base, request.results, request.root))
        head = stack.enter_context(checkout("head", request.head, request.results, request.root))
        runs = _PairedRuns(request, base, head)
        with run_progress(request) as progress:
            runs.progress = progress
            try:
                found = sequential(runs.take, request.pairs, request.confirm, family_error)
            except VoidError as reason:
                return runs.void(str(reason))
        outcome = concluded((_used(base), _used(head)), runs.pairs, found)
        ledger = _ledger(request, base, head) if outcome.state in ("fail", "improved") else ""
    return outcome.model_copy(update={"ledger": ledger, "notes": runs.notes})


def write(path: Path, outcome: Outcome) -> None:
    """Write all that was found as JSON, atomically."""
    write_model(path, outcome)


def _used(checkout: Checkout) -> RevisionUsed:
    return RevisionUsed(
        name=checkout.name,
        revision=checkout.revision,
        sha=checkout.sha,
        changed=checkout.changed,
        records=[record.id for record in checkout.records],
    )


class _PairedRuns:
    """The runs of both revisions, pair by pair."""

    def __init__(self, request: Request, base: Checkout, head: Checkout) -> None:
        self.request = request
        self.checkouts: dict[Role, Checkout] = {"base": base, "head": head}
        self.pairs: list[Pair] = []
        self.notes: list[str] = []
        self.progress: RunProgress = RunProgress(None, 0)

    def take(self, count: int) -> list[tuple[Figures, Figures]]:
        self.progress.total(count)
        while len(self.pairs) < count:
            index = len(self.pairs)
            for name in order(index):
                self.progress.running(index, name)
                self.checkouts[name].records.append(run(self.checkouts[name], index, self.request.words))
                self.progress.ran()
            for name, side in self.checkouts.items():
                if edited := why_several_programs([side.records[0], side.records[-1]]):
                    raise VoidError(f"{name}: {edited}; leave its files as they are until the comparison ends")
            base, head = (self.checkouts[name].records[-1] for name in ("base", "head"))
            self.notes = check_pair(base, head)
            self.pairs.append((base, head))
            before, after = (summarise(each).median_step_seconds for each in (base, head))
            self.progress.pair(index, before, after)
        return [(figures_of(summarise(base)), figures_of(summarise(head))) for base, head in self.pairs]

    def void(self, reason: str) -> Outcome:
        return Outcome(
            case=self.request.case,
            state="void",
            sentence=f"VOID: {self.request.case} cannot be compared: {reason}",
            base=_used(self.checkouts["base"]),
            head=_used(self.checkouts["head"]),
            pairs=len(self.pairs),
            looks=0,
            family_error=0.0,
            notes=self.notes,
        )


def _ledger(request: Request, base: Checkout, head: Checkout) -> str:
    """Whether the exact cost of the step moved as well: then the program changed, not only its speed."""
    recipe, changes = request.own_recipe or select([request.case], "cpu")[0].recipe, list(request.overrides)
    print("counting the exact cost of a step at both revisions", file=sys.stderr)
    try:
        before = ledger_store.counted_in(base.tree, recipe, changes, base.python)
        if request.head is None:
            after = ledger_store.counted(load_recipe(recipe, changes))
        else:
            after = ledger_store.counted_in(head.tree, recipe, changes, head.python)
    except (ValueError, RuntimeError) as error:
        return f"The exact cost of a step was not counted: {text(str(error).splitlines()[0])}"
    found = differences(before, after)
    reasons = [f"- not comparable: {text(reason)}" for reason in incomparable(before, after)]
    if not found:
        return "\n".join(["The exact cost of a step (docs/ledger.md) is the same at both revisions.", *reasons])
    return "\n".join(["The exact cost of a step (docs/ledger.md) moved:", *reasons, "", ledger_text.table(found)])
