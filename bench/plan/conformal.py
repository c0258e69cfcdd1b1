"""Split-conformal intervals: how far predictions were off says how far the next one may be. No torch.

Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); for weights Tibshirani, Barber, Candes and
Ramdas, Conformal Prediction under Covariate Shift (2019).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from bench.plan.layouts import Floats


def conformal_quantile(residuals: Sequence[float] | Floats, level: float) -> float:
    """The bound that the next absolute residual keeps with this probability, if all are exchangeable.

    It is the ceil((n + 1) level)-th smallest of n residuals, and infinite where there is none: too few residuals
    promise nothing.

    Raises:
        ValueError: the level is not between 0 and 1, or a residual is negative or no number.
    """
    return weighted_quantile(residuals, range(len(residuals)), level)


def weighted_quantile(residuals: Sequence[float] | Floats, families: Sequence[Hashable], level: float) -> float:
    """The same where rows come in families, of which each counts once, however many rows it has.

    The next row weighs as much as the mean row. With a family a row this is `conformal_quantile`, and its promise is
    exact; rows of one family are alike, so that with few families of many rows it holds approximately.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} of an interval is not between 0 and 1")
    absolute = np.asarray(residuals, float)
    if len(absolute) != len(families):
        raise ValueError(f"{len(absolute)} residuals have {len(families)} families")
    if not (absolute >= 0).all():  # also where one is no number
        raise ValueError("residuals of an interval must be absolute and finite or infinite")
    if not len(absolute):
        return math.inf
    rows_of = Counter(families)
    weights = np.array([1 / rows_of[family] for family in families])
    order = np.argsort(absolute, kind="stable")
    reached = np.cumsum(weights[order])
    needed = level * len(rows_of) * (1 + 1 / len(absolute))
    place = int(np.searchsorted(reached, needed * (1 - 1e-12)))
    return float(absolute[order[place]]) if place < len(absolute) else math.inf


def coverage(residuals: Sequence[float] | Floats, bounds: Sequence[float] | Floats) -> float:
    """Share of absolute residuals that keep their bound; no number where there is none."""
    kept = np.asarray(residuals, float) <= np.asarray(bounds, float)
    return float(kept.mean()) if kept.size else math.nan
