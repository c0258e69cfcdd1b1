"""What a self-test found, as text and as JSON: in the order of time first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from bench.judge.evidence import MetricState
from bench.judge.sessions import assumed_level
from bench.selftest.levels import Level
from bench.selftest.ordered import BLOCK, InOrder, autocorrelations, spreads_percent
from bench.selftest.replay import SLOWDOWNS_PERCENT, Outcome, skipped
from bench.selftest.series import Series


def title(series: Series) -> str:
    """What a series is, and how its runs vary and follow one another."""
    within, between = spreads_percent(series)
    spread = f"between-run variation {within:.2f} %"
    if between is not None:
        spread += f", {between:.2f} % between its {len(series.sessions)} sessions"
    lags = ", ".join(f"{value:+.2f} at lag {lag}" for lag, value in autocorrelations(series).items())
    text = f"{series.condition}: {len(series.runs)} runs of {series.recipe_name} on {series.device_name}, {spread}"
    return text + (f"; autocorrelation of run medians {lags}" if lags else "")


# ---- in the order of time ------------------------------------------------------------------------------

# a state at a slowdown, and its heading
_ORDERED_COLUMNS: tuple[tuple[MetricState, float, str], ...] = (
    ("fail", 0.0, "equal fail"),
    ("improved", 0.0, "equal improved"),
    ("inconclusive", 0.0, "inconclusive"),
    ("fail", 5.0, "5 % found"),
    ("pass", 5.0, "5 % passes"),
    ("fail", 10.0, "10 % found"),
)


def ordered_table(found: Sequence[InOrder], series: Series) -> str:
    """Markdown: each rule on all pairs of blocks, then how often equal blocks fail at each distance."""
    if not found:
        return f"skipped: the order of time, as no two blocks of {BLOCK} runs fit into the sessions"
    assumed = assumed_level(series.device_kind, None, series.is_virtual).percent
    lead = (
        f"In the order of time, {BLOCK} runs against {BLOCK} later ones (other projects' rules: the first of each "
        f"against the first). Across sessions {assumed:g} % between them is assumed. Blocks overlap: no intervals."
    )
    whole = [
        (where, rule, sum(each.pairs for each in of_rule if each.percent == 0.0), *_shares(of_rule))
        for where in dict.fromkeys(each.where for each in found)
        for rule in dict.fromkeys(each.rule for each in found)
        for of_rule in [[each for each in found if (each.where, each.rule) == (where, rule)]]
    ]
    headers = ["blocks", "rule", "pairs", *(heading for _, _, heading in _ORDERED_COLUMNS)]
    return "\n\n".join(
        [
            lead,
            tabulate(whole, headers, tablefmt="github", disable_numparse=True),
            "Equal blocks that fail, by how many runs lie between them, or by sessions:",
            _distances(found),
        ]
    )


def _shares(of_rule: Sequence[InOrder]) -> list[str]:
    return [
        _share([each for each in of_rule if each.percent == percent], state) for state, percent, _ in _ORDERED_COLUMNS
    ]


def _share(found: Sequence[InOrder], state: MetricState) -> str:
    states = sum((Counter(each.states) for each in found), Counter[MetricState]())
    return f"{states[state] / states.total():.1%}"


def _distances(found: Sequence[InOrder]) -> str:
    equal = [each for each in found if each.percent == 0.0]
    places = list(dict.fromkeys(each.apart for each in equal))
    rows = [
        (
            rule,
            *(_share([each for each in equal if (each.rule, each.apart) == (rule, place)], "fail") for place in places),
        )
        for rule in dict.fromkeys(each.rule for each in equal)
    ]
    return tabulate(rows, ["rule", *places], tablefmt="github", disable_numparse=True)


# ---- simulated sessions --------------------------------------------------------------------------------

_LEVEL_COLUMNS = [each for each in _ORDERED_COLUMNS if each[0] != "inconclusive"]


def levels_table(found: Sequence[Level]) -> str:
    """Markdown of `bench.selftest.levels.levels`."""
    rows = [
        (
            f"{level.session_percent:g} % (assumed {level.assumed_percent:g} %)",
            f"{level.run_percent:g} %",
            str(level.plan),
            *(f"{level.share(percent, state).value:.1%}" for state, percent, _ in _LEVEL_COLUMNS),
        )
        for level in found
    ]
    headers = ["between sessions", "between runs", "baseline", *(heading for _, _, heading in _LEVEL_COLUMNS)]
    trials = sum(found[0].states[0.0].values())
    lead = f"Simulated sessions, five new runs of one more session against the baseline, {trials} trials a cell:"
    return f"{lead}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


# ---- random draws --------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome], series: Series) -> str:
    """Markdown: false alarms first, then the share of each slowdown that each rule finds, then what was skipped."""
    if not outcomes:
        return "\n".join(skipped(series))
    rows = []
    for kind in dict.fromkeys(each.kind for each in outcomes):
        for rule in dict.fromkeys(each.rule for each in outcomes):
            of_rule = {each.percent: each for each in outcomes if each.rule == rule and each.kind == kind}
            alarms = next(each for each in outcomes if each.rule == rule and each.percent == 0.0)
            found = [f"{of_rule[p].failed.value:.0%}" if p in of_rule else "" for p in SLOWDOWNS_PERCENT if p]
            rows.append((kind, rule, str(alarms.failed), f"{alarms.inconclusive.value:.0%}", *found))
    headers = ["worse in", "rule", "false alarms", "inconclusive", *(f"{p:g} % found" for p in SLOWDOWNS_PERCENT if p)]
    lead = f"At random, {outcomes[0].failed.trials} draws without replacement:"
    return "\n".join([f"{lead}\n", tabulate(rows, headers, tablefmt="github", disable_numparse=True), *skipped(series)])


def halves_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown of `held_back`."""
    if not outcomes:
        return ""
    rows = [(each.condition, each.rule, str(each.failed), f"{each.inconclusive.value:.0%}") for each in outcomes]
    headers = ["runs of", "rule", "false alarms", "inconclusive"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def as_json(
    series: Series, ordered: Sequence[InOrder], outcomes: Sequence[Outcome], halves: Sequence[Outcome]
) -> dict[str, Any]:
    """All counts of a series, as plain data."""
    within, between = spreads_percent(series)
    return {
        "condition": series.condition,
        "recipe_name": series.recipe_name,
        "recipe_hash": series.recipe_hash,
        "device_name": series.device_name,
        "runs": len(series.runs),
        "sessions": {name: len(places) for name, places in series.sessions.items()},
        "spread_percent": within,
        "session_spread_percent": between,
        "autocorrelation": {str(lag): value for lag, value in autocorrelations(series).items()},
        "in_order": [asdict(each) | {"states": dict(each.states)} for each in ordered],
        "skipped": skipped(series),
        "outcomes": [_plain(each) for each in outcomes],
        "held_back": [_plain(each) for each in halves],
    }


def _plain(outcome: Outcome) -> dict[str, Any]:
    shares = {
        name: {"count": share.count, "trials": share.trials, "low": share.interval[0], "high": share.interval[1]}
        for name, share in (("failed", outcome.failed), ("inconclusive", outcome.inconclusive))
    }
    named = {"of": outcome.condition, "rule": outcome.rule, "kind": outcome.kind, "percent": outcome.percent}
    return named | shares


def levels_json(found: Sequence[Level]) -> list[dict[str, Any]]:
    """All counts of the simulated sessions, as plain data."""
    return [
        {
            "session_percent": level.session_percent,
            "run_percent": level.run_percent,
            "assumed_percent": level.assumed_percent,
            "baseline": asdict(level.plan),
            "states": {f"{percent:g}": dict(states) for percent, states in level.states.items()},
        }
        for level in found
    ]


def json_text(parts: Sequence[Mapping[str, Any]], found: Sequence[Level] = ()) -> bytes:
    """What --json writes."""
    return (json.dumps({"schema": 2, "series": parts, "levels": levels_json(found)}, indent=1) + "\n").encode()
