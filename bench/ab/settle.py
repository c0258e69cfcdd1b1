"""A doubt that no run in this session can settle: the baseline's commit runs beside the new one, and that decides.

A stored baseline is of another session, whose level may be the whole change. Runs of both commits in turns share the
session. The gate judges first, at `FIRST_STAGE_ERROR`; what it leaves to settle shares `SECOND_STAGE_ERROR`. Both
together are wrong at most as often as one judgement at the whole error. There is no third stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.ab.checkouts import RunFailedError
from bench.ab.compare import compare, write
from bench.ab.outcome import Outcome
from bench.ab.request import Request
from bench.git import commit_of
from bench.judge.baseline import Baseline
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, Evidence, visible_errors
from bench.judge.metrics import SPEED, SPEED_WEIGHT, STEP
from bench.judge.remedy import AB_PAIRS, Remedy, base_of, told_time
from bench.judge.verdict import Row, Verdict
from bench.judge.words import compared, session_level

MAX_PAIRS = 10
FILE_NAME = "settled.json"


@dataclass(frozen=True)
class Doubt:
    """A verdict that the level of another session, or a busier machine, keeps from an answer, by this row of it."""

    verdict: Verdict
    row: Row
    evidence: Evidence
    remedy: Remedy


def doubt_of(verdict: Verdict) -> Doubt | None:
    """What A/B would settle; None where there is an answer, or where more runs in this session would give one.

    Also a change that is no suspicion may hide behind the level of a session: one that would make the program look
    faster hides a slowdown. So all is settled that no number of runs in this session can.
    """
    if verdict.state != "inconclusive":
        return None
    rows = [row for row in verdict.rows if row.metric in SPEED and row.state == "inconclusive"]
    found = [
        Doubt(verdict, row, row.evidence, row.remedy)
        for row in rows
        if row.evidence is not None and row.remedy is not None
        if row.evidence.session_percent is not None or row.remedy.excuse
    ]
    suspected = [each for each in found if each.remedy.excuse or each.remedy.is_suspicion]
    return next(iter(suspected or [each for each in found if each.remedy.runs is None]), None)


def pairs_for(doubt: Doubt, baseline: Baseline, error: float) -> int:
    """As many pairs as show a slowdown of the tolerance, if runs vary as these did: between `AB_PAIRS` and 10."""
    spread = math.sqrt(2) * math.log1p(doubt.evidence.spread_percent / 100)  # of a pair, if it shares nothing
    limit = -math.log1p(-baseline.tolerance_percent / 100)
    enough = (
        pairs
        for pairs in range(AB_PAIRS, MAX_PAIRS)
        if visible_errors(error * SPEED_WEIGHT, pairs - 1) * spread / math.sqrt(pairs) <= limit
    )
    return next(enough, MAX_PAIRS)


def settle(
    doubts: Sequence[Doubt],
    baselines: Sequence[Baseline],
    request: Callable[[str, str, int], Request],
    error: float,
    say: Callable[[str], None],
) -> dict[str, Verdict]:
    """The verdict of each case in doubt, by name.

    `request` takes a case, the baseline's commit and a number of pairs. Each is judged at `error`. What is about to
    run, and at what error, is said beforehand. Where A/B cannot run, the verdict says why and stays inconclusive.
    """
    by_label = {each.label: each for each in baselines}
    return {each.verdict.case: _settled(each, by_label[each.row.label], request, error, say) for each in doubts}


def _settled(
    doubt: Doubt,
    baseline: Baseline,
    request: Callable[[str, str, int], Request],
    error: float,
    say: Callable[[str], None],
) -> Verdict:
    case = doubt.verdict.case
    try:
        base, pairs = base_of(baseline), pairs_for(doubt, baseline, error)
        wanted = request(case, base, pairs)
        commit_of(base, wanted.root)
        say(_announced(doubt, wanted, error))
        outcome = compare(wanted, error)
    except (ValueError, RunFailedError) as reason:
        why = f"--settle could not run A/B: {' '.join(str(reason).split())[-1500:]}"
        say(f"{case}: {why}")
        return replace(doubt.verdict, sentence=f"{doubt.verdict.sentence}; {why}")
    write(wanted.results / FILE_NAME, outcome)
    return decided(doubt, outcome)


def _announced(doubt: Doubt, wanted: Request, error: float) -> str:
    takes = told_time(2 * wanted.pairs * doubt.remedy.process_seconds)
    return (
        f"{doubt.verdict.case} is in doubt: {_suspicion(doubt)}. A/B settles it: {2 * wanted.pairs} runs "
        f"(about {takes}), {wanted.base[:10]} and the working tree in turns, judged at an error of "
        f"{error:.2%}; with the gate's {FIRST_STAGE_ERROR:.2%} at most {FAMILY_ERROR:.0%} in all"
    )


def _suspicion(doubt: Doubt) -> str:
    """What the gate saw, and why that was no answer."""
    seen = compared(doubt.row.metric, doubt.evidence.change_percent, "", f"in {doubt.row.label}").lstrip(" :")
    seen = f"{'it ' * (doubt.row.metric == STEP)}{seen}"
    if doubt.remedy.excuse:
        return f"{seen}, and {doubt.remedy.excuse}"
    level = session_level(doubt.evidence)
    verb = "could be the whole of it" if doubt.remedy.is_suspicion else "hides any smaller change"
    return f"{seen}, and the level of a session ({level}) {verb}"


def decided(doubt: Doubt, outcome: Outcome) -> Verdict:
    """The verdict of A/B, which says what the gate suspected too."""
    sentence = f"{outcome.sentence}. Settled by A/B in this session, as the gate could not: {_suspicion(doubt)}"
    if outcome.attribution:
        sentence += f". Where: {outcome.attribution}"
    return replace(doubt.verdict, state=outcome.state, sentence=sentence)
