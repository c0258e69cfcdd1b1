"""Predictions against what was measured: errors, coverage, regret and rank, with the null model beside. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.plan.errors import Choice, Errors, choices_by_job, errors_of
from bench.plan.frozen import Frozen, FrozenPrediction, key_of
from bench.plan.published import PublishedRow
from bench.plan.situations import FINE_GRAINED, precision_of
from bench.records.terminal import plain, table


@dataclass(frozen=True)
class Scored:
    """One row, its prediction and its measurement, in seconds; no bounds where no interval was promised."""

    row: PublishedRow
    seconds: float
    low: float | None
    high: float | None
    null_seconds: float | None

    @property
    def is_covered(self) -> bool | None:
        """Whether the measurement lies inside; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.row.seconds <= self.high


@dataclass(frozen=True)
class Score:
    """Of one class of rows."""

    name: str
    errors: Errors
    null: Errors | None  # of the rows that the null model predicts
    covered: int
    with_interval: int
    choices: tuple[Choice, ...]  # of jobs of which several layouts were measured

    @property
    def coverage(self) -> float | None:
        """Share of the rows with an interval that lie inside."""
        return self.covered / self.with_interval if self.with_interval else None

    @property
    def worst_regret(self) -> float | None:
        return max((each.regret for each in self.choices), default=None)

    @property
    def mean_tau(self) -> float | None:
        """Over jobs whose layouts differ in predicted and measured time."""
        taus = [each.tau for each in self.choices if not math.isnan(each.tau)]
        return sum(taus) / len(taus) if taus else None


def scored(rows: Sequence[PublishedRow], frozen: Frozen) -> tuple[list[Scored], list[PublishedRow]]:
    """Rows with their frozen predictions, and the rows that were not predicted."""
    by_key = {each.key: each for each in frozen.predictions}
    found, missing = [], []
    for row in rows:
        prediction = by_key.get(key_of(row))
        if prediction is None:
            missing.append(row)
        else:
            found.append(_scored(row, prediction))
    return found, missing


def _scored(row: PublishedRow, prediction: FrozenPrediction) -> Scored:
    return Scored(row, prediction.seconds, prediction.low, prediction.high, prediction.null_seconds)


def scores(rows: Sequence[Scored]) -> list[Score]:
    """A score for each chip, precision and kind of model, and one for all rows where there are several.

    Raises:
        ValueError: there is no row.
    """
    classes: dict[str, list[Scored]] = {}
    for each in rows:
        classes.setdefault(_class_of(each.row), []).append(each)
    found = [_score(name, of_class) for name, of_class in classes.items()]
    return found if len(found) == 1 else [*found, _score("all rows", rows)]


def _class_of(row: PublishedRow) -> str:
    experts = row.architecture.num_experts
    kind = "dense" if not experts else "fine-grained experts" if experts >= FINE_GRAINED else "coarse experts"
    part = ", layer alone" if row.is_layer_alone else ""
    return plain(f"{row.chip}, {precision_of(row.is_eight_bit)}, {kind}{part}")


def _score(name: str, rows: Sequence[Scored]) -> Score:
    with_null = [(each.null_seconds, each.row.seconds) for each in rows if each.null_seconds is not None]
    covered = [each.is_covered for each in rows if each.is_covered is not None]
    return Score(
        name=name,
        errors=errors_of([each.seconds for each in rows], [each.row.seconds for each in rows]),
        null=errors_of([null for null, _ in with_null], [real for _, real in with_null]) if with_null else None,
        covered=sum(covered),
        with_interval=len(covered),
        choices=_choices([each for each in rows if each.row.is_time]),
    )


def _choices(steps: Sequence[Scored]) -> tuple[Choice, ...]:
    """What was chosen of each job's layouts. (The kernels of a layer alone are no layouts to choose from.)

    Several measurements of one layout are no choice: it counts once, with the median of its seconds.
    """
    layouts: dict[str, list[Scored]] = {}
    for each in steps:
        layouts.setdefault(key_of(each.row), []).append(each)
    found = choices_by_job(
        [_job_whatever_layout(alike[0].row) for alike in layouts.values()],
        [median(each.seconds for each in alike) for alike in layouts.values()],
        [median(each.row.seconds for each in alike) for alike in layouts.values()],
    )
    return tuple(found.values())


def _job_whatever_layout(row: PublishedRow) -> tuple[object, ...]:
    """Equal for layouts of one job that can be chosen between."""
    return (row.source, row.model, row.layers, row.chip, row.world_size, row.sequence_length, row.global_batch,
            row.precision)  # fmt: skip


def score_table(found: Sequence[Score], level: float) -> str:
    """As people read it; errors are |predicted / measured - 1|."""
    headers = ["rows", "", "median", "p90", "worst", "bias", f"inside {level:.0%}", "regret", "tau",
               "null: median", "p90", "worst"]  # fmt: skip
    return table(headers, [_cells(each) for each in found], numbers=range(1, len(headers)))


def _cells(score: Score) -> list[str]:
    errors, null = score.errors, score.null
    tau = score.mean_tau
    return [
        score.name,
        str(errors.rows),
        *(_percent(each) for each in (errors.median, errors.p90, errors.worst)),
        f"{errors.bias:+.1%}",
        "-" if score.coverage is None else f"{score.coverage:.0%} of {score.with_interval}",
        _percent(score.worst_regret),
        "-" if tau is None else f"{tau:.2f}",
        *(_percent(each) for each in ((null.median, null.p90, null.worst) if null else (None, None, None))),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
