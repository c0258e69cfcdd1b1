"""A judgement in words: a metric's title, a figure with its unit, a change, its interval, and a verdict's sentence.

The gate, the A/B comparison, the commands and the reports all take their words from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from bench.judge.evidence import FAMILY_ERROR, MIN_RUNS_TO_DECIDE, Evidence, MetricState
from bench.judge.metrics import MEAN, RATE, SPEED, STEP, metric_of
from bench.judge.verdict import Refusal, Row

ChangeUnit = Literal["%", "% of a step"]

MAX_VISIBLE_PERCENT = 900.0  # ten times as long
_MOST_LACKING = 2
_NONE_VISIBLE = "none below tenfold"
_ENOUGH = "significant, and above the floor"
_REFRESH = "store a fresh baseline, so that losing this speed again is noticed"


def title(name: str) -> str:
    """A metric as people call it."""
    if name == RATE:
        return "tokens/s/p"
    metric = metric_of(name)
    return name if metric is None else metric.title


def figure(name: str, value: float) -> str:
    """A metric's figure with its unit; the title of a rate says its own."""
    if name.endswith("_bytes"):
        return f"{value / 2**30:.3f} GiB"
    return f"{value:,.5g}" if name == RATE else f"{value:.4g} s"


def stored(name: str, value: float) -> str:
    """A baseline's figure; of a rate with all digits that a source is likely to have."""
    return f"{value:,.7g}" if name == RATE else figure(name, value)


def change_unit(name: str) -> ChangeUnit:
    """What a metric's change and its interval are in."""
    metric = metric_of(name)
    return "% of a step" if metric is not None and metric.scale == "of a step" else "%"


def change(name: str, percent: float) -> str:
    """A metric's change; + is more of it."""
    return f"{percent:+.2f} {change_unit(name)}"


def interval(low_percent: float, high_percent: float) -> str:
    """The confidence interval of a change, in the change's unit."""
    return f"{low_percent:+.2f} to {high_percent:+.2f}"


def of_rate(percent_of_seconds: float) -> float:
    """What a change of a step's seconds is of tokens a second."""
    return 100 * (1 / max(1 + percent_of_seconds / 100, 1e-9) - 1)


def change_of(name: str, evidence: Evidence) -> float:
    """The tested change in the metric's own terms: of geometric means, so not quite that of the medians beside it."""
    return of_rate(evidence.change_percent) if name == RATE else evidence.change_percent


def interval_ends(row: Row) -> tuple[float, float] | None:
    """The interval of a row's own change, in percent; None where nothing is known of it.

    tokens/s/p is tested as the mean step's seconds, which grow as the rate falls.
    """
    if row.evidence is None:
        return None
    low, high = row.evidence.low_percent, row.evidence.high_percent
    return (of_rate(high), of_rate(low)) if row.metric == RATE else (low, high)


def interval_of(row: Row) -> str | None:
    """The same in words."""
    ends = interval_ends(row)
    return None if ends is None else interval(*ends)


def visible_of(row: Row) -> str | None:
    """The smallest slowdown that a row's runs show, as a change of its metric."""
    if row.evidence is None:
        return None
    percent = row.evidence.visible_percent
    return change(row.metric, of_rate(percent)) if row.metric == RATE else visible(row.metric, percent)


def visible(name: str, percent: float) -> str:
    """The smallest slowdown that is found; beyond ten times the figure it is no number that says anything."""
    return change(name, percent) if percent <= MAX_VISIBLE_PERCENT else _NONE_VISIBLE


def slowdown(percent: float) -> str:
    """The smallest one that is found, for a sentence."""
    return f"a slowdown of {percent:.1f} %" if percent <= MAX_VISIBLE_PERCENT else "a slowdown beyond tenfold"


def smallest(percent: float) -> str:
    """The same, as a value."""
    return f"{percent:.2f} %" if percent <= MAX_VISIBLE_PERCENT else "more than tenfold"


def confidence(alpha: float) -> str:
    """The level of an interval each of whose ends is a bound at 1 - alpha."""
    return f"{100 * (1 - 2 * alpha):.3g} %"


def times(change_percent: float, low_percent: float, high_percent: float) -> str:
    """How many times slower or faster, of a change of time and its interval: `1.13 ± 0.02 times slower`."""
    ends = (1 + low_percent / 100, 1 + high_percent / 100)
    ratio, word = 1 + change_percent / 100, "slower"
    if ratio < 1:
        ratio, ends, word = 1 / ratio, (1 / max(ends[1], 1e-9), 1 / max(ends[0], 1e-9)), "faster"
    half = (ends[1] - ends[0]) / 2
    digits = 2 if half >= 0.01 else min(1 - math.floor(math.log10(max(half, 1e-4))), 4)
    return f"{ratio:.{digits}f} ± {half:.{digits}f} times {word}"


def told_interval(evidence: Evidence, alpha: float) -> str:
    """The interval of a change and its level, for a sentence."""
    return f"{confidence(alpha)} confidence interval {evidence.low_percent:+.1f} to {evidence.high_percent:+.1f} %"


def compared(name: str, percent: float, here: str, there: str) -> str:
    """What follows the case's name: how a metric here differs from there, as `in its baseline` or `at main`."""
    amount = f"{abs(percent):.1f} {change_unit(name)}"
    where = f"{here and ' ' + here} than {there}"
    if name == STEP:
        return f" takes {amount} {'more' if percent > 0 else 'less'} time per step{where}"
    return f": {title(name)} is {amount} {'higher' if percent > 0 else 'lower'}{where}"


