"""The page of an A/B comparison: the answer, then the pairs, both sides' figures, what moved, and where they ran."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.ab.outcome import METRIC_HEADERS, MetricRow, Outcome, Pair
from bench.ab.sequential import order
from bench.judge.attribution import attribute
from bench.judge.metrics import STEP, figures_of
from bench.judge.stats import summarise
from bench.records.files import names_by_run
from bench.records.jsonfile import write_atomically
from bench.records.record import Record
from reports.case import Measured
from reports.formats import percent, rate_unit, seconds_unit
from reports.markdown import SENTENCE, details, state_cell, table, text
from reports.page import page
from reports.picture import NARROW, WIDE
from reports.pictures.pairs import pairs_picture
from reports.tables import comparison
from reports.tables.sides import Side, facts_of, what_differs, what_is_equal

_PICTURE = "plot-1-pairs.svg"


def read_pairs(outcome: Outcome, results: Path) -> list[Pair]:
    """The records of a comparison, from where its runs left them; a pair that was not finished is none.

    Raises:
        ValueError: a record is gone, or cannot be read.
    """
    sides = []
    for side in (outcome.base, outcome.head):
        folder = results / side.name / "records"
        names = names_by_run(folder)
        sides.append([Record.read(folder / names.get(each, f"{each}.json")) for each in side.records])
    return list(zip(*sides, strict=False))


def write_page(outcome: Outcome, pairs: Sequence[Pair], path: Path) -> None:
    """Write the page of a comparison to a file, with its picture inside.

    Raises:
        ValueError: the file cannot be written.
    """
    row = next((each for each in outcome.metrics if each.name == STEP), None)
    with tempfile.TemporaryDirectory() as folder:
        narrow = Path(folder) / "narrow"
        narrow.mkdir()
        if row is not None and pairs:
            interval = (row.low_percent, row.high_percent)
            for place, width in ((Path(folder), WIDE), (narrow, NARROW)):
                drawn = pairs_picture(_changes(pairs), row.change_percent, interval, width)
                write_atomically(place / _PICTURE, drawn)
        markdown = as_markdown(outcome, pairs)
        content = page(markdown, Path(folder), text(outcome.headline), outcome.state, narrow)
        write_atomically(path, content.encode())


def as_markdown(outcome: Outcome, pairs: Sequence[Pair]) -> str:
    """The whole page but its frame."""
    parts = [f"# {text(outcome.headline)}", text(outcome.sentence, SENTENCE)]
    parts += [f"- {text(note)}" for note in outcome.notes]
    if pairs:
        parts += ["## Pairs", *([f"![Each pair]({_PICTURE})"] if outcome.metrics else []), _pairs(pairs)]
    if outcome.metrics:
        parts += ["## Both sides", _metrics(outcome.metrics), _how(outcome)]
    if outcome.metrics and pairs:
        before, after = ([figures_of(summarise(pair[place])) for pair in pairs] for place in (0, 1))
        parts.append("## Where the time went")
        if outcome.state not in ("fail", "improved"):
            parts.append("What moved is within the noise, or too little to matter.")
        parts.append(comparison.attribution(attribute(before, after)))
    parts += [outcome.ledger] if outcome.ledger else []
    parts += _environment(outcome, pairs)
    return "\n\n".join(parts) + "\n"


def _changes(pairs: Sequence[Pair]) -> list[float]:
    """Of the median step, in percent."""
    seconds = [[summarise(record).median_step_seconds for record in pair] for pair in pairs]
    return [100 * (head / base - 1) for base, head in seconds]


def _pairs(pairs: Sequence[Pair]) -> str:
    found = [[summarise(record) for record in pair] for pair in pairs]
    seconds = seconds_unit(side.median_step_seconds for pair in found for side in pair)
    rate = rate_unit(side.tokens_per_second_per_processor for pair in found for side in pair)
    rows = [
        [
            number + 1,
            order(number)[0],
            *(seconds.of(side.median_step_seconds) for side in sides),
            f"{change:+.1f} %",
            *(rate.of(side.tokens_per_second_per_processor) for side in sides),
            *(record.id[:8] for record in pair),
        ]
        for number, (pair, sides, change) in enumerate(zip(pairs, found, _changes(pairs), strict=True))
    ]
    step = seconds.per("step")
    headers = ["pair", "first", f"base {step}", f"head {step}", "change", "base tokens/s/p", "head tokens/s/p"]
    return table([*headers, "base run", "head run"], rows, numbers=range(2, 7))


def _metrics(rows: Sequence[MetricRow]) -> str:
    cells = [[*row.cells[:-1], state_cell(row.state)] for row in rows]
    return table(METRIC_HEADERS, cells, numbers=range(1, 6))


def _how(outcome: Outcome) -> str:
    stages = f"in {outcome.looks} stage{'s' * (outcome.looks > 1)}"
    return (
        f"Medians of {outcome.pairs} runs of each revision. A change is the mean over pairs, and + is more. Smallest "
        "visible: the smallest slowdown that so many pairs show with 95 % certainty. The chance that any metric fails "
        f"without cause is at most {percent(outcome.family_error)}, {stages}."
    )


def _environment(outcome: Outcome, pairs: Sequence[Pair]) -> list[str]:
    revisions = [
        [side.name, side.revision, f"{side.sha}{', with uncommitted changes' * side.changed}", len(side.records)]
        for side in (outcome.base, outcome.head)
    ]
    parts = ["## Environment", table(["side", "revision", "commit", "runs"], revisions, numbers=(3,))]
    if not pairs:
        return parts
    sides = [
        Side(revision.name, (Measured(record, summarise(record)),), facts_of(record))
        for revision, record in zip((outcome.base, outcome.head), pairs[-1], strict=True)
    ]
    load = [f"{record.host.load_average_1m:.2f}" for pair in pairs for record in pair if record.host is not None]
    told = [f"Load average before each run, in the order of pairs: {', '.join(load)}."] if load else []
    return [
        *parts,
        "What differs:",
        what_differs(sides),
        *told,
        details("The same on both sides", what_is_equal(sides)),
    ]
