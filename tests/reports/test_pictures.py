"""What the plots show, read from matplotlib's own objects. All numbers are invented."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.history.store import entry_of
from bench.judge.baseline import recorded_baseline
from bench.judge.stats import summarise
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.case import CaseResult, assess
from reports.palette import (
    BASELINE,
    COMMUNICATION,
    DARK,
    INK,
    LINE,
    MEASURED,
    MUTED,
    ON_DARK,
    ON_PALE,
    OTHER,
    PAPER,
    PHASE_COLOURS,
)
from reports.picture import NARROW, WIDE
from reports.pictures.distribution import distribution
from reports.pictures.expert_load import expert_load
from reports.pictures.pairs import pairs_picture
from reports.pictures.phases import phases
from reports.pictures.ranks import ranks as draw_ranks
from reports.pictures.schedule import schedule
from reports.pictures.standing import standing
from reports.pictures.step_times import step_times
from reports.pictures.trends import trends

Drawn = dict[str, Any]


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that a test draws, in order."""
    kept: list[Figure] = []
    start = Figure.__init__

    def keep(figure: Figure, *arguments: Any, **named: Any) -> None:
        kept.append(figure)
        start(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "__init__", keep)
    return kept


def piped(record: Record, micro_batches: int) -> Record:
    """The record with a timeline of two stages: forwards one second, then backwards two; the second waits one."""
    ranks = []
    for rank in record.ranks:
        spans, clock = [], 0.0
        for phase, seconds, count in (
            ("pipeline", 1.0, rank.stage),
            ("forward", 1.0, micro_batches),
            ("backward", 2.0, micro_batches),
        ):
            for _ in range(count):
                spans.append({"phase": phase, "start_seconds": clock, "end_seconds": clock + seconds})
                clock += seconds
        ranks.append(rank.model_dump() | {"timeline": spans})
    return Record.model_validate(record.model_dump(by_alias=True) | {"ranks": ranks})


def build(synthetic_record, micro_batches: int) -> Record:
    return piped(synthetic_record(work={"num_micro_batches": micro_batches}), micro_batches)


def test_the_schedule_shows_a_rank_of_each_stage_with_its_micro_batches(synthetic_record, figures) -> None:
    record = build(synthetic_record, 4)
    assert schedule(record, summarise(record))
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0\nrank 0", "stage 1\nrank 8"]
    numbers = [(round(text.get_position()[0], 3), text.get_position()[1], text.get_text()) for text in axes.texts]
    assert numbers[:4] == [(0.5, 0, "1"), (1.5, 0, "2"), (2.5, 0, "3"), (3.5, 0, "4")]
    assert numbers[8:10] == [(1.5, 1, "1"), (2.5, 1, "2")]
    assert axes.get_title() == "Step 20 by pipeline stage, as measured: bubble 9.1 %, ideal 20.0 %"
    hatched = [bars for bars in axes.collections if bars.get_hatch()]
    assert [bars.get_label() for bars in hatched] == ["pipeline: waits and transfers"]
    assert sorted(axes.get_legend_handles_labels()[1]) == ["backward", "forward", "pipeline: waits and transfers"]


def test_of_many_micro_batches_the_start_and_the_end_are_enlarged(synthetic_record, figures) -> None:
    record = build(synthetic_record, 64)
    assert schedule(record, summarise(record))
    whole, start, end = figures[0].axes
    assert (whole.get_xlim(), start.get_xlim()) == ((0, 193), (0, 193 / 8))
    assert end.get_xlim() == (193 - 193 / 8, 193)
    assert "64" in {text.get_text() for text in end.texts}
    assert not whole.texts


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_number_of_a_micro_batch_is_cut_at_an_edge(width: float, synthetic_record, figures) -> None:
    record = build(synthetic_record, 64)
    assert schedule(record, summarise(record), width)
    renderer = FigureCanvasAgg(figures[0]).get_renderer()
    for axes in figures[0].axes:
        for number in axes.texts:
            box = number.get_window_extent(renderer)
            assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1, number.get_text()


def test_bars_that_are_not_micro_batches_get_no_number(synthetic_record, figures) -> None:
    record = piped(synthetic_record(work={"num_micro_batches": 8}), 4)
    assert schedule(record, summarise(record))
    assert not figures[0].axes[0].texts


def test_chunks_have_lanes_and_shades_and_numbers(synthetic_record, figures) -> None:
    """Two stages of two chunks, four micro-batches: two run the first chunk, then the second."""
    layout = synthetic_record().layout.model_dump() | {"virtual_pipeline": 2}
    record = piped(synthetic_record(work={"num_micro_batches": 4}, layout=layout), 8)
    assert schedule(record, summarise(record))
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts[:16]] == [*"12123434"] * 2
    lanes = [round(text.get_position()[1], 2) for text in axes.texts[:16]]
    assert lanes == [-0.18, -0.18, 0.18, 0.18] * 2 + [0.18, 0.18, -0.18, -0.18] * 2
    names = ["forward", "backward"]
    shades = {bars.get_label(): tuple(bars.get_facecolor()[0]) for bars in axes.collections}
    assert len({shades[f"{name}, chunk {chunk}"] for name in names for chunk in (1, 2)}) == 4
    assert "a stage's 2 chunks in lanes, the first on top" in axes.get_xlabel()
    assert "ideal 1 / (4 x 2 + 1) = 11.1 %" in axes.get_title()


def test_no_timeline_is_no_schedule(synthetic_record) -> None:
    assert schedule(synthetic_record(), summarise(synthetic_record())) is None


