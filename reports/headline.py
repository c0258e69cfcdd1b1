"""The first line of a report: the verdict, how much, and how sure. The whole sentence follows below it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.case_figures import step_seconds, tokens_rate
from bench.judge.metrics import RATE, SPEED
from bench.judge.rule import WORST_FIRST, deciding
from bench.judge.verdict import Row, Verdict
from bench.judge.words import change_unit, title
from reports.case import CaseResult
from reports.formats import rate_unit, seconds_unit
from reports.markdown import state_words
from reports.tables.side_by_side import in_short
from reports.tables.sides import are_several


def headline(cases: Sequence[CaseResult]) -> str:
    """One case's verdict in a few words, or how many cases have which."""
    if len(cases) == 1:
        return verdict_line(cases[0])
    states = [case.verdict.state for case in cases]
    counts = [f"{states.count(state)} {state_words(state)}" for state in WORST_FIRST if state in states]
    return f"{state_words(cases[0].verdict.state).upper()}: {len(cases)} cases, {', '.join(counts)}"


def verdict_line(case: CaseResult) -> str:
    """A verdict in a few words; its own sentence where there is no figure to say it by."""
    verdict, row = case.verdict, deciding_row(case.verdict)
    word = state_words(verdict.state).upper()
    if row is not None:
        # beside a published figure its own metric is told, as the sentence below tells it
        shown = row if row.evidence is not None else verdict.judged(RATE) or row
        return f"{word}: {verdict.name} {_told(shown)}"
    apart = in_short(case)
    if apart is not None and (verdict.state == "no_baseline" or are_several(case.measured)):
        return f"{word}: {verdict.name}, side by side: {apart}"
    if verdict.state == "no_baseline" and case.measured:
        return f"{word}: {verdict.name} ran at {_measured(case)}"
    return verdict.sentence


def _measured(case: CaseResult) -> str:
    summaries = [run.summary for run in case.measured]
    rate, step = tokens_rate(summaries), step_seconds(summaries)
    seconds = seconds_unit([step])
    return f"{rate_unit([rate]).of(rate)} tokens/s/p ({seconds.of(step)} {seconds.per('step')})"


def deciding_row(verdict: Verdict) -> Row | None:
    """The row that makes the verdict."""
    found = deciding([(row.metric, row.state) for row in verdict.rows])
    return verdict.rows[found[0]] if found and verdict.state == found[1] else None


def _told(row: Row) -> str:
    if row.evidence is None:
        percent = row.change_percent if row.metric == RATE else -row.change_percent
        return f"ran {abs(percent):.1f} % {'faster' if percent > 0 else 'slower'} than its baseline"
    found = row.evidence
    percent, low, high = found.change_percent, found.low_percent, found.high_percent
    is_speed = row.metric in (RATE, *SPEED)
    if row.state == "pass" and is_speed:
        return f"is as fast as its baseline ({percent:+.1f} % time a step, {low:+.1f} to {high:+.1f})"
    if row.state == "inconclusive" and is_speed:
        return f"may be slower or not ({percent:+.1f} % time a step, {low:+.1f} to {high:+.1f})"
    if percent < 0:
        percent, low, high = -percent, -high, -low
    more, less = ("slower", "faster") if is_speed else (f"more {title(row.metric)}", f"less {title(row.metric)}")
    verb = "is" if is_speed else "has"
    unit = "%" if is_speed else change_unit(row.metric)
    return f"{verb} {percent:.1f} {unit} {less if found.change_percent < 0 else more} ({low:.1f} to {high:.1f})"
