"""What `python -m bench plan` says of published rows: predicted, frozen, scored."""

from __future__ import annotations

from pathlib import Path

from bench.plan.calibration_file import read_calibration
from bench.plan.published import read_published
from bench.plan.scoring import freeze_published, predicted, predictions_text, score_published
from bench.records.terminal import plain


def about_rows(
    rows: Path | None,
    freeze: Path | None,
    score: Path | None,
    frozen: Path | None,
    level: float,
    anchor: Path | None = None,
) -> str:
    """The answer to --rows, --freeze, --score and --frozen; empty where none was given.

    Of rows an --anchor is a file of rows too.

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
    if frozen is not None and anchor is not None:
        raise ValueError("--anchor moves predictions, and those of --frozen are made: leave one of the two out")
    if score is not None:
        return score_published(score, frozen, read_calibration(), level, anchor)
    if freeze is not None and rows is not None:
        return freeze_published(freeze, rows, read_calibration(), level, anchor)
    return _predicted(rows, level, anchor) if rows is not None else ""


def _predicted(rows: Path, level: float, anchor: Path | None) -> str:
    published = read_published(rows, needs_values=False)
    found, refused = predicted(published, read_calibration(), level, anchor)
    unused = [*(each.sentence for each in published.set_aside), *(plain(line) for line in refused)]
    return "\n\n".join([predictions_text(found), *(f"not used: {line}" for line in unused)]).strip()
