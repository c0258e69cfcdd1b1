"""A history: every run's median step, and the levels between change points."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from bench.history.store import Entry
from reports.palette import BAD, BASELINE, MEASURED
from reports.picture import Form, picture, plain

_MAX_TRENDS = 20  # panels
_MAX_COMMIT_LABELS = 20
_TICK_POINTS = 32.0  # of a commit's name, aslant


def trends(
    series: Sequence[tuple[str, Sequence[Entry]]],
    level_starts: Sequence[Sequence[int]],
    form: Form = "png",
) -> bytes:
    """A panel for each series of a history: every run's median step, its levels, and where one ends and another begins.

    The band holds nine tenths of a level's runs. Colours take turns at every other commit.
    """

    def draw(title: str, entries: Sequence[Entry], starts: Sequence[int], axes: Axes) -> None:
        seconds = np.array([entry.step_seconds for entry in entries])
        edges = [0, *starts, len(entries)]
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            low, middle, high = np.percentile(seconds[start:end], [5, 50, 95])
            ends = (start - 0.5, end - 0.5)
            axes.fill_between(ends, low, high, color=BASELINE, alpha=0.3, lw=0, label="9 of 10 runs of a level")
            axes.plot(ends, (middle, middle), color=BASELINE, lw=1.4, label="median of a level")
        for place, part in enumerate(_by_commit(entries)):
            colour = (MEASURED, "#6aa3dc")[place % 2]
            axes.plot(part, seconds[part], color=colour, marker="o", ms=3.5, ls="none", label=_TURNS[place % 2])
        for start in starts:
            axes.axvline(start - 0.5, color=BAD, ls="--", lw=1.4, label="change")
        axes.set(title=plain(title), xlabel="run, by commit", ylabel="s/step", xlim=(-0.7, len(entries) - 0.3))
        _name_commits(axes, entries)

    picked = list(zip(series, level_starts, strict=True))[:_MAX_TRENDS]
    panels = (functools.partial(draw, title, entries, starts) for (title, entries), starts in picked)
    return picture(*panels, height=0.8 + 2.8 * len(picked), tick_points=_TICK_POINTS, form=form)


_TURNS = ("run", "run of the next commit")


def _by_commit(entries: Sequence[Entry]) -> list[list[int]]:
    """The places of runs of one commit after another."""
    found: list[list[int]] = []
    for place, entry in enumerate(entries):
        if not place or entry.commit != entries[place - 1].commit:
            found.append([])
        found[-1].append(place)
    return found


def _name_commits(axes: Axes, entries: Sequence[Entry]) -> None:
    """The first run of a commit bears its name; of many, so many that they can be read."""
    firsts = [part[0] for part in _by_commit(entries)]
    shown = firsts[:: -(-len(firsts) // _MAX_COMMIT_LABELS)]
    axes.set_xticks(shown, [(entries[place].commit.sha or "unknown")[:7] for place in shown], rotation=30, fontsize=7)