def ending(state: MetricState, evidence: Evidence, units: Literal["runs", "pairs"], improved: str, remedy: str) -> str:
    """What a state rests on; `improved` says what to do about a speed-up, `remedy` how to get an answer."""
    percent = evidence.visible_percent
    more = " or more" if percent <= MAX_VISIBLE_PERCENT else ""
    return {
        "fail": _ENOUGH,
        "improved": improved or _ENOUGH,
        "pass": f"{slowdown(percent)} would have been detected",
        "inconclusive": (
            f"{units} vary by {evidence.spread_percent:.1f} %, and only {slowdown(percent)}{more} is detected "
            f"reliably; {remedy}"
        ),
    }[state]


def verdict_sentence(name: str, rows: tuple[Row, ...], worst: Row, measured: str) -> str:
    """The sentence of a gate's verdict, which is about its worst row."""
    rate, seconds = (
        next(row for row in rows if (row.label, row.metric) == (worst.label, name)) for name in (RATE, STEP)
    )
    figures = f"{measured} against {stored(RATE, rate.baseline)} ({seconds.baseline:.4g}) of {worst.label}"
    if worst.evidence is not None and worst.state != "compared":
        return _weighed_sentence(name, worst, worst.state, worst.evidence, figures)
    percent = rate.change_percent
    moved = f"{abs(percent):.1f} % {'faster' if percent > 0 else 'slower'} than its baseline"
    limit = f"the limit is {abs(rate.limit_percent or 0):g} %"
    return f"{worst.state.upper()}: {name} ran {moved}: {figures}; " + (
        _REFRESH if worst.state == "improved" else limit
    )


def _weighed_sentence(case: str, row: Row, state: MetricState, evidence: Evidence, figures: str) -> str:
    """The change with its interval, and what to do where that is not enough for an answer."""
    theirs, ours = evidence.runs
    tested = MEAN if row.metric == RATE else row.metric
    can_run_more = row.remedy is None or row.remedy.runs is not None
    few = f"a decision takes at least {MIN_RUNS_TO_DECIDE} runs; " if ours < MIN_RUNS_TO_DECIDE and can_run_more else ""
    remedy = few + (row.remedy.sentence if row.remedy else "add --runs, or compare on one quiet machine")
    rests_on = remedy if row.remedy and row.remedy.excuse else ending(state, evidence, "runs", _REFRESH, remedy)
    return (
        f"{state.upper()}: {case}{compared(tested, evidence.change_percent, '', 'in its baseline')} "
        f"({told_interval(evidence, FAMILY_ERROR)}, {ours} run{'s' * (ours > 1)} against {theirs}"
        f"{_told_sessions(evidence)}): {figures}; {rests_on}"
    )


def _told_sessions(evidence: Evidence) -> str:
    """That another session stands between the two sides, and how far sessions are taken to be apart."""
    return "" if evidence.session_percent is None else f" of another session, {session_level(evidence)}"


def session_level(evidence: Evidence) -> str:
    """How far sessions are taken to be apart, and who says so."""
    how = "as its own sessions show" if evidence.is_session_known else evidence.session_origin
    return f"{evidence.session_percent or 0.0:.1f} % between sessions, {how}"


def told_refused(refusals: tuple[Refusal, ...]) -> str:
    """Which recorded baselines would judge if the runs were of its software and as long; empty where none would."""
    near = [
        each for each in refusals
        if each.is_weighed and all(found.startswith(("software.", "steps ")) for found in each.differences)
    ]  # fmt: skip
    return "; ".join(f"{each.label} was not compared: {each.differences[0]}" for each in near)


def told_worse(rows: tuple[Row, ...]) -> str:
    """The figures beside speed that are worse by more than the limit, which too few runs keep from failing."""
    return "; ".join(
        compared(row.metric, row.evidence.change_percent, "", "in its baseline").removeprefix(": ")
        + ", which takes more runs to decide"
        for row in rows
        if row.state == "inconclusive" and row.evidence is not None and row.metric not in (RATE, *SPEED)
        if row.evidence.low_percent > (row.limit_percent or math.inf)
    )


def told_lacking(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> str:
    """The figures that every run of the baseline has and some of ours lack, which are therefore not judged."""
    everywhere = (
        [name for name in before[0] if metric_of(name) and all(name in run for run in before)] if before else []
    )
    lacking = {name: sum(name not in run for run in after) for name in everywhere}
    told = [
        f"{title(name)} is not judged, as {count} of {len(after)} run{'s' * (len(after) > 1)} "
        f"do{'es' * (count == 1)} not state it"
        for name, count in lacking.items()
        if count
    ]
    more = len(told) - _MOST_LACKING
    return "; ".join([*told[:_MOST_LACKING], *([f"nor are {more} more figures"] if more > 0 else [])])


def why_no_baseline(refusals: tuple[Refusal, ...]) -> str:
    """Which baseline came nearest, and what of its key differs."""
    if not refusals:
        return "no baseline is stored for this case"
    nearest = min(refusals, key=lambda refusal: (not refusal.is_shown, len(refusal.differences)))
    more = len(nearest.differences) - 3
    what = "is only shown" if nearest.is_shown else "was refused"
    return (
        f"the nearest of {len(refusals)} baseline{'s' * (len(refusals) > 1)}, {nearest.label}, {what}: "
        + ", ".join(nearest.differences[:3])
        + (f" and {more} more" if more > 0 else "")
    )