def test_the_distribution_has_a_line_a_run_and_both_medians(figures) -> None:
    ours, theirs = [[2.0, 2.1, 2.2], [2.1, 2.2, 2.3]], [[1.0, 1.1, 1.2]] * 5
    assert distribution(ours, theirs)
    (axes,) = figures[0].axes
    assert axes.get_legend_handles_labels()[1] == ["baseline: median 1.1 s, 5 runs", "measured: median 2.15 s, 2 runs"]
    assert sum(len(line.get_xdata()) > 3 for line in axes.lines) == 5 + 2 + 1  # and the marks of five medians
    assert distribution(ours, [])
    assert axes is not figures[1].axes[0]
    assert figures[1].axes[0].get_legend_handles_labels()[1] == ["measured: median 2.15 s, 2 runs"]


def test_late_steps_do_not_hide_the_others(figures) -> None:
    assert distribution([[1.0 + 0.01 * step for step in range(39)] + [500.0]], [])
    (axes,) = figures[0].axes
    assert axes.get_xlim()[1] < 2
    assert axes.texts[0].get_text() == "1 beyond the plot, up to 500 s"


def test_a_straggler_is_named(synthetic_record, figures) -> None:
    ranks = [rank.model_dump() for rank in synthetic_record().ranks]
    ranks[5]["step_seconds"] = [1.5 * seconds for seconds in ranks[5]["step_seconds"]]
    record = synthetic_record(ranks=ranks)
    assert draw_ranks(record, summarise(record))
    times, memory = figures[0].axes
    assert times.get_title().startswith("Median steady step of each rank, most on rank 5: 49.8 %")
    assert memory.get_title() == "Peak memory of each rank, most on rank 2: 2.0 % above the median"
    assert memory.get_legend_handles_labels()[1] == ["step, or peak memory"]
    assert [text.get_text() for text in memory.texts] == ["stage 0", "stage 1"]


def many_phases(record: Record) -> Record:
    ranks = [
        rank.model_dump()
        | {"phases_seconds": {f"a phase of many, number {number}": [1.0] * 20 for number in range(24)}}
        for rank in record.ranks
    ]
    return Record.model_validate(record.model_dump(by_alias=True) | {"ranks": ranks})


def beside_a_baseline() -> CaseResult:
    before = [build_synthetic_record(seed=seed, median_seconds=36.0) for seed in range(5)]
    after = [build_synthetic_record(seed=10 + seed) for seed in range(5)]
    (case,) = assess(after, [recorded_baseline(before, "invented")])
    return case


def a_trend(record: Record) -> bytes:
    entries = [entry_of(record)] * 9
    return trends([("one", entries), ("two", entries[:1])], [[4], []])


@pytest.mark.parametrize(
    "draw",
    [
        lambda record, width: a_trend(record),
        lambda record, width: standing(beside_a_baseline(), width),
        lambda record, width: step_times(record, summarise(record), width),
        lambda record, width: distribution([[40.01, 40.02]] * 10, [[50.01, 50.02]] * 10, width),
        lambda record, width: draw_ranks(record, summarise(record), width),
        lambda record, width: phases(summarise(many_phases(record)), width),
        lambda record, width: schedule(piped(record, record.work.num_micro_batches), summarise(record), width),
        expert_load,
        lambda record, width: pairs_picture([1.0, 2.0, 3.0], 2.0, (1.0, 3.0), width),
    ],
    ids=["trend", "standing", "steps", "distribution", "ranks", "many phases", "schedule", "experts", "pairs"],
)
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_words_leave_the_picture_or_cover_others(draw, width: float, synthetic_record, figures) -> None:
    assert draw(synthetic_record(), width)
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    with rc_context({"text.hinting": "none"}):  # as drawn: of other letters some words are wider
        panels = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_title() or axes.get_title("left")]
    legends = [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in panels + legends:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    downwards = [box.y0 for box in panels] + [box.y0 for box in legends]
    tops = [box.y1 for box in panels] + [box.y1 for box in legends]
    assert downwards[-1] >= 0
    assert tops[0] <= figure.bbox.y1
    assert all(low >= top for low, top in zip(downwards[:-1], tops[1:], strict=True))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        label = axis.label.get_window_extent(renderer)
        assert not axis.label.get_text() or not label.count_overlaps(
            [tick.get_window_extent(renderer) for tick in axis.get_ticklabels()]
        )


def test_a_picture_follows_the_readers_scheme_and_knows_no_time(synthetic_record) -> None:
    record = synthetic_record()
    drawn, again = (draw_ranks(record, summarise(record)) for _ in range(2))
    assert drawn == again
    words = drawn.decode()
    root = ElementTree.fromstring(words)
    assert root.tag.endswith("svg")
    assert "stage 1" in {each.text for each in root.iter("{http://www.w3.org/2000/svg}text")}
    for light, dark in DARK.items():
        assert f'[style*="fill: {light}"]{{fill:{dark}!important}}' in words
    assert "matplotlib v" not in words.lower()
    assert not re.search(r"\d{4}-\d\d-\d\dT", words)


def test_a_colour_is_ours(synthetic_record) -> None:
    """A colour that no list of meanings has would be one that has two."""
    record = build(synthetic_record, 4)
    ours = {
        INK,
        ON_DARK,
        ON_PALE,
        MUTED,
        LINE,
        PAPER,
        MEASURED,
        BASELINE,
        COMMUNICATION,
        OTHER,
        *PHASE_COLOURS.values(),
    }
    for drawn in (
        draw_ranks(record, summarise(record)),
        phases(summarise(record)),
        schedule(record, summarise(record)) or b"",
        step_times(record, summarise(record)),
        distribution([[1.0, 1.1, 1.2]], [[1.0, 1.1, 1.2]]),
    ):
        inside = drawn.decode().split("</style>", 1)[1]
        assert set(re.findall('#[0-9a-f]{6}(?=[;"])', inside)) <= {*ours, "#ffffff"}
