"""What a self-test found, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from bench.judge.metrics import STEP
from bench.selftest.replay import SLOWDOWNS_PERCENT, Outcome, gate_figures, skipped
from bench.selftest.series import Series


def spread_percent(series: Series) -> float:
    """Between-run standard deviation of the runs' medians."""
    return 100 * float(np.log([gate_figures(run.seconds)[STEP] for run in series.runs]).std(ddof=1))


def table(outcomes: Sequence[Outcome], series: Series) -> str:
    """Markdown: false alarms first, then the share of each slowdown that each rule finds, then what was skipped."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in outcomes):
        for rule in dict.fromkeys(each.rule for each in outcomes):
            of_rule = {each.percent: each for each in outcomes if each.rule == rule and each.kind == kind}
            alarms = next(each for each in outcomes if each.rule == rule and each.percent == 0.0)
            found = [f"{of_rule[p].failed.value:.0%}" if p in of_rule else "" for p in SLOWDOWNS_PERCENT if p]
            rows.append((kind, rule, str(alarms.failed), f"{alarms.inconclusive.value:.0%}", *found))
    headers = ["worse in", "rule", "false alarms", "inconclusive", *(f"{p:g} % found" for p in SLOWDOWNS_PERCENT if p)]
    title = (
        f"{series.condition}: {len(series.runs)} runs of {series.recipe_name} on {series.device_name}, between-run "
        f"variation {spread_percent(series):.2f} %, {outcomes[0].failed.trials} trials"
    )
    return "\n".join(
        [f"{title}\n", tabulate(rows, headers, tablefmt="github", disable_numparse=True), *skipped(series)]
    )


def halves_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown of `held_back`."""
    rows = [(each.condition, each.rule, str(each.failed), f"{each.inconclusive.value:.0%}") for each in outcomes]
    headers = ["runs of", "rule", "false alarms", "inconclusive"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def as_json(series: Series, outcomes: Sequence[Outcome], halves: Sequence[Outcome]) -> dict[str, Any]:
    """All counts of a series, as plain data."""
    return {
        "condition": series.condition,
        "recipe_name": series.recipe_name,
        "recipe_hash": series.recipe_hash,
        "device_name": series.device_name,
        "runs": len(series.runs),
        "spread_percent": spread_percent(series),
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


def json_text(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """What --json writes."""
    return (json.dumps({"schema": 1, "series": parts}, indent=1) + "\n").encode()
