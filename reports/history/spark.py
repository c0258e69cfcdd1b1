"""A small picture of a series, for a row of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.history.store import Entry
from reports.markup import Html

_MOST_PLACES = 60
_LEAST_SPAN = 0.05  # of the rate: noise of less is not blown up to the whole height


def spark(series: Sequence[Entry]) -> Html:
    """The course of tokens/s/p: medians of as many runs each, from the oldest to the newest."""
    rates = np.array([entry.tokens_per_second_per_processor for entry in series])
    values = [float(np.median(part)) for part in np.array_split(rates, min(len(rates), _MOST_PLACES))]
    middle, span = (min(values) + max(values)) / 2, max(values) - min(values)
    shares = [0.5 + (value - middle) / max(span, _LEAST_SPAN * middle) for value in values]
    places = [(4 + 92 * place / max(len(shares) - 1, 1), 21 - 18 * share) for place, share in enumerate(shares)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Html(
        '<svg class="spark" width="100" height="24" viewBox="0 0 100 24" aria-hidden="true">'
        f'<polyline points="{line}"/><circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="2.5"/></svg>'
    )
