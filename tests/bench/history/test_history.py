"""The history of runs: what is kept, what is refused, that two may write at once, and where its level changed."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from bench.commands.app import app
from bench.history import store as history
from bench.history import words as history_words
from bench.history.change_points import change_points
from bench.history.store import Entry, append, entry_of, read
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.pictures.trends import trends
from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[3]
ENTRIES = 40


def run_of(seed: int, seconds: float = 39.8, commit: str = "0" * 40, **changes: Any) -> Record:
    created = f"2025-01-{1 + seed // 24:02d}T{seed % 24:02d}:00:00Z"
    made: dict[str, Any] = {"created_at": created, "commit": {"sha": commit, "dirty": False}} | changes
    return build_synthetic_record(steps=8, seed=seed, median_seconds=seconds, **made)


def series(seconds: list[float], commits: list[str] | None = None) -> list[Entry]:
    base = entry_of(run_of(0))
    return [
        base.model_copy(
            update={
                "record_id": f"{number:032x}",
                "created_at": f"2025-01-{1 + number // 24:02d}T{number % 24:02d}:00:00Z",
                "step_seconds": value,
                "commit": base.commit.model_copy(update={"sha": commits[number] if commits else "0" * 40}),
            }
        )
        for number, value in enumerate(seconds)
    ]


def write(path: Path, entries: list[Entry]) -> None:
    path.write_text("".join(entry.model_dump_json(by_alias=True) + "\n" for entry in entries))


def test_runs_that_stay_out_are_told_apart(tmp_path: Path) -> None:
    """Those that were made slower on purpose were counted as there already, and a file that is not there was named."""
    file = tmp_path / "history.jsonl"
    planted = [run_of(seed, planted_percent=50.0) for seed in (1, 2)]
    assert append(file, planted) == 0
    assert history_words.appended(file, 0) == (
        "history: nothing was added; void runs, and those that were made slower on purpose, stay out"
    )
    for record in (run_of(0), *planted):
        record.write(tmp_path / "records" / f"{record.id}.json")
    told = ask("add", tmp_path / "records", "--history", file)
    assert told == f"added 1 of 3 records to {file} (0 void, 0 there already, 2 made slower on purpose)\n"
    assert history_words.appended(file, 1).startswith(
        f"history: {file} (1 more run; python -m bench history check --history "
    )


def ask(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["history", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


# ---- the file --------------------------------------------------------------------------------------------


def test_a_run_is_kept_once_with_its_figures_and_its_verdict(tmp_path: Path) -> None:
    file = tmp_path / "new" / "history.jsonl"
    first, second = run_of(0), run_of(1)
    assert append(file, [first], {"grok1-40b": "pass"}) == 1
    before = file.read_bytes()
    assert append(file, [second, first, second]) == 1
    assert file.read_bytes().startswith(before)
    one, two = read(file)
    assert (one.record_id, one.state, two.record_id, two.state) == (first.id, "pass", second.id, None)
    assert one == entry_of(first, "pass")
    assert one.key == two.key
    assert one.step_seconds == pytest.approx(39.8, rel=0.02)
    assert {"peak_bytes", "mean_step_seconds", "skew_seconds", "phase_seconds.forward"} <= one.figures.keys()
    assert not [name for name in one.figures if name.startswith("collective")]


def test_a_planted_slowdown_is_left_out(tmp_path: Path) -> None:
    assert append(tmp_path / history.FILE_NAME, [build_synthetic_record(planted_percent=50.0)]) == 0


def test_a_void_run_is_left_out(tmp_path: Path) -> None:
    void = run_of(0).model_copy(update={"valid": False, "void_reasons": ["a rank died"]})
    assert append(tmp_path / "history.jsonl", [void]) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"hash": "ffffffffffff"}},
        {"device": {"name": "another"}},
        {"device": {"dtype": "fp32"}},
        {"layout": {"nodes": 1, "ranks_per_node": 16}},
    ],
)
def test_runs_of_another_recipe_layout_device_or_number_format_are_another_series(changes: dict) -> None:
    assert history.key_of(run_of(0, **changes)) != history.key_of(run_of(0))


def test_runs_are_read_in_the_order_of_time_however_it_is_written(tmp_path: Path) -> None:
    late, early = run_of(0, created_at="2025-01-02T00:00:00+00:00"), run_of(1, created_at="2025-01-01T23:00:00.500Z")
    append(tmp_path / "h", [late, early])
    assert [entry.record_id for entry in read(tmp_path / "h")] == [early.id, late.id]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda raw: raw[:-20], "line 3: is cut off"),
        (lambda raw: raw.replace(b"\n", b"\n\n", 1), "line 2: not a usable JSON file"),
        (lambda raw: raw + raw.splitlines(keepends=True)[0], "line 4: run 000"),
        (lambda raw: raw.replace(b'"step_seconds":', b'"step_seconds":-', 1), "line 1: step_seconds: Input should be"),
        (
            lambda raw: raw.replace(b'"schema":1', b'"schema":1,"schema":1', 1),
            "line 1: not a usable JSON file: the key",
        ),
        (lambda raw: raw.replace(b"Z", b"X", 1), "line 1: created_at: is not an ISO 8601 time"),
        (lambda raw: raw + b"\xff\n", "line 4: not a usable JSON file"),
        (lambda raw: raw + b" " * history.MAX_LINE_BYTES + b"\n", "line 4: is longer than"),
    ],
)
def test_a_damaged_line_is_refused_by_its_number_with_the_remedy_which_works(tmp_path: Path, damage, complaint) -> None:
    file = tmp_path / "it's mine; $HOME" / "history.jsonl"
    append(file, [run_of(seed) for seed in range(3)])
    file.write_bytes(damage(file.read_bytes()))
    for refused in (lambda: read(file), lambda: append(file, [run_of(9)])):
        with pytest.raises(ValueError, match=re.escape(f"{file}: {complaint}")) as raised:
            refused()
        assert str(raised.value).isprintable()
    remedy = re.search(r"\((sed .*)\)", str(raised.value))
    assert remedy
    subprocess.run(remedy[1], shell=True, check=True)
    assert append(file, [run_of(seed) for seed in range(3)]) <= 1
    assert len(read(file)) == 3


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, [run_of(0)])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert append(file, [run_of(0), run_of(1)]) == 1
    assert len(read(file)) == 2


def test_a_history_in_another_encoding_is_named_and_no_run_of_it_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, [run_of(0)])
    file.write_bytes(file.read_text().encode("utf-16"))
    for refused in (lambda: read(file), lambda: append(file, [run_of(1)])):
        with pytest.raises(ValueError, match=r"history\.jsonl: is text in UTF-16: save it as UTF-8") as raised:
            refused()
        assert "sed" not in str(raised.value)


def test_the_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "history.jsonl"
    append(file, [run_of(0)])
    with monkeypatch.context() as patched:
        patched.setattr(history, "MAX_RUNS", 2)
        with pytest.raises(ValueError, match="full: at most 2 runs .* move it away"):
            append(file, [run_of(1), run_of(2)])
    monkeypatch.setattr(history, "MAX_HISTORY_BYTES", file.stat().st_size + 10)
    with pytest.raises(ValueError, match="full: "):
        append(file, [run_of(1)])
    assert len(read(file)) == 1


def test_a_disk_that_is_full_leaves_no_half_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "history.jsonl"
    append(file, [run_of(0)])
    before = file.read_bytes()

    class Half:
        """Writes what fits, as a raw stream does, and then says why no more does."""

        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def write(self, content):
            if os.fstat(self.stream.fileno()).st_size > len(before):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(content[:100])

    plain_open = os.fdopen
    monkeypatch.setattr("bench.records.jsonfile.os.fdopen", lambda *args, **more: Half(plain_open(*args, **more)))
    with pytest.raises(ValueError, match=r"No space left on device; it needs \d+ bytes, [\d,]+ are free in "):
        append(file, [run_of(1)])
    assert file.read_bytes() == before


def test_a_lock_that_is_never_let_go_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.records.lock.LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / "h.lock"), pytest.raises(ValueError, match="locked by another process"):
        append(tmp_path / "h", [run_of(0)])


_APPENDER = """
import sys, time
from pathlib import Path
from typing import Any
from bench.history import store as history
from bench.synthetic import build_synthetic_record
file, start = Path(sys.argv[1]), Path(sys.argv[1] + ".start")
records = [build_synthetic_record(steps=6, seed=seed) for seed in map(int, sys.argv[2].split(","))]
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
for record in records:
    history.append(file, [record])
