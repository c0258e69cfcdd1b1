"""How often each rule of the self-test finds a slowdown, by its size."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from matplotlib.axes import Axes

from bench.selftest.replay import Outcome
from reports.palette import STRANGERS
from reports.picture import Form, picture, plain


def power_curves(outcomes: Sequence[Outcome], form: Form = "png") -> bytes:
    """How often each rule fails a slowdown of every step, by its size, a panel for each condition."""
    conditions = list(dict.fromkeys(each.condition for each in outcomes))

    def draw(condition: str, axes: Axes) -> None:
        for colour, rule in zip(STRANGERS, dict.fromkeys(each.rule for each in outcomes), strict=False):
            of_rule = [
                each for each in outcomes if (each.condition, each.rule, each.kind) == (condition, rule, "every step")
            ]
            percents, shares = [each.percent for each in of_rule], [each.failed for each in of_rule]
            axes.plot(
                percents, [100 * each.value for each in shares], color=colour, marker="o", ms=3.5, label=plain(rule)
            )
            low, high = ([100 * each.interval[end] for each in shares] for end in (0, 1))
            axes.fill_between(percents, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(title=plain(condition), xlabel="slowdown put in, %", ylabel="runs failed, %", ylim=(-2, 102))

    return picture(
        *(functools.partial(draw, each) for each in conditions), height=0.8 + 2.6 * len(conditions), form=form
    )
