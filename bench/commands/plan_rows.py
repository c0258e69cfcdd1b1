"""What `python -m bench plan` says of published rows: predicted, frozen, scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.plan.calibration_file import read_calibration
from bench.plan.intervals import LEVEL
from bench.plan.scoring import freeze_published, predict_published, score_published


def about_rows(
    rows: Path | None,
    freeze: Path | None,
    score: Path | None,
    frozen: Path | None,
    level: float,
    anchor: Path | None = None,
    others: Sequence[str] = (),
    json_path: Path | None = None,
) -> str | None:
    """The answer to --rows, --freeze, --score and --frozen; None where none was given.

    Of rows an --anchor is a file of rows too. `others` are the options that were given of layouts.

    Raises:
        ValueError: an option is missing or too many, or a file cannot be read, written or scored.
    """
    if not 0 < level < 1:
        raise ValueError(f"--level {level} is not between 0 and 1: 0.9 is a common choice")
    if frozen is not None and score is None:
        raise ValueError("--frozen names predictions to score: add --score ROWS.csv")
    if freeze is not None and rows is None:
        raise ValueError("--freeze needs the rows to predict: add --rows ROWS.csv")
    if score is not None and (rows is not None or freeze is not None):
        raise ValueError("--score judges its own rows: leave --rows and --freeze out")
    if frozen is not None:
        _refuse_for_frozen(level, anchor)
    if score is not None:
        _refuse_others("--score", others)
        return score_published(score, frozen, read_calibration(), level, anchor, json_path)
    if rows is None:
        return None
    _refuse_others("--rows", others)
    if freeze is not None:
        return freeze_published(freeze, rows, read_calibration(), level, anchor, json_path)
    return predict_published(rows, read_calibration(), level, anchor, json_path)


def _refuse_for_frozen(level: float, anchor: Path | None) -> None:
    """What would make other predictions than those that are made."""
    if anchor is not None:
        raise ValueError("--anchor moves predictions, and those of --frozen are made: leave one of the two out")
    if level != LEVEL:
        raise ValueError(f"--level {level:g} makes intervals, and those of --frozen are made: leave one of the two out")


def _refuse_others(asked: str, others: Sequence[str]) -> None:
    """What the rows would leave unanswered: each states its own job and chip."""
    if others:
        raise ValueError(
            f"{asked} is about published jobs, and {', '.join(others)} about a recipe's layouts: ask for one at a time"
        )
