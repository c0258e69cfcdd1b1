"""The verdict rule: which metrics decide, which state is the worst, and what fails a pipeline.

The gate, the A/B comparison, the self-test's replay, the commands and the reports all use this one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.judge.evidence import MetricState
from bench.judge.metrics import MEAN, RATE, STEP

# "compared": shown beside a baseline that does not judge
RowState = Literal[MetricState, "compared"]
VerdictState = Literal[MetricState, "no_baseline", "void", "missing"]
# What a reader must look at comes first. Metrics and cases are ordered alike.
WORST_FIRST: tuple[VerdictState, ...] = ("void", "fail", "missing", "inconclusive", "no_baseline", "improved", "pass")
_SPEED = (RATE, STEP, MEAN)  # a pass needs all of them: lost throughput is lost, whichever steps lose it


def deciding(judged: Sequence[tuple[str, RowState]]) -> tuple[int, MetricState] | None:
    """The place and the state of the (metric, state) that makes the verdict; None if none may.

    Speed always counts. Another metric counts only where it fails or improves, as there is nothing to say otherwise.
    The worst state wins; among equals the time of a step, then the other figures of speed, then the first.
    """
    counting = [
        (WORST_FIRST.index(state), metric != STEP, metric not in _SPEED, place, state)
        for place, (metric, state) in enumerate(judged)
        if state != "compared" and (metric in _SPEED or state in ("fail", "improved"))
    ]
    if not counting:
        return None
    *_, place, state = min(counting)
    return place, state


def exit_code_of(state: VerdictState, require_answer: bool) -> int:
    """0 if a case of this state may pass a gate, else 1; `require_answer` fails a case that has no answer."""
    if state in ("no_baseline", "inconclusive"):
        return int(require_answer)
    return int(state in ("fail", "void", "missing"))
