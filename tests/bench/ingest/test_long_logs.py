"""Long logs and long lines: only the lines that matter are looked at, in time that grows with their length."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.commands import ingest
from bench.ingest import blocks, read
from bench.ingest.job import Log
from bench.ingest.read import read_logs
from bench.ingest.values import printable
from tests.bench.ingest import speed
from tests.bench.ingest.logs import Write, dump, line, lines

WORDS = blocks.words_of("")
MOST_CPU_SECONDS = 60.0  # all take about two; one pattern that is quadratic takes minutes


def worth(content: bytes, size: int) -> tuple[list[tuple[int, bytes, bool]], int, int, str]:
    """What the search in blocks of `size` bytes finds."""
    digest = hashlib.sha256()
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK", size)
        patch.setattr(blocks, "MAX_LINE_BYTES", 60)
        reader = blocks.Blocks(io.BytesIO(content), digest, told.append, lambda: WORDS)
        found = [(each.number, each.raw, each.ended) for each in reader.worth_a_look()]
    assert sum(told) == len(content)
    return found, reader.too_long, reader.lines, digest.hexdigest()


def plainly(content: bytes) -> tuple[list[tuple[int, bytes, bool]], int, int, str]:
    """The same, line by line."""
    rows = re.split(rb"\r\n|\r|\n", content)
    last = rows.pop()
    found, too_long = [], 0
    for number, (row, ended) in enumerate([*((row, True) for row in rows), (last, False)], 1):
        if len(row) > 60:
            too_long += 1
        elif any(word in row if isinstance(word, bytes) else word.search(row) for word in WORDS):
            found.append((number, row, ended))
    return found, too_long, len(rows) + bool(last), hashlib.sha256(content).hexdigest()


ROWS = [
    b"\n", b"\r", b"\r\n", b"iteration 5/", b"iteration:  7 |", b"step: 8 ", b"iteration speed", b"x" * 30, b"y" * 50,
    b"kipping step", b"using world size", b" memory (", b".......... ", b"step_timing in s", b"iteration \n 5",
    b"step:\r6",
]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(ROWS), max_size=40), st.integers(1, 200))
def test_the_search_in_blocks_finds_what_a_look_at_every_line_finds(parts: list[bytes], size: int) -> None:
    content = b"".join(parts)
    assert worth(content, size) == plainly(content)


def filled(head: str, unit: str, tail: str) -> str:
    """A line of nearly 64 KiB."""
    return head + unit * ((65_000 - len(head) - len(tail)) // len(unit)) + tail


# Heads make the line worth a look; each unit makes some pattern begin, or go on, at many places.
# fmt: off
HEADS = (
    "step: 1 loss: 2 tps: 3 ", "iteration 5/ 9 | ", "train_step_timing in s=1 ", " memory (MB) | ",
    "using world size: ", "seq_length ........... ", "GPU capacity: ",
)
UNITS = (
    "a", "_", " ", "|", "1", "1,", ".", "[", "\x1b[1;", "[1;", "a:", "a: ", "| 1/1 [", "| 1/1 [a", "lr=", "lr=1",
    ",lr=",
    "step: 1 ", "step: 1 loss: ", "iteration ", "iteration 1/", "iteration 1/1 | ", "a ........... ", "a .......... b ",
    "GPU capacity: ", " with 1", " (1) with 1", "memory (MB) | allocated: ", "max allocated: ", "max allocated: 1 |",
    "size: 1", "tensor-model-parallel ", "data-parallel size: 1, ", "context-parallel size: ", "skipped=1, ",
    "[Rank 0] step=1", "MaxMemAllocated=1", "Max_MA 1", "-", "\x00", "train_step_timing in s=", "local batch size 1, ",
    "dummy tokens ", "\u202e", "elapsed time per iteration (ms): ", " : ",
)
# fmt: on


def understand(row: str) -> None:
    """All that is done with one line, in a file of its own."""
    with contextlib.suppress(ValueError):
        for each in blocks.Blocks(
            io.BytesIO(row.encode()), hashlib.sha256(), lambda _: None, lambda: WORDS
        ).worth_a_look():
            read._understand(Log(), printable(read._COLOURS.sub("", each.raw.decode())), "a line", each.ended)


def test_no_long_line_keeps_it_busy() -> None:
    started = time.process_time()
    for head in HEADS:
        for unit in UNITS:
            understand(filled(head, unit, "!"))
    assert time.process_time() - started < MOST_CPU_SECONDS


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HEADS), st.lists(st.sampled_from([*UNITS, *"=:[]|,"]), min_size=1, max_size=4))
def test_no_mixture_keeps_it_busy(head: str, units: list[str]) -> None:
    started = time.process_time()
    understand(filled(head, "".join(units), ""))
    assert time.process_time() - started < MOST_CPU_SECONDS


def test_a_log_without_a_job_is_read_to_its_end(write: Write) -> None:
    rows = (
        "rank 3 says something of no interest about iteration speed, at great length, as some jobs do ......\n" * 50_000
    )
    log = read_logs([write(rows + line(1) + "\n" + rows + "an end")])
    assert log.lines == 100_002
    assert [sample.step for sample in log.samples()] == [0]


def test_the_log_whose_speed_is_measured_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    count = speed.write_long_log(path, 0.2)
    assert [sample.step for sample in read_logs([path]).samples()] == list(range(count))
    assert len(speed.speeds(path, 2)[0]) == 2


@pytest.mark.parametrize(
    ("is_terminal", "quiet_bytes", "shows"), [(True, 10, True), (True, 10**9, False), (False, 10, False)]
)
def test_a_long_log_shows_its_progress_on_a_terminal_only(
    write: Write, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, quiet_bytes: int, shows: bool
) -> None:
    monkeypatch.setattr(ingest, "_QUIET_BYTES", quiet_bytes)
    screen = io.StringIO()
    path = write(dump() + lines(1, 2))
    with ingest.reading([path], Console(file=screen, force_terminal=is_terminal, width=100)) as advanced:
        read_logs([path], 0, advanced)
    assert ("reading" in screen.getvalue()) is shows
    assert shows or screen.getvalue() == ""
    if shows:
        assert "100%" in screen.getvalue() or "kB" in screen.getvalue()


def test_progress_of_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    with ingest.reading([tmp_path / "gone.log"]) as advanced:
        advanced(1)
