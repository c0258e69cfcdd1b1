"""Files of published rows in, words out: predictions frozen, and scored against what the rows state. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.plan.calibration_file import CalibrationFile
from bench.plan.frozen import key_of, read_frozen
from bench.plan.intervals import LEVEL
from bench.plan.published import MEMORY, Published, read_published
from bench.plan.published_anchors import anchored, anchors_of_file
from bench.plan.published_peaks import within_peak
from bench.plan.published_predictions import RowPrediction, as_frozen, freeze_rows, predict_rows
from bench.plan.score import Scored, score_table, scored, scores
from bench.plan.score_file import score_file, write_predicted
from bench.records.jsonfile import write_model
from bench.records.terminal import plain, table

_MOST_LINES = 20  # of one kind that are shown


def freeze_published(
    path: Path,
    rows: Path,
    calibration: CalibrationFile,
    level: float = LEVEL,
    anchor: Path | None = None,
    json_path: Path | None = None,
) -> str:
    """Predict the rows of a CSV file, and write the predictions to a file that must not exist; what to say of it.

    What the rows measured is not used, but for those of the file `anchor`, which calibrate the others.

    Raises:
        ValueError: the rows cannot be read, none can be predicted, or the file exists or cannot be written.
    """
    found, unused = _all_predicted(rows, calibration, level, anchor)
    digest = freeze_rows(path, found, calibration, level)
    _write_predicted(json_path, found, level, unused)
    kept = len({key_of(each.row) for each in found})
    lines = [f"wrote {kept} predictions to {plain(path, 5000)}", f"sha256 {digest}"]
    if kept < len(found):
        lines.append(f"of {len(found)} rows: those of one job are predicted once")
    known = sum(each.was_fitted for each in found)
    if known:
        lines.append(f"{known} rows are calibration rows: each is predicted by a fit that left its family out")
    return "\n".join([*lines, *_unused(unused)])


def predict_published(
    rows: Path,
    calibration: CalibrationFile,
    level: float = LEVEL,
    anchor: Path | None = None,
    json_path: Path | None = None,
) -> str:
    """Predict the rows of a CSV file: each with its interval, then those that were not used.

    Raises:
        ValueError: the rows cannot be read, or none can be predicted.
    """
    found, unused = _all_predicted(rows, calibration, level, anchor)
    _write_predicted(json_path, found, level, unused)
    return "\n\n".join([predictions_text(found), *(f"not used: {line}" for line in unused)])


def _all_predicted(
    rows: Path, calibration: CalibrationFile, level: float, anchor: Path | None
) -> tuple[list[RowPrediction], list[str]]:
    """Predictions of a file of rows, of which there is at least one; and a line for each other row."""
    published = read_published(rows, needs_values=False)
    found, refused = predicted(published, calibration, level, anchor)
    _require_some(found, "predicted", rows, published, refused)
    return found, _reasons(published, refused)


def _write_predicted(path: Path | None, found: Sequence[RowPrediction], level: float, unused: Sequence[str]) -> None:
    if path is not None:
        write_predicted(path, [as_frozen(each) for each in found], level, unused)


def predicted(
    published: Published, calibration: CalibrationFile, level: float, anchor: Path | None
) -> tuple[list[RowPrediction], list[str]]:
    """Predictions of the rows, moved by those of the file `anchor` if there is one; and a line for each other row.

    Raises:
        ValueError: no row of the file can be an anchor.
    """
    found, refused = predict_rows(published.rows, calibration, level)
    if anchor is not None:
        found = anchored(found, anchors_of_file(anchor, calibration), calibration, level)
    return found, refused


def score_published(
    rows: Path,
    frozen: Path | None,
    calibration: CalibrationFile,
    level: float = LEVEL,
    anchor: Path | None = None,
    json_path: Path | None = None,
) -> str:
    """Score predictions of the rows of a CSV file: those that were frozen, or those of this calibration.

    Raises:
        ValueError: the rows cannot be read, none of them can be scored, or the frozen file was changed.
    """
    published, sha256 = read_published(rows), None
    kept, beyond = within_peak(published.rows)
    published = replace(published, rows=tuple(kept))
    if frozen is None:
        found, refused = predicted(published, calibration, level, anchor)
        judged, known = [each.scored() for each in found], sum(each.was_fitted for each in found)
        basis = "predictions made now, not frozen before the measurements were known"
        if known:
            basis += f"; {known} rows are calibration rows, each predicted by a fit that left its family out"
    else:
        predictions = read_frozen(frozen)
        times = [row for row in published.rows if row.is_time or row.is_layer_alone]
        judged, missing = scored(times, predictions)
        level, sha256 = predictions.level, predictions.sha256
        refused = [f"{row.name}: was not predicted in {plain(frozen, 5000)}" for row in missing]
        basis = f"predictions frozen with sha256 {sha256}"
    refused = [*beyond, *refused]
    _require_some(judged, "scored", rows, published, refused)
    of_classes, unused = scores(judged), _reasons(published, refused)
    if json_path is not None:
        write_model(json_path, score_file(basis, sha256, level, of_classes, judged, unused))
    return "\n".join([basis, "", score_table(of_classes, level), "", worst_table(judged), *_unused(unused)])


def worst_table(rows: Sequence[Scored], most: int = 5) -> str:
    """The rows that are furthest off."""
    furthest = sorted(rows, key=lambda each: -abs(each.seconds / each.row.seconds - 1))[:most]
    cells = [
        [
            each.row.name,
            f"{each.row.seconds:.4g}",
            f"{each.seconds:.4g}",
            "none" if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}",
            f"{each.seconds / each.row.seconds - 1:+.1%}",
        ]
        for each in furthest
    ]
    return table(["furthest off", "measured s", "predicted s", "interval", "error"], cells, numbers=[1, 2, 3, 4])


def predictions_text(predictions: Sequence[RowPrediction]) -> str:
    """Each prediction with its interval, what it rests on, and the null model beside."""
    blocks = []
    for each in predictions:
        interval = each.interval
        bounds = "" if interval.low is None else f" ({interval.low:.4g} to {interval.high:.4g} s)"
        null = "" if each.null_seconds is None else f"; the null model says {each.null_seconds:.4g} s"
        terms = ", ".join(f"{name} {seconds:.3g}" for name, seconds in each.terms.items() if seconds > 0)
        lines = [
            each.row.name,
            f"{each.seconds:.4g} s{bounds}{null}",
            *([f"of it {terms}"] if terms else []),
            *interval.sentences,
            *(f"near: {name}" for name in interval.nearest),
        ]
        blocks.append("\n".join([lines[0], *(f"  {plain(line)}" for line in lines[1:])]))
    return "\n\n".join(blocks)


def _unused(lines: Sequence[str]) -> list[str]:
    """Those of the rows that were not used, of which only the first are shown."""
    shown = [f"not used: {line}" for line in lines[:_MOST_LINES]]
    more = len(lines) - len(shown)
    return [*([""] if shown else []), *shown, *([f"and {more} more rows that were not used"] if more > 0 else [])]


def _reasons(published: Published, refused: Sequence[str]) -> list[str]:
    return [*(each.sentence for each in published.set_aside), *(plain(line) for line in refused)]


def _require_some(found: Sequence[object], what: str, rows: Path, published: Published, refused: Sequence[str]) -> None:
    """Refuse a file of which no row could be used, with the first reason."""
    if found:
        return
    reasons = [plain(line) for line in refused] or _reasons(published, ())
    of_memory = [row for row in published.rows if row.metric == MEMORY]
    reasons += [f"{row.name}: {row.metric} is no time" for row in of_memory]
    raise ValueError(f"{rows}: no row of it can be {what}: {[*reasons, 'each is an anchor itself'][0]}")
