"""Predictions of published jobs and their scores as JSON, as `--json` writes them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.plan.errors import Errors
from bench.plan.frozen import Digest, FrozenPrediction, Seconds
from bench.plan.score import Score, Scored
from bench.records.fields import Count, Figure, Name, Strict, Text
from bench.records.jsonfile import write_model

_LONGEST_NAME = 200


class PredictedFile(Strict):
    """Of `--rows`: each prediction as it would be frozen, and why other rows have none."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    level: Annotated[float, Field(gt=0, lt=1)]  # of the intervals
    predictions: list[FrozenPrediction]
    unused: list[Text]


class ErrorsOfRows(Strict):
    """Of |predicted / measured - 1|; the bias is the median of predicted / measured - 1."""

    rows: Count
    median: Figure
    p90: Figure
    worst: Figure
    bias: Annotated[float, Field(ge=-1, le=1e30)]


class ScoreOfClass(Strict):
    """Of rows of one chip, precision and kind of model, or of all."""

    rows_of: Name
    errors: ErrorsOfRows
    null_errors: ErrorsOfRows | None  # of constant MFU
    covered: Count
    with_interval: Count
    worst_regret: Figure | None
    mean_tau: Annotated[float, Field(ge=-1, le=1)] | None


class ScoredRow(Strict):
    """One measurement and its prediction."""

    row: Name
    measured_seconds: Seconds
    predicted_seconds: Seconds
    low_seconds: Seconds | None
    high_seconds: Seconds | None
    null_seconds: Seconds | None


class ScoreFile(Strict):
    """Of `--score`."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    basis: Text  # what was scored, in words
    frozen_sha256: Digest | None
    level: Annotated[float, Field(gt=0, lt=1)]
    scores: list[ScoreOfClass]
    rows: list[ScoredRow]
    unused: list[Text]


def write_predicted(path: Path, predictions: Sequence[FrozenPrediction], level: float, unused: Sequence[str]) -> None:
    """The file of `--rows`, atomically."""
    write_model(path, PredictedFile(level=level, predictions=list(predictions), unused=list(unused)))


def score_file(
    basis: str, frozen_sha256: str | None, level: float, scores: Sequence[Score], rows: Sequence[Scored],
    unused: Sequence[str],
) -> ScoreFile:  # fmt: skip
    """The file of `--score`."""
    return ScoreFile(
        basis=basis,
        frozen_sha256=frozen_sha256,
        level=level,
        scores=[_of_class(each) for each in scores],
        rows=[_row(each) for each in rows],
        unused=list(unused),
    )


def _of_class(score: Score) -> ScoreOfClass:
    return ScoreOfClass(
        rows_of=score.name,
        errors=_errors(score.errors),
        null_errors=_errors(score.null) if score.null else None,
        covered=score.covered,
        with_interval=score.with_interval,
        worst_regret=score.worst_regret,
        mean_tau=score.mean_tau,
    )


def _errors(of: Errors) -> ErrorsOfRows:
    return ErrorsOfRows(rows=of.rows, median=of.median, p90=of.p90, worst=of.worst, bias=of.bias)


def _row(each: Scored) -> ScoredRow:
    return ScoredRow(
        row=each.row.name[:_LONGEST_NAME],
        measured_seconds=each.row.seconds,
        predicted_seconds=each.seconds,
        low_seconds=each.low,
        high_seconds=each.high,
        null_seconds=each.null_seconds,
    )
