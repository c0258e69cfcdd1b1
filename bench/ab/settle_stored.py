"""Settle doubts about stored records: only where what they are of can run again here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.ab.request import FOLDER, Request
from bench.ab.settle import doubt_of, settle
from bench.cases import select
from bench.git import commit
from bench.host import machine
from bench.judge.baseline import Baseline
from bench.judge.evidence import SECOND_STAGE_ERROR
from bench.judge.verdict import Verdict
from bench.records.record import Record
from bench.records.terminal import plain
from grok1.config.load import load_recipe


def settle_stored(
    groups: Sequence[Sequence[Record]], verdicts: Sequence[Verdict], baselines: Sequence[Baseline]
) -> list[Verdict]:
    """The verdicts, those in doubt decided by A/B or with the reason why not; given in the order of the groups."""
    doubts = {place: found for place, each in enumerate(verdicts) if (found := doubt_of(each))}
    reasons = {place: why_not(groups[place]) for place in doubts}
    able = [place for place in doubts if reasons[place] is None]
    result = list(verdicts)
    for place in doubts:
        if place in able:
            request = partial(_request, groups[place][0])
            share = SECOND_STAGE_ERROR / len(able)
            result[place] = settle([doubts[place]], baselines, request, share, _say)[verdicts[place].case]
        else:
            why = f"--settle could not run A/B: {reasons[place]}"
            result[place] = replace(verdicts[place], sentence=f"{verdicts[place].sentence}; {why}")
    return result


def _say(line: str) -> None:
    print(plain(line, 2000), file=sys.stderr)


def why_not(runs: Sequence[Record]) -> str | None:
    """Why what these records are of cannot run again here; None where it can."""
    first, here = runs[0], machine()
    if any(run.session is None or run.session.machine != here for run in runs):
        return "the records are of another machine, or do not say of which; settle where they were made"
    if first.layout.nodes > 1:
        return f"the records are of {first.layout.nodes} machines, and A/B runs on one"
    ours = commit()
    if ours["sha"] is None or ours["dirty"] is not False:
        return "the working tree has changes, or is no git checkout: nothing says that the records are of it"
    if other := next((run.commit for run in runs if (run.commit.sha, run.commit.dirty) != (ours["sha"], False)), None):
        theirs = f"{(other.sha or 'no commit')[:10]}{' with changes' * bool(other.dirty)}"
        return f"the records are of {theirs}, and {ours['sha'][:10]} is checked out"
    try:
        recipe = load_recipe(select([first.case], "cpu")[0].recipe)
    except ValueError as error:
        return str(error)
    if recipe.hash() != first.recipe.hash:
        return (
            f"the records are of a changed recipe ({first.recipe.hash}, the case's is {recipe.hash()}); "
            "give --settle to the pytest run that makes them"
        )
    return None


def _request(record: Record, case: str, base: str, pairs: int) -> Request:
    """Of the case that a record is of."""
    return Request(
        base=base,
        head=None,
        case=case,
        pairs=pairs,
        steps=len(record.steps),
        device=record.device.kind,
        results=FOLDER.with_name("settle") / case,
    )