"""


def test_processes_that_append_at_once_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Each has runs of its own, and some that another has too."""
    file = tmp_path / "history.jsonl"
    seeds = [list(range(25)), list(range(15, 40))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _APPENDER, str(file), ",".join(map(str, part))], cwd=HOUSE, stdout=subprocess.PIPE
        )
        for part in seeds
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    file.with_name(file.name + ".start").touch()
    assert [process.wait(HANG_SECONDS) for process in processes] == [0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert sorted(int(entry.record_id, 16) for entry in read(file)) == list(range(ENTRIES))


# ---- change points ---------------------------------------------------------------------------------------


def test_a_slowdown_is_found_between_its_commits_with_its_size() -> None:
    random = np.random.default_rng(1)
    seconds = np.concatenate([random.normal(2.0, 0.02, 15), random.normal(2.2, 0.02, 10)])
    entries = series(seconds.tolist(), ["a" * 40] * 15 + ["b" * 40] * 10)
    (change,) = change_points(entries)
    assert (change.at, change.runs, change.sureness) == (15, (15, 10), "sure")
    assert change.percent == pytest.approx(10, abs=1.5)
    assert change.agreement > 0.99


def test_a_level_is_measured_by_its_nearest_runs() -> None:
    """The first level creeps from 2.0 to 2.1; where the second begins, it is 2.1."""
    seconds = [*np.linspace(2.0, 2.1, 120), *[2.2 + 0.001 * (run % 2) for run in range(50)]]
    last = change_points(series(seconds))[-1]
    assert last.at == 120
    assert last.before_seconds == pytest.approx(np.median(seconds[90:120]))


@pytest.mark.parametrize("count", [1, 5, 6, 7])
def test_few_runs_and_runs_that_never_vary_have_no_change(count: int) -> None:
    assert not change_points(series([2.0] * count))
    assert not change_points(series([2.0 + 0.1 * (number % 2) for number in range(count)]))


def test_levels_that_come_with_the_days_are_none() -> None:
    """Eight runs a day, and each day its own level; the same runs, a day each, are changes of level."""
    random = np.random.default_rng(8)
    levels = np.repeat(random.normal(0, 0.02, 12), 8)
    entries = series((2.0 * np.exp(levels + random.normal(0, 0.004, 96))).tolist())
    days = [f"2025-01-{1 + number // 8:02d}T{number % 8:02d}:00:00Z" for number in range(96)]
    assert change_points(entries)
    assert not change_points(
        [entry.model_copy(update={"created_at": day}) for entry, day in zip(entries, days, strict=True)]
    )


# ---- the commands ----------------------------------------------------------------------------------------


def test_records_are_added_shown_and_checked(tmp_path: Path) -> None:
    folder, file = tmp_path / "records", tmp_path / "history.jsonl"
    for seed in range(16):
        commit = ("a" if seed < 8 else "b") * 40
        run_of(seed, 39.8 * (1.0 if seed < 8 else 1.2), commit).write(folder / f"{seed:02d}.json")
    assert "added 16 of 16" in ask("add", folder, "--history", file)
    assert "added 0 of 16 records" in ask("add", folder, "--history", file)
    shown = ask("show", "--history", file)
    assert "grok1-40b on Ascend910B-synthetic" in shown
    assert shown.count("aaaaaaaaaaaa") == 8
    picture = tmp_path / "trend.png"
    checked = ask("check", "--history", file, "--case", "grok1-40b", "--plot", picture)
    assert re.search(
        r"\+(19|20|21)\.\d % \(.*8 and 8 runs; sure: 100 % of the pairs of runs agree\).* after commit a{12}, by b{12}",
        checked,
    )
    assert "This only reports, so the exit code is always 0" in checked
    assert picture.read_bytes().startswith(b"\x89PNG")
    ask("check", "--history", file, "--plot", tmp_path / "trend.svg")
    assert b"<svg" in (tmp_path / "trend.svg").read_bytes()
    refused = CliRunner().invoke(app, ["history", "check", "--history", str(file), "--plot", str(tmp_path / "t.txt")])
    assert "t.txt: a picture is a .png or .svg file; give a name that ends so" in str(refused.exception)


def test_the_files_hold_what_is_shown(tmp_path: Path) -> None:
    folder, file, path = tmp_path / "records", tmp_path / "history.jsonl", tmp_path / "found.json"

    def told(*words: object) -> dict[str, Any]:
        ask(*words, "--history", file, "--json", path)
        return json.loads(path.read_text())

    for seed in range(16):
        run_of(seed, 39.8 * (1.0 if seed < 8 else 1.2), ("a" if seed < 8 else "b") * 40).write(folder / f"{seed}.json")
    added = told("add", folder)
    assert added == {"schema": 1, "file": str(file), "records": 16, "added": 16, "void": 0, "planted": 0}
    (shown,) = told("show")["series"]
    assert (shown["case"], shown["device_name"], len(shown["runs"])) == ("grok1-40b", "Ascend910B-synthetic", 16)
    (checked,) = told("check")["series"]
    (change,) = checked["changes"]
    assert (change["after_commit"], change["by_commit"]) == ("a" * 40, "b" * 40)


def test_what_was_gained_and_is_lost_again_is_warned_of(tmp_path: Path) -> None:
    file, random = tmp_path / "history.jsonl", np.random.default_rng(4)
    levels = [2.0] * 20 + [1.84] * 20 + [1.932] * 12
    commits = ["a" * 40] * 20 + ["b" * 40] * 20 + ["c" * 40] * 12
    write(file, series((np.array(levels) * random.normal(1, 0.004, 52)).tolist(), commits))
    told = ask("check", "--history", file)
    assert "52 runs, 2 changes" in told
    assert re.search(
        r"  warning: gained (7|8)\.\d % by b{12}, lost (4|5)\.\d % again, beginning by c{12}: now 1\.9\d* s a step, "
        r"12 runs; the best level was 1\.8\d* s a step, 20 runs from 2025-01-01T20:00:00Z\n",
        told,
    )


def test_a_history_at_its_best_level_is_not_warned_of(tmp_path: Path) -> None:
    file, random = tmp_path / "history.jsonl", np.random.default_rng(4)
    write(file, series((np.repeat([2.0, 1.84], 20) * random.normal(1, 0.004, 40)).tolist()))
    told = ask("check", "--history", file)
    assert "40 runs, 1 change of" in told
    assert "warning" not in told


def test_the_monitors_own_errors_are_measured() -> None:
    told = ask("selftest", "--trials", "2")
    assert re.search(r"^all +\d+ +\d+ +\d+ +\d+", told, re.MULTILINE)
    assert "60 nights after 30" in told


def test_a_change_within_one_commit_is_the_machines(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    random = np.random.default_rng(3)
    write(file, series([*random.normal(2.0, 0.01, 10), *random.normal(3.0, 0.01, 10)]))
    assert "within commit 000000000000: the code did not change, so look at the machine" in ask(
        "check", "--history", file
    )


def test_a_tree_that_was_changed_may_be_the_code(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    random = np.random.default_rng(3)
    entries = series([*random.normal(2.0, 0.01, 10), *random.normal(3.0, 0.01, 10)])
    dirty = entries[0].commit.model_copy(update={"dirty": True})
    write(file, [entry.model_copy(update={"commit": dirty}) for entry in entries])
    assert "after commit 000000000000+, by 000000000000+" in ask("check", "--history", file)


@pytest.mark.parametrize(
    ("are_dirty", "before", "after", "told"),
    [
        ((True, True), "1", "1", "within commit 000000000000+: the code did not change"),
        ((False, True), "1", "1", "within commit 000000000000+: the code did not change"),  # edits of what did not run
        ((False, True), "", "", "after commit 000000000000, by 000000000000+"),
        ((True, True), "1", "2", "after commit 000000000000+, by 000000000000+"),
        ((False, False), "1", "2", "after commit 000000000000, by 000000000000"),  # an edited megatron
    ],
)
def test_the_sources_say_whether_the_code_changed(
    are_dirty: tuple[bool, bool], before: str, after: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "history.jsonl"
    random = np.random.default_rng(3)
    entries = series([*random.normal(2.0, 0.01, 10), *random.normal(3.0, 0.01, 10)])
    sides = [
        {
            "commit": entries[0].commit.model_copy(update={"dirty": is_dirty}),
            "code_digests": {"grok1": letter * 64} if letter else {},
        }
        for is_dirty, letter in zip(are_dirty, (before, after), strict=True)
    ]
    write(file, [entry.model_copy(update=sides[place >= 10]) for place, entry in enumerate(entries)])
    assert told in ask("check", "--history", file)


def test_too_few_runs_and_an_unknown_case_are_said(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, [run_of(0)])
    assert "1 run is too few to find a change; at least 6 are needed" in ask("check", "--history", file)
    refused = CliRunner().invoke(app, ["history", "show", "--case", "other", "--history", str(file)])
    assert "no runs of other; it holds grok1-40b" in str(refused.exception)


def test_a_name_that_writes_to_the_terminal_is_shown_plainly(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    write(
        file, [entry.model_copy(update={"case": "\x1b[31mred", "device_name": "$x$\n"}) for entry in series([2.0] * 7)]
    )
    for words in (["show"], ["check", "--plot", tmp_path / "x.png"]):
        assert "\x1b" not in ask(*words, "--history", file)


def test_a_trend_of_many_commits_and_of_one_run_is_drawn() -> None:
    many = series([2.0 + 0.01 * (number % 3) for number in range(60)], [f"{number:040x}" for number in range(60)])
    assert trends([("many", many), ("one", many[:1])], [[20, 40], []]).startswith(b"\x89PNG")
