"""Efficiencies of a chip, fitted to measured seconds: least squares of log time, robust, with priors. No torch.

A published row says one number, and a chip has eight efficiencies. What its rows do not tell apart stays at its prior:
the shape penalty of small products, what of the replicas' exchange shows, the launches of a layer. Which those are is
said by `Fitted.told`, the share by which the rows narrowed each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from bench.plan.layouts import Floats

_NOISE = 0.03  # of log time: releases of one program differ by as much
_TOLERANCE = 1e-8

Predicted = Callable[[Mapping[str, float]], Floats]


@dataclass(frozen=True)
class Prior:
    """Where an efficiency starts, and the standard deviation of its logarithm."""

    value: float
    spread: float


@dataclass(frozen=True)
class Fitted:
    """Efficiencies by name, and how well they say what was measured."""

    values: dict[str, float]
    told: dict[str, float]  # 0: the rows say nothing of it, 1: all of it
    log_ratios: tuple[float, ...]  # of measured over predicted, row by row

    @property
    def median(self) -> float:
        """Of the absolute residuals."""
        return float(np.median(np.abs(self.log_ratios)))

    @property
    def p90(self) -> float:
        return float(np.quantile(np.abs(self.log_ratios), 0.9))


def fit(predicted: Predicted, measured: Sequence[float] | Floats, priors: Mapping[str, Prior]) -> Fitted:
    """The efficiencies under which predictions come closest to what was measured, and to their priors.

    Args:
        predicted: seconds of all rows, from efficiencies by name.
        measured: seconds of the same rows.
        priors: of every efficiency that is fitted. The search starts at them, and not at a fit of nearly the same rows:
            where there are several optima that would tell of rows that were left out.

    Raises:
        ValueError: no rows, or times that are not positive.
    """
    seconds = np.asarray(measured, float)
    if not seconds.size or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ValueError("a fit needs at least one row, and positive seconds")
    names = tuple(priors)
    starts = np.array([priors[name].value for name in names])
    spreads = np.array([priors[name].spread for name in names])

    def values(steps: Floats) -> dict[str, float]:
        return dict(zip(names, (starts * np.exp(steps)).tolist(), strict=True))

    def log_ratios(steps: Floats) -> Floats:
        return np.asarray(np.log(seconds) - np.log(predicted(values(steps))))

    def residuals(steps: Floats) -> Floats:
        return np.concatenate([log_ratios(steps) / _NOISE, steps / spreads])

    found = least_squares(
        residuals, np.zeros(len(names)), loss="soft_l1", xtol=_TOLERANCE, ftol=_TOLERANCE, gtol=_TOLERANCE
    )
    told = _told(np.asarray(found.jac)[: len(seconds)], spreads)
    return Fitted(
        values=values(found.x),
        told=dict(zip(names, told.tolist(), strict=True)),
        log_ratios=tuple(log_ratios(found.x).tolist()),
    )


def _told(jacobian: Floats, spreads: Floats) -> Floats:
    """By how much the rows narrow each prior: 1 - standard deviation after over before, of the linearised fit."""
    information = jacobian.T @ jacobian + np.diag(1 / spreads**2)
    after = np.sqrt(np.diag(np.linalg.inv(information)))
    return np.asarray(np.clip(1 - after / spreads, 0, 1))
