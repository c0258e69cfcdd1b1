"""Layouts of a recipe with their predicted times, the intervals of those shown, and the file they go into. No torch.

All layouts are ranked by the formula; those that are shown are played through, pass by pass, and ranked again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from bench.plan.anchor import Anchor
from bench.plan.calibration_file import CalibrationFile
from bench.plan.certainty import Certainty, anchor_of_record
from bench.plan.device import Device
from bench.plan.expected import check_device, recipe_of_record
from bench.plan.explain import Ranked, explain
from bench.plan.grok1_work import work_of
from bench.plan.intervals import LEVEL, Interval
from bench.plan.layout_text import layout_text
from bench.plan.layouts import Ints, Layouts, layouts_of
from bench.plan.played import predict_played
from bench.plan.predict import Prediction, predict
from bench.plan.speed import Speed, speed_of
from bench.plan.whole_steps import UNPLANNED, lacks_steps
from bench.records.fields import Count, Name, Strict
from bench.records.figures import decimals, fixed
from bench.records.jsonfile import parse_model, write_model
from bench.records.record import Record

_LAYOUTS_AT_ONCE = 20_000  # some hundred columns of their places are alive together


class TimedRow(Strict):
    """A layout, seconds of its step by term, and what they amount to."""

    layout: Name
    step_seconds: Annotated[float, Field(ge=0)]
    low_seconds: float | None  # of its interval; none where none is promised
    high_seconds: float | None
    tokens_per_second: float  # and processor
    mfu: float
    terms: dict[Name, float]
    need_bytes: Count | None = None  # of the fullest rank, with communicators and margin


class TimedFile(Strict):
    """What was asked, and the layouts shown, the fastest first."""

    schema_version: Literal[2] = Field(default=2, alias="schema", serialization_alias="schema")
    recipe_name: Name
    recipe_hash: Name
    device: Name
    peak_flops: float  # of which MFU is a share
    world_size: Count
    layouts: Count
    level: float  # of the intervals
    rows: list[TimedRow]


@dataclass(frozen=True)
class Timed:
    """Layouts with their times, a row each; `prediction.layout` says which of all layouts they are."""

    layouts: Layouts
    device: Device
    prediction: Prediction
    speed: Speed
    level: float = LEVEL  # of the intervals
    anchor: Anchor | None = None  # whose factor is in the prediction and the speed

    @property
    def factor(self) -> float:
        """What predicted seconds are multiplied with."""
        return self.anchor.factor if self.anchor else 1.0

    def anchored(self, anchor: Anchor) -> Timed:
        """The same layouts with times that a measured run calibrates."""
        ratio = anchor.factor / self.factor
        speed = self.speed
        slower = replace(speed, tokens_per_second=speed.tokens_per_second / ratio, mfu=speed.mfu / ratio)
        return replace(self, prediction=_scaled(self.prediction, ratio), speed=slower, anchor=anchor)

    def fastest(self, most: int, among: Ints | None = None) -> Ints:
        """Rows by time, the fastest first; only those `among`, where given."""
        rows = np.arange(len(self.layouts)) if among is None else among
        order = np.argsort(self.prediction.step_seconds[rows], kind="stable")
        return np.asarray(rows[order[:most]])

    def played(self, rows: Ints) -> Timed:
        """These rows with their schedules played through, the fastest first."""
        layouts = self.layouts.take(rows)
        work = work_of(layouts)
        prediction = _scaled(predict_played(work, self.device), self.factor)
        prediction = replace(prediction, layout=self.prediction.layout[rows])
        speed = speed_of(prediction, work, self.device)
        found = replace(self, layouts=layouts, prediction=prediction, speed=speed)
        return found.take(found.fastest(len(layouts)))

    def take(self, rows: Ints) -> Timed:
        """These rows alone, in their order."""
        terms = {name: term[rows] for name, term in self.prediction.terms.items()}
        speed = replace(self.speed, tokens_per_second=self.speed.tokens_per_second[rows], mfu=self.speed.mfu[rows])
        prediction = Prediction(self.prediction.layout[rows], self.prediction.step_seconds[rows], terms)
        return replace(self, layouts=self.layouts.take(rows), prediction=prediction, speed=speed)

    def name(self, row: int) -> str:
        """Of one row."""
        return layout_text(self.layouts, row)

    def names(self) -> list[str]:
        """Of all rows."""
        return [self.name(row) for row in range(len(self.layouts))]

    def intervals(self) -> list[Interval] | None:
        """Of all rows; without an anchor none for a measured profile, for which published rows do not speak."""
        if not self._certainty().speaks:
            return None
        unanchored = np.asarray(self.prediction.step_seconds / self.factor)
        return self._certainty().intervals(self.layouts, unanchored, range(len(unanchored)))

    def _certainty(self) -> Certainty:
        return Certainty(self.device, _calibration(), self.anchor, self.level)

    def basis(self) -> str:
        """What the times rest on, and what the null model says of them."""
        lines = [self.anchor.sentence] if self.anchor else [UNPLANNED] if lacks_steps(self.device) else []
        null = self._certainty().null_step_seconds(self.layouts.recipe, int(self.layouts.world_size[0]))
        if null is not None:
            whose = "the anchor's MFU" if self.anchor else "the median MFU of the chip's published rows"
            lines.append(f"null model: {whose} would make it {null:.4g} s, whatever the layout")
        return "\n".join(lines)

    def ranked(self, need_bytes: Ints | None = None) -> Ranked:
        """As the ranking shows them."""
        intervals = self.intervals()
        words = None if intervals is None else _words(intervals)
        return Ranked(self.names(), self.prediction, self.speed, words, need_bytes)

    def explained(self, row: int) -> str:
        """One row, by its terms, and what its interval is from."""
        work = work_of(self.layouts.take(np.array([row])))
        prediction = _scaled(predict_played(work, self.device), self.factor)
        speed = speed_of(prediction, work, self.device)
        text = explain(layout_text(self.layouts, row), work, self.device, prediction, speed, 0, self.factor)
        one = replace(self, layouts=self.layouts.take(np.array([row])), prediction=prediction, speed=speed)
        intervals = one.intervals()
        said = [text, *([_sentences(intervals[0])] if intervals else []), one.basis()]
        return "\n\n".join(filter(None, said))


def time_layouts(layouts: Layouts, device: Device) -> Timed:
    """The predicted time of each layout.

    Raises:
        ValueError: the profile has no peak for the recipe's type, or no rate between nodes where groups cross them.
    """
    starts = range(0, len(layouts), _LAYOUTS_AT_ONCE)
    pieces = [_time_piece(layouts.take(slice(each, each + _LAYOUTS_AT_ONCE)), device) for each in starts]
    predictions, speeds = [each[0] for each in pieces], [each[1] for each in pieces]
    terms = {name: np.concatenate([each.terms[name] for each in predictions]) for name in predictions[0].terms}
    prediction = Prediction(np.arange(len(layouts)), np.concatenate([each.step_seconds for each in predictions]), terms)
    speed = Speed(
        np.concatenate([each.tokens_per_second for each in speeds]),
        np.concatenate([each.mfu for each in speeds]),
        speeds[0].dtype,
        speeds[0].peak_flops,
    )
    return Timed(layouts, device, prediction, speed)


def _time_piece(layouts: Layouts, device: Device) -> tuple[Prediction, Speed]:
    work = work_of(layouts)
    prediction = predict(work, device)
    return prediction, speed_of(prediction, work, device)


def anchor_of_file(path: Path, device: Device) -> Anchor:
    """A recorded run as an anchor: its recipe is planned for the device, and compared with what it took.

    Raises:
        ValueError: no such record, a void one, or one that cannot be of the device.
    """
    record = Record.read(path)
    check_device(record, device)
    recipe = recipe_of_record(record)
    if recipe is None:
        raise ValueError(f"{path}: holds no recipe of this version, which an anchor needs: run it again")
    own = time_layouts(layouts_of(recipe), device).played(np.array([0]))
    return anchor_of_record(record, recipe, float(own.prediction.step_seconds[0]), device)


def _scaled(prediction: Prediction, factor: float) -> Prediction:
    terms = {name: term * factor for name, term in prediction.terms.items()}
    return replace(prediction, step_seconds=prediction.step_seconds * factor, terms=terms)


def write_timed(path: Path, found: Timed, total: int, need_bytes: Sequence[int] | None = None) -> None:
    """The rows shown, of so many layouts in all, as JSON."""
    intervals, recipe = found.intervals(), found.layouts.recipe
    names = found.names()
    rows = [
        TimedRow(
            layout=names[row],
            step_seconds=float(found.prediction.step_seconds[row]),
            low_seconds=intervals[row].low if intervals else None,
            high_seconds=intervals[row].high if intervals else None,
            tokens_per_second=float(found.speed.tokens_per_second[row]),
            mfu=float(found.speed.mfu[row]),
            terms={name: float(term[row]) for name, term in found.prediction.terms.items()},
            need_bytes=int(need_bytes[row]) if need_bytes is not None else None,
        )
        for row in range(len(names))
    ]
    file = TimedFile(
        schema=2,
        recipe_name=recipe.name,
        recipe_hash=recipe.hash(),
        device=found.device.name[:200],
        peak_flops=found.speed.peak_flops,
        world_size=int(found.layouts.world_size[0]),
        layouts=total,
        level=intervals[0].level if intervals else 0.0,
        rows=rows,
    )
    write_model(path, file)


def _words(intervals: Sequence[Interval]) -> list[str]:
    """Of one column: all with the same decimals."""
    places = decimals(max((each.high for each in intervals if each.high is not None), default=0.0))
    return [
        "none" if each.low is None or each.high is None else f"{fixed(each.low, places)} to {fixed(each.high, places)}"
        for each in intervals
    ]


def _sentences(interval: Interval) -> str:
    bounds = f"interval of the step: {_words([interval])[0]} s"
    return "\n".join([bounds, *interval.sentences, *(f"near: {name}" for name in interval.nearest)])


@functools.lru_cache(maxsize=1)
def _calibration() -> CalibrationFile:
    """The residuals that came with the program."""
    return parse_model((resources.files("bench.plan") / "calibration.json").read_bytes(), CalibrationFile)
