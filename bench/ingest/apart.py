"""Are the lines of a log of one job? Its ranks are at the same steps, and these go back only where it resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A stream that goes back so often, each time after a line or two, is of two jobs that take turns.
MOST_TURNS = 3
LINES_OF_A_TURN = 2
_LEAST_LINES = 3  # of writers that say what they are of


def why_apart(steps: Mapping[str, Sequence[int]], orders: Mapping[str, Sequence[int]]) -> str | None:
    """Which writers of a log took turns in it without a step that both logged; `orders` are the places of their lines.

    Writers that follow each other are not meant: a job that resumed elsewhere.
    """
    spans = sorted(
        (min(orders[rank][0] for rank in ranks), max(orders[rank][-1] for rank in ranks), ranks[0])
        for ranks in _with_common_steps(steps)
        if sum(len(orders[rank]) for rank in ranks) >= _LEAST_LINES
    )
    for (_, end, name), (first, _, other) in zip(spans, spans[1:], strict=False):
        if first < end:
            return (
                f"the lines of {name!r} and of {other!r} take turns, and have no step in common: these are two jobs; "
                "give the logs of one job only"
            )
    return None


def _with_common_steps(steps: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """The writers, those together that logged a step of each other's."""
    leader = {rank: rank for rank in steps}

    def led_by(rank: str) -> str:
        while leader[rank] != rank:
            leader[rank] = leader[leader[rank]]
            rank = leader[rank]
        return rank

    first_of: dict[int, str] = {}
    for rank in sorted(steps):
        for step in steps[rank]:
            leader[led_by(rank)] = led_by(first_of.setdefault(step, rank))
    groups: dict[str, list[str]] = {}
    for rank in sorted(steps):
        if steps[rank]:
            groups.setdefault(led_by(rank), []).append(rank)
    return list(groups.values())
