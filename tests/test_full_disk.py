"""What the commands say where the system lets them write nothing, or where a name would steer the terminal."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.history.store import append, read, series_of
from bench.records import jsonfile
from bench.synthetic import build_synthetic_record
from grok1 import files
from reports.document import write_report
from reports.history.build import site_of, write_site
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "x\x1b[31m\u202e\x07y"
FULL = Path("/dev/full")  # Linux: every write to it meets a full disk

Write = Callable[[Path, bytes], None]
WRITERS = pytest.mark.parametrize("write", [files.write_bytes, jsonfile.write_atomically])
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def run_module(*words: object, limit: int | None = None, cwd: Path = ROOT) -> tuple[int, str, str]:
    """(exit code, output, errors); with `limit` no file may hold more bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=limited,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    build_synthetic_record(steps=7).write(tmp_path / "records" / "one.json")
    (tmp_path / "baselines").mkdir()
    return tmp_path / "records"


@WRITERS
def test_a_full_disk_is_one_line_and_the_old_content_stays(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file", b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ValueError, match=r"file:? cannot be written: No space left on device; it needs 1,234 bytes, [\d,]+ .*free"
    ):
        write(tmp_path / "file", b"x" * 1234)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@WRITERS
def test_a_file_in_place_of_a_folder_is_one_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/below:? cannot be written: (Not a directory|.*/file is no folder)"):
        write(tmp_path / "file" / "below", b"x")


@WRITERS
def test_what_is_no_regular_file_is_written_to_and_not_replaced(write: Write, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_report_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.md").write_text("old")
    written: list[Path] = []
    plain = jsonfile.write_atomically

    def third_fails(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 3:
            raise ValueError(f"{path}: cannot be written: No space left on device")
        plain(path, content)

    monkeypatch.setattr("reports.document.write_atomically", third_fails)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/report/plot-1-\w+\.svg: cannot be written"):
        write_report([build_synthetic_record(steps=7)], [], tmp_path / "report")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.md"]
    assert (tmp_path / "report" / "report.md").read_text() == "old"


@pytest.mark.parametrize("name", ["report.md", "report.html", "comment.md"])
def test_a_folder_in_place_of_a_file_leaves_the_whole_report_of_before(name: str, tmp_path: Path) -> None:
    output = tmp_path / "report"
    (output / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"report/{name}: is a folder, where a file is to be written; move it"):
        write_report([build_synthetic_record(steps=7)], [], output)
    assert list(output.iterdir()) == [output / name]


@pytest.mark.parametrize("is_index", [True, False])
def test_a_folder_in_place_of_a_page_leaves_the_whole_site_of_before(is_index: bool, tmp_path: Path) -> None:
    append(tmp_path / "history.jsonl", [build_synthetic_record(steps=7)])
    found = series_of(read(tmp_path / "history.jsonl"), None, "machine")
    names = sorted(site_of(found, lambda entry: None), key=lambda name: name == "index.html")
    (tmp_path / "site" / names[-1 if is_index else 0]).mkdir(parents=True)
    with pytest.raises(ValueError, match="is a folder, where a file is to be written"):
        write_site(found, tmp_path / "site", tmp_path)
    assert len(list((tmp_path / "site").iterdir())) == 1


def test_a_history_that_cannot_begin_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="it needs"):
        append(tmp_path / "history.jsonl", [build_synthetic_record(steps=7)])
    assert not (tmp_path / "history.jsonl").exists()


@needs_full
def test_commands_meet_a_full_disk_in_one_line(records: Path) -> None:
    baselines = ("--baselines", records.parent / "baselines")
    for words in (
        ("bench", "gate", records, *baselines, "--json", FULL),
        ("bench", "gate", records, *baselines, "--junitxml", FULL),
        ("reports", records, *baselines, "-o", records.parent / "report", "--step-summary", FULL),
    ):
        code, _, errors = run_module(*words)
        assert code == 2, errors
        assert errors.count("\n") == 1, errors
        assert "/dev/full: cannot be written: No space left on device; it needs " in errors
    assert FULL.is_char_device()


PRINTING = (
    ("grok1", "recipes"),
    ("bench", "gate", "records/one.json"),
    ("reports", "records/one.json", "-o", "report"),
    ("bench", "baseline", "--help"),
    ("reports", "--version"),
)


def end_with(words: tuple[str, ...], stdout: int | None, folder: Path) -> tuple[int, str]:
    """(exit code, errors) of a program with this standard output; without one it is closed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=None if stdout is not None else lambda: os.close(1),
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.returncode, done.stderr


@needs_full
@pytest.mark.matrix(keep=3)
@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_output_that_is_full_closed_or_unread_is_no_verdict(
    unbuffered: str, words: tuple[str, ...], records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is written at once, or when the command ends."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    folder, name = records.parent, words[0]
    with FULL.open("w") as full:
        assert end_with(words, full.fileno(), folder) == (2, f"{name}: its output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert end_with(words, writer, folder) == (141, "")
    finally:
        os.close(writer)
    code, errors = end_with(words, None, folder)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert errors.startswith(f"{name}: its output is closed")


@needs_full
def test_a_refusal_that_nobody_reads_is_its_exit_code(records: Path) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "gate", "nowhere.json"],
            stderr=full,
            cwd=ROOT,
            timeout=HANG_SECONDS,
            check=False,
        )
    assert done.returncode == 2


def test_a_limit_on_the_size_of_files_is_named(records: Path) -> None:
    code, _, errors = run_module("bench", "history", "add", records, "--history", records / "h.jsonl", limit=10)
    assert code == 2, errors
    assert "File too large; it needs" in errors
    assert "ulimit -f" in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_hostile_names_are_shown_as_plain_text(records: Path, tmp_path: Path) -> None:
    """Names of files come from strangers too: out of an archive, or by a glob."""
    name = tmp_path / HOSTILE
    name.mkdir()
    for suffix in (".json", ".toml", ".log", ".jsonl"):
        (name / f"{HOSTILE}{suffix}").write_text('{"x": \x1b')
    undecodable = os.fsdecode(os.fsencode(name) + b"\xff\x1b[31m")
    baselines = ("--baselines", records.parent / "baselines")
    for words in (
        ("bench", "gate", name, *baselines),
        ("bench", "ingest", name / f"{HOSTILE}.log", "--case", HOSTILE),
        ("bench", "history", "add", records, "--history", name / "history.jsonl"),
        ("bench", "history", "show", "--history", name / f"{HOSTILE}.jsonl"),
        ("bench", "baseline", "show", HOSTILE, *baselines),
        ("bench", "baseline", "record", *[records] * 2, "-o", undecodable),
        ("bench", f"--{HOSTILE}"),
        ("reports", name, "-o", tmp_path / "report", *baselines),
        ("reports", records, "-o", undecodable, *baselines),
        ("reports", f"--{HOSTILE}"),
        ("grok1", "recipes", name / f"{HOSTILE}.toml"),
        ("grok1", "recipes", "grok1-nano", "--set", f"model.{HOSTILE}=1"),
        ("grok1", HOSTILE),
    ):
        code, output, errors = run_module(*words)
        odd = {char for char in output + errors if not char.isprintable() and char != "\n"}
        assert not odd, (words, odd)
        assert code in (0, 2), (words, errors)
        assert "Traceback" not in errors
