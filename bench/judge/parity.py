"""Learning parity: a run that computes the same learns the same, within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bench.records.record import Step

LOSS_TOLERANCE_PERCENT = 2.0
GRAD_NORM_TOLERANCE_PERCENT = 10.0

LOSS, GRAD_NORM = "loss", "grad norm"
# By LOSS and GRAD_NORM, one value a step; None where it was not recorded or not finite, which is not compared.
Traces = Mapping[str, Sequence[float | None]]
TOLERANCES_PERCENT: Mapping[str, float] = {LOSS: LOSS_TOLERANCE_PERCENT, GRAD_NORM: GRAD_NORM_TOLERANCE_PERCENT}


@dataclass(frozen=True)
class Departure:
    """Where one run no longer learns what another does; `index` is the place among the steps of both."""

    index: int
    name: str
    ours: float
    theirs: float
    tolerance_percent: float

    def told(self, between: str) -> str:
        """Both values with `between` between them, as `where BASELINE had`, and the tolerance."""
        return f"{self.name} {self.ours:.6g} {between} {self.theirs:.6g}, more than {self.tolerance_percent:g} % apart"


def traces_of(steps: Sequence[Step]) -> Traces:
    """The traces of a record's steps."""
    return {LOSS: [step.loss for step in steps], GRAD_NORM: [step.grad_norm for step in steps]}


def first_departure(
    ours: Traces, theirs: Traces, tolerances_percent: Mapping[str, float] = TOLERANCES_PERCENT
) -> Departure | None:
    """The first step, of those that both have, whose loss or gradient norm is not the other's within tolerance."""
    pairs = [list(zip(ours[name], theirs[name], strict=False)) for name in (LOSS, GRAD_NORM)]
    for index, values in enumerate(zip_longest(*pairs, fillvalue=(None, None))):
        for name, (mine, other) in zip((LOSS, GRAD_NORM), values, strict=True):
            if mine is None or other is None:
                continue
            if abs(mine - other) > tolerances_percent[name] / 100 * abs(other):
                return Departure(index, name, mine, other, tolerances_percent[name])
    return None
