"""How often the monitor finds a change, how soon, and how often it tells of none: on simulated histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.history.change_points import cuts_of, sureness_of
from bench.history.noise import Days, Floats
from bench.history.simulated import KINDS, Kind, changing, equal_runs

NEAR = 4  # a change told so many runs beside its place is the same
SOON = 5  # runs of the new level
NIGHTS = 60
_NIGHTS_FROM = 30

Monitor = Callable[[Floats, Days], list[tuple[int, bool]]]  # where a change is, and whether that is called sure


def monitor(seconds: Floats, days: Days) -> list[tuple[int, bool]]:
    """The one of `python -m bench history check`."""
    return [(cut.at, sureness_of(cut) == "sure") for cut in cuts_of(seconds, days)]


@dataclass(frozen=True)
class Found:
    """Counts over simulated histories with changes; what was told is counted as sure and as likely, right and wrong."""

    changes: int
    found: int
    soon: int
    sure: tuple[int, int]  # right, wrong
    likely: tuple[int, int]

    @property
    def recall(self) -> float:
        return self.found / self.changes

    @property
    def told_soon(self) -> float:
        return self.soon / self.changes

    @property
    def precision(self) -> float:
        right = self.sure[0] + self.likely[0]
        return right / max(right + self.sure[1] + self.likely[1], 1)


def total(parts: Sequence[Found]) -> Found:
    """Of several kinds of noise together."""
    sure, likely = [part.sure for part in parts], [part.likely for part in parts]
    return Found(
        changes=sum(part.changes for part in parts),
        found=sum(part.found for part in parts),
        soon=sum(part.soon for part in parts),
        sure=(sum(right for right, _ in sure), sum(wrong for _, wrong in sure)),
        likely=(sum(right for right, _ in likely), sum(wrong for _, wrong in likely)),
    )


def found(kind: Kind, trials: int, seed: int, ask: Monitor = monitor) -> Found:
    """Of `trials` histories of a kind."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    changes = hits = soon = 0
    told = {(sure, right): 0 for sure in (True, False) for right in (True, False)}
    for _ in range(trials):
        history = changing(random, kind)
        answers = dict(ask(history.seconds, history.days))
        matched = _matched(list(answers), history.changes)
        for at, sure in answers.items():
            told[sure, at in matched] += 1
        changes, hits = changes + len(history.changes), hits + len(matched)
        soon += sum(
            bool(_matched([at for at, _ in ask(history.seconds[: at + SOON], history.days[: at + SOON])], [at]))
            for at in history.changes
        )
    return Found(changes, hits, soon, (told[True, True], told[True, False]), (told[False, True], told[False, False]))


def _matched(told: Sequence[int], changes: Sequence[int]) -> set[int]:
    """Which of those told are a change, each of one that no other is taken for."""
    left = set(told)
    for at in changes:
        near = [place for place in left if abs(place - at) <= NEAR]
        left -= {min(near, key=lambda place: abs(place - at))} if near else set()
    return set(told) - left


def alarmed(kind: Kind, runs: int, trials: int, seed: int, ask: Monitor = monitor) -> float:
    """The share of series of equal runs in which a change is told."""
    random = np.random.default_rng([seed, KINDS.index(kind), runs])
    series = [equal_runs(random, kind, runs) for _ in range(trials)]
    return sum(bool(ask(each.seconds, each.days)) for each in series) / trials


def ever_alarmed(kind: Kind, trials: int, seed: int, ask: Monitor = monitor) -> float:
    """The share of series of equal runs in which a change is told on any of 60 nights, a run a night, after 30 runs."""
    random = np.random.default_rng([seed, KINDS.index(kind), NIGHTS])
    series = [equal_runs(random, kind, _NIGHTS_FROM + NIGHTS) for _ in range(trials)]
    nights = range(_NIGHTS_FROM + 1, _NIGHTS_FROM + NIGHTS + 1)
    return sum(any(ask(each.seconds[:end], each.days[:end]) for end in nights) for each in series) / trials
