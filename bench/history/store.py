"""What runs measured over time: one line of JSON a run, appended by every benchmark session, never rewritten.

A line is a run's figures with what they belong to: case, key, device and commit. It is for looking back (`python -m
bench history`); records and baselines stay the evidence that a gate judges.
"""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.judge.metrics import STEP, metric_of, stored_figures_of
from bench.judge.rule import VerdictState
from bench.judge.stats import summarise
from bench.records.fields import Figure, HexId, Name, Strict, Text, UtcTime, utc_moment
from bench.records.jsonfile import append_whole, cannot_write, parse_model, read_bounded
from bench.records.lock import only_writer
from bench.records.record import CodeDigests, Commit, Record, Session
from bench.records.text import without_mark

MAX_HISTORY_BYTES = 64 << 20
MAX_LINE_BYTES = 256 << 10
MAX_FIGURES = 100
MAX_RUNS = 50_000
FILE_NAME = "history.jsonl"

Apart = Literal["machine", "device"]  # what two runs that are compared over time must share
PositiveFigure = Annotated[float, Field(gt=0, le=1e30)]


class Entry(Strict):
    """One run: its judged figures (bench.judge.metrics) and tokens/s/p. Runs of one case and `key` may be compared."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    record_id: HexId
    created_at: UtcTime
    case: Name
    key: HexId
    device_name: Name
    commit: Commit
    step_seconds: PositiveFigure
    tokens_per_second_per_processor: PositiveFigure
    figures: Annotated[dict[Name, Figure], Field(max_length=MAX_FIGURES)]
    state: VerdictState | None = None  # of its verdict, where it was judged
    session: Session | None = None  # null: of a record, or in a line, from before they said so
    software: Annotated[
        dict[Name, Text], Field(max_length=100)
    ] = {}  # versions; empty in a line from before they were kept
    code_digests: CodeDigests = {}


def key_of(record: Record) -> str:
    """What must be equal for two runs to be compared over time: recipe, layout, device and number format."""
    parts = (record.recipe.hash, record.layout.model_dump_json(), record.device.kind, record.device.name)
    tier = () if record.lone_rank is None else (record.lone_rank.told,)
    return hashlib.sha256("\n".join((*parts, record.device.dtype, *tier)).encode()).hexdigest()[:16]


def entry_of(record: Record, state: VerdictState | None = None) -> Entry:
    """The line of a valid record."""
    summary = summarise(record)
    figures = {name: value for name, value in stored_figures_of(summary).items() if name != STEP and metric_of(name)}
    return Entry(
        record_id=record.id,
        created_at=record.created_at,
        case=record.case,
        key=key_of(record),
        device_name=record.device.name,
        commit=record.commit,
        step_seconds=summary.median_step_seconds,
        tokens_per_second_per_processor=summary.tokens_per_second_per_processor,
        figures=dict(itertools.islice(figures.items(), MAX_FIGURES)),
        state=state,
        session=record.session,
        software=record.software,
        code_digests=record.code_digests,
    )


def append(path: Path, records: Iterable[Record], states: Mapping[str, VerdictState] | None = None) -> int:
    """Add the valid records that are not in it yet, `states` by case; how many were new. Planted slowdowns stay out.

    Several processes may append at once: each holds a lock, and writes its lines in one piece.

    Raises:
        ValueError: the history is damaged, full, or locked by a process that does not let go.
    """
    wanted = {record.id: record for record in records if record.valid and not record.planted_percent}
    remedy = f"add the records with `python -m bench history add RECORDS --history {shlex.quote(str(path))}`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(path, Path(f"{path}.lock"), remedy):
            return _append_new(path, wanted, states or {})
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None


def _append_new(path: Path, wanted: Mapping[str, Record], states: Mapping[str, VerdictState]) -> int:
    known = {entry.record_id for entry in read(path)} if path.exists() else set()
    new = [entry_of(record, states.get(record.case)) for name, record in wanted.items() if name not in known]
    lines = "".join(entry.model_dump_json(by_alias=True) + "\n" for entry in new).encode()
    size = path.stat().st_size if path.exists() else 0
    if len(known) + len(new) > MAX_RUNS or size + len(lines) > MAX_HISTORY_BYTES:
        raise ValueError(
            f"{path}: full: at most {MAX_RUNS:,} runs and {MAX_HISTORY_BYTES >> 20} MiB; move it away to begin another"
        )
    if lines:
        try:
            append_whole(path, lines)
        except OSError as error:
            raise cannot_write(path, error, len(lines)) from None
    return len(new)


def read(path: Path) -> list[Entry]:
    """Every run in the order of time; a ValueError of one line names the damaged line and what to do about it."""
    found: dict[str, Entry] = {}
    raw = read_bounded(path, MAX_HISTORY_BYTES)
    try:
        raw = without_mark(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for number, line in enumerate(_lines(raw), 1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("is cut off")
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes")
            entry = parse_model(line, Entry)
            if entry.record_id in found:
                raise ValueError(f"run {entry.record_id} is there twice")
        except ValueError as error:
            remedy = f"remove it (sed -i.bak {number}d {shlex.quote(str(path))}) and add its record again"
            raise ValueError(f"{path}: line {number}: {error}; {remedy}") from None
        found[entry.record_id] = entry
        if number > MAX_RUNS:
            raise ValueError(f"{path}: more than {MAX_RUNS:,} runs; move it away to begin another")
    return sorted(found.values(), key=lambda entry: utc_moment(entry.created_at))


def _lines(raw: bytes) -> Iterator[bytes]:
    """Split at line feeds alone, unlike splitlines; each with its own."""
    start = 0
    while start < len(raw):
        end = raw.find(b"\n", start) + 1 or len(raw)
        yield raw[start:end]
        start = end


def series_of(entries: Sequence[Entry], case: str | None = None, apart: Apart = "device") -> list[list[Entry]]:
    """The runs that may be compared over time, together, in the order of time; of one case, or of all.

    `apart`: "machine" tells machines with the same device apart too; those that do not say are one.
    """
    series: dict[tuple[str, str, str | None], list[Entry]] = {}
    for entry in entries:
        if case in (None, entry.case):
            machine = machine_of(entry) if apart == "machine" else None
            series.setdefault((entry.case, entry.key, machine), []).append(entry)
    return list(series.values())


def machine_of(entry: Entry) -> str | None:
    """The digest of the machine that ran it, where the entry says."""
    return None if entry.session is None else entry.session.machine
